"""What `initialize`, `measure` and `mimic` must know of a structure."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mimetic._numerics.random import fold_in, sample
from keras_mimetic._patterns.site import Site
from keras_mimetic._tracing.graph import Graph

# A picture shows so many channels of a product, the first.
SHOWN = 64

# Values of a site's variables, by their role, and their shapes.
Weights = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
# A kind of figure: part, name, and whether it is about one head; and the mean and standard
# deviation that it has in fresh weights.
Kind = tuple[str, str, bool]
Expected = Mapping[Kind, tuple[float, float]]
Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a site.

    Attributes:
        part: What of the site it is about, such as `"first"` (matrix).
        name: Which figure, such as `"mean"`.
        value: The figure; NaN where it is not defined.
        head: Number of the attention head, where it is about one.
        has_null: Whether fresh weights of the same shapes, at whatever scale,
            give something to compare with.
    """

    part: str
    name: str
    value: float
    head: int | None = None
    has_null: bool = True

    @property
    def kind(self) -> Kind:
        return self.part, self.name, self.head is not None


@dataclasses.dataclass(frozen=True)
class Measured:
    """The figures of a site, and matrices to be looked at, by their part."""

    figures: tuple[Figure, ...]
    images: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the printed table: a figure, in a format.

    Of figures by head it shows the mean over heads and their range.
    """

    heading: str
    part: str
    name: str
    form: str = "+.3f"
    by_head: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel of the picture: a figure by place; `spread` names another, its error bars."""

    title: str
    unit: str
    part: str
    name: str
    by_head: bool = False
    spread: str = ""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the strengths of a structure are read from: a site and its figures.

    `values` has the figures by (part, name), a list for those of several heads;
    `fresh` has those of all draws of fresh weights, in the same way, where they are drawn.
    """

    site: Site
    values: Mapping[tuple[str, str], list[float]]
    fresh: Mapping[tuple[str, str], list[float]]


def normal_draws(shapes: Shapes, seed: int) -> Weights:
    """Independent normals of variance 1: fresh weights, for figures that know no scale."""
    return {
        role: sample("untruncated_normal", shape, fold_in(seed, number))
        for number, (role, shape) in enumerate(shapes.items())
    }


def of_same_norms(noise: Weights, weights: Weights) -> Weights:
    """Noise with the Frobenius norms that weights of the same roles have."""
    return {
        role: values * np.float32(np.linalg.norm(weights[role]) / np.linalg.norm(values))
        for role, values in noise.items()
    }


@dataclasses.dataclass(frozen=True)
class Structure:
    """How one structure gets into a model, and how it is seen in one.

    Attributes:
        settings: Its settings, with their defaults.
        check: Turns a dict of all settings into checked ones, or raises.
        find: Its sites in a traced model.
        named: Its site at a layer that a rule names, or `None` if it cannot go
            there.
        draw: Structured weights of a site, from the settings and a seed; none where
            the settings leave it.
        control: Structureless weights of the same norms, from what `draw` gave
            and the same seed.
        describe: What was written to the weight of a role, in a few words, or for
            the role "" why the settings leave the site.
        measure: The figures of a site, from the values of its weights and of
            those around it.
        fresh: What these values are in an untrained model, from shapes and a seed.
        expected: Mean and deviation of figures of such values, as far as they are known in
            closed form for these shapes. Other figures are drawn.
        alike: What else than shapes a site's figures in fresh weights depend on.
        legend: What the printed figures are, in a sentence.
        columns: How they are printed.
        panels: How they are drawn.
        images: Titles of the images that `measure` gives, by part.
        read: Settings that would give a model what was measured; `{}` if nothing
            was.
        forget: Frees what `draw` and `measure` keep from one site to the next, as far as
            it is large.
    """

    settings: Settings
    check: Callable[[dict[str, Any]], dict[str, Any]]
    find: Callable[[Graph, list[Any], dict[int, str]], list[Site]]
    named: Callable[[Any, str], Site | None]
    draw: Callable[[Site, Settings, int], Weights]
    control: Callable[[Weights, int], Weights]
    describe: Callable[[Site, str, Settings], str]
    measure: Callable[[Site, Weights], Measured]
    legend: str
    columns: tuple[Column, ...]
    panels: tuple[Panel, ...]
    images: Mapping[str, str]
    read: Callable[[Sequence[Reading]], dict[str, Any]]
    fresh: Callable[[Shapes, int], Weights] = normal_draws
    expected: Callable[[Site, Shapes], Expected] = lambda site, shapes: {}
    alike: Callable[[Site], Hashable] = lambda site: None
    forget: Callable[[], None] = lambda: None
