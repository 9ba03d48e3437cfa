"""Rules, which give structures or initializers to weights by their paths."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_mimetic._checks import did_you_mean
from keras_mimetic._numerics.random import fold_in
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import STRUCTURES, Rules, compound_layers
from keras_mimetic.initializers.with_seed import with_seed

# A variable, and its layer.
Owned = tuple[keras.Variable, keras.Layer]


@dataclasses.dataclass(frozen=True)
class Named:
    """The effect of a rule on a layer: a structure, or `None` to skip it."""

    pattern: str
    structure: str | None
    site: Site | None


@dataclasses.dataclass(frozen=True)
class Redraw:
    """A weight that a rule gives an initializer.

    Attributes:
        pattern: The rule.
        variable: The weight.
        layer_path: Path of its layer in the model.
        index: Its number among the weights of the layer.
        initializer: The initializer, as given.
    """

    pattern: str
    variable: keras.Variable
    layer_path: str
    index: int
    initializer: Any

    def sample(self, seed: int) -> np.ndarray:
        """Draw values from a stream of the weight's own."""
        stream = fold_in(seed, *f"initializer:{self.layer_path}/{self.index}".encode())
        initializer = with_seed("rules", self.initializer, stream)
        try:
            return values_of(initializer(tuple(self.variable.shape), dtype="float32"))
        except ValueError as error:
            why = str(error).rstrip(".")
            raise ValueError(
                f"Rule {self.pattern!r} cannot draw {self.variable.path!r}: {why}. An expression "
                "that ends in 'kernel' leaves biases out."
            ) from error


@dataclasses.dataclass(frozen=True)
class Ruled:
    """The effects of all rules, and the number of layers that each matches."""

    named: dict[Any, Named] = dataclasses.field(default_factory=dict)
    redraws: tuple[Redraw, ...] = ()
    counts: dict[str, int] = dataclasses.field(default_factory=dict)


def read_rules(
    layers: list[keras.Layer], rules: Rules, layer_paths: dict[keras.Layer, str]
) -> Ruled:
    """Return the effects of rules on the layers of a model."""
    if rules is None:
        return Ruled()
    if not isinstance(rules, Mapping):
        raise TypeError(
            "Argument `rules` must be a dict from regular expressions to names of structures or "
            f"initializers. Received: rules={rules!r}"
        )
    named: dict[Any, Named] = {}
    redraws: dict[int, Redraw] = {}
    counts = {}
    owners = _owners(layers)
    for pattern, given in rules.items():
        is_structure = given is None or (isinstance(given, str) and given in STRUCTURES)
        if not is_structure and not _is_initializer(given):
            known = ", ".join(repr(name) for name in STRUCTURES)
            raise ValueError(
                f"Argument `rules` must give each weight one of {known}, a Keras initializer or "
                f"None (without quotes), which skips it. Received: {given!r} for {pattern!r}"
                f"{did_you_mean(given, [*STRUCTURES, 'None', *dir(keras.initializers)])}"
            )
        matches = _matches(pattern, owners)
        counts[pattern] = len({layer for _, layer in matches})
        for variable, layer in matches:
            known_rule = redraws.get(id(variable)) if not is_structure else named.get(layer)
            if known_rule is not None and known_rule.pattern != pattern:
                raise ValueError(
                    f"Rules {known_rule.pattern!r} and {pattern!r} both match layer "
                    f"{path_of(layer)!r}."
                )
            if is_structure:
                named[layer] = Named(pattern, given, _site(layer, pattern, given, layer_paths))
            else:
                index = next(n for n, x in enumerate(layer.variables) if x is variable)
                redraws[id(variable)] = Redraw(pattern, variable, layer_paths[layer], index, given)
    for redraw in redraws.values():
        owner = next(layer for variable, layer in owners if variable is redraw.variable)
        other = named.get(owner)
        if other is not None and other.structure is None:
            raise ValueError(
                f"Rules {other.pattern!r} and {redraw.pattern!r} both match "
                f"{redraw.variable.path!r}."
            )
    return Ruled(named, tuple(redraws.values()), counts)


def _is_initializer(given: object) -> bool:
    if isinstance(given, str):
        try:
            return keras.initializers.get(given) is not None
        except ValueError:
            return False
    return isinstance(given, keras.initializers.Initializer)


def _matches(pattern: str, owners: list[Owned]) -> list[Owned]:
    try:
        matches = [(x, layer) for x, layer in owners if re.search(pattern, x.path)]
    except (re.error, TypeError) as error:
        raise ValueError(
            "Argument `rules` must have regular expressions as keys. "
            f"Received: {pattern!r} ({error})"
        ) from error
    if not matches:
        nearest = difflib.get_close_matches(pattern, [x.path for x, _ in owners], cutoff=0.4)
        hint = f"The nearest ones are {', '.join(map(repr, nearest))}."
        raise ValueError(
            f"Rule {pattern!r} matches no weight's path. "
            f"{hint if nearest else '`[w.path for w in model.weights]` lists them.'}"
        )
    return matches


def _site(
    layer: keras.Layer, pattern: str, structure: str | None, layer_paths: dict[keras.Layer, str]
) -> Site | None:
    """Return the site of a layer for the structure that a rule gives it."""
    if structure is None:
        return None
    site = STRUCTURES[structure].site_at(layer, layer_paths[layer])
    if site is None:
        raise ValueError(
            f"Rule {pattern!r} names layer {path_of(layer)!r} (a {type(layer).__name__}), to which "
            f"the structure {structure!r} cannot be given."
        )
    return site


def path_of(layer: keras.Layer) -> str:
    """`layer.path`, which Keras leaves empty for some outermost models."""
    return layer.path or layer.name


def _owners(layers: list[keras.Layer]) -> list[Owned]:
    """Return each variable with the layer that it belongs to, or the whole one around it."""
    owners: dict[int, Owned] = {}
    compounds = compound_layers()
    for layer in layers:
        for variable in layer.variables:
            owner = owners.get(id(variable), (None, None))[1]
            if not isinstance(owner, compounds):
                owners[id(variable)] = variable, layer
    return list(owners.values())
