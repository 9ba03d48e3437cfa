"""The sites of a model: where each structure could go, and where it is asked for."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_mimetic.registry import STRUCTURES
from keras_mimetic.sites import Site, places, sublayers, trace


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found in a model.

    Attributes:
        sites: The sites of all structures asked for.
        opaque: Composite layers that could not be followed: layer, place, reason.
    """

    sites: list[Site]
    opaque: list[tuple[Any, str, str]]


def find_sites(model: Any, structures: Iterable[str], rules: Any = None) -> Found:
    """Finds the sites of `structures` in a built model.

    The finder follows what flows between layers. `rules` overrules it.

    Args:
        model: A built Keras model or layer.
        structures: Names from `STRUCTURES`.
        rules: See `keras_mimetic.initialize`.

    Raises:
        TypeError: if `rules` is no dict of texts.
        ValueError: for a rule that is no regular expression, names no weight or
            a layer where its structure cannot go, or for two rules that name
            the same layer.
    """
    graph = trace(model)
    place_of = places(model)
    layers = sublayers(model)
    for layer in layers:
        # Reached by no attribute or container: by the path that weights show.
        place_of.setdefault(id(layer), f"?/{layer.path}")
    named = _named_by_rules(layers, rules)
    sites = []
    for structure in structures:
        entry = STRUCTURES[structure]
        for site in entry.find(graph, layers, place_of):
            rule = named.get(id(site.layer))
            if rule is None:
                sites.append(site)
            elif rule[1] is None:
                sites.append(dataclasses.replace(site, left=f"by the rule {rule[0]!r}"))
            elif rule[1] == structure and not site.left:
                sites.append(site)
                del named[id(site.layer)]
        for layer in layers:
            pattern, wanted = named.get(id(layer), ("", None))
            if wanted == structure:
                sites.append(_at_rule(entry, pattern, structure, layer, place_of[id(layer)]))
    # Only layers with others inside could hide a site.
    opaque = [
        (layer, place_of[id(layer)], why)
        for layer, why in graph.opaque
        if len(sublayers(layer)) > 1 and layer.weights
    ]
    return Found(sites, opaque)


def _at_rule(entry: Any, pattern: str, structure: str, layer: Any, place: str) -> Site:
    site = entry.named(layer, place)
    if site is None:
        raise ValueError(
            f"Rule {pattern!r} names layer {layer.path!r} (a {type(layer).__name__}), to which the "
            f"structure {structure!r} cannot be given."
        )
    return site


def _named_by_rules(layers: list[Any], rules: Any) -> dict[int, tuple[str, str | None]]:
    """The rule (pattern, structure or `None`) of each layer that one names, by `id`."""
    if rules is None:
        return {}
    if not isinstance(rules, Mapping):
        raise TypeError(
            "Argument `rules` must be a dict from regular expressions to names of structures. "
            f"Received: rules={rules!r}"
        )
    named: dict[int, tuple[str, str | None]] = {}
    owners = _owners(layers)
    for pattern, structure in rules.items():
        if structure is not None and structure not in STRUCTURES:
            known = ", ".join(repr(name) for name in STRUCTURES)
            raise ValueError(
                f"Argument `rules` must give each weight one of {known} or None. "
                f"Received: {structure!r} for {pattern!r}"
            )
        try:
            matches = [layer for path, layer in owners if re.search(pattern, path)]
        except (re.error, TypeError) as error:
            raise ValueError(
                "Argument `rules` must have regular expressions as keys. "
                f"Received: {pattern!r} ({error})"
            ) from error
        if not matches:
            raise ValueError(
                f"Rule {pattern!r} matches no weight's path. The model has, for instance, "
                f"{', '.join(repr(path) for path, _ in owners[:3])}."
            )
        for layer in matches:
            earlier = named.setdefault(id(layer), (pattern, structure))
            if earlier[0] != pattern:
                raise ValueError(
                    f"Rules {earlier[0]!r} and {pattern!r} both match layer {layer.path!r}."
                )
    return named


def _owners(layers: list[Any]) -> list[tuple[str, Any]]:
    """Each variable's path with the layer that it belongs to, its attention layer if any."""
    owners: dict[int, tuple[str, Any]] = {}
    for layer in layers:
        for variable in layer.variables:
            owner = owners.get(id(variable), (None, None))[1]
            if not isinstance(owner, keras.layers.MultiHeadAttention):
                owners[id(variable)] = (variable.path, layer)
    return list(owners.values())
