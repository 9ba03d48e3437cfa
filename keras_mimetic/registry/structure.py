"""What `initialize` must know of a structure."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_mimetic.sites.graph import Graph
from keras_mimetic.sites.site import Site

# New values of a site's variables, by their role.
Weights = dict[str, np.ndarray]
Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Structure:
    """How one structure gets into a model.

    Attributes:
        settings: Its settings, with their defaults.
        check: Turns a dict of all settings into checked ones, or raises.
        find: Its sites in a traced model.
        named: Its site at a layer that a rule names, or `None` if it cannot go
            there.
        draw: Structured weights of a site, from the settings and a seed.
        control: Structureless weights of the same norms, from what `draw` gave
            and the same seed.
        describe: What was written to the weight of a role, in a few words.
    """

    settings: Settings
    check: Callable[[dict[str, Any]], dict[str, Any]]
    find: Callable[[Graph, list[Any], dict[int, str]], list[Site]]
    named: Callable[[Any, str], Site | None]
    draw: Callable[[Site, Settings, int], Weights]
    control: Callable[[Weights, int], Weights]
    describe: Callable[[Site, str, Settings], str]
