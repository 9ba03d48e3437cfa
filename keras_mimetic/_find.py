"""The sites of a model: where each structure could go, and where it is asked for."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import COMPOUND_LAYERS, DEFAULT, STRUCTURES
from keras_mimetic._tracing.arguments import call_on_zeros, check_inputs
from keras_mimetic._tracing.keras_internals import own_variables, sublayers
from keras_mimetic._tracing.layer_paths import find_layer_paths
from keras_mimetic._tracing.operations import CONVOLUTIONS, DEPTHWISE, SEPARABLE, is_projection
from keras_mimetic._tracing.recorder import is_composite
from keras_mimetic._tracing.trace import trace
from keras_mimetic.initializers.seeds import is_tracing


@dataclasses.dataclass(frozen=True)
class Found:
    """The sites of a model.

    Attributes:
        sites: Sites of all requested structures.
        opaque: Composite layers that could not be traced: layer, layer path, reason.
        notes: Assumptions about the model.
    """

    sites: list[Site]
    opaque: list[tuple[Any, str, str]]
    notes: tuple[str, ...] = ()


def find_sites(
    model: Any, structures: Iterable[str], rules: Any = None, inputs: Any = None
) -> Found:
    """Find the sites of `structures` in a built model.

    The finder follows what flows between layers. `rules` overrules it.

    Args:
        model: A built Keras model or layer.
        structures: Names from `STRUCTURES`.
        rules: See `keras_mimetic.initialize`.
        inputs: The same.

    Raises:
        TypeError: if `rules` is no dict.
        ValueError: for `inputs` that the model does not take; for a rule that is no
            regular expression, names no weight or a layer where its structure
            cannot go, or for two rules that name the same layer.
    """
    check_inputs(model, inputs)
    graph = trace(model, inputs)
    structures = tuple(structures)
    layer_paths = find_layer_paths(model)
    layers = sublayers(model)
    named = _named_by_rules(layers, rules, layer_paths)
    sites = []
    for structure in structures:
        found = STRUCTURES[structure].find(graph, layers, layer_paths)
        seen = {site.layer for site in found if not site.skip_reason}
        for site in found:
            rules_of = (named.get(layer) for layer in (site.layer, *site.other_layers))
            rule = next((rule for rule in rules_of if rule is not None), None)
            if rule is None:
                sites.append(site)
            elif rule.structure != structure:
                what = "" if rule.structure is None else f", which gives it {rule.structure!r}"
                why = f"by the rule {rule.pattern!r}{what}"
                sites.append(dataclasses.replace(site, skip_reason=why, by_rule=True))
            else:
                included = site.included_by_rule() if site.skip_reason else site
                if included is not None:
                    sites.append(included)
                    seen.add(included.layer)
        for rule in named.values():
            if rule.site is not None and rule.structure == structure:
                sites += [rule.site] if rule.site.layer not in seen else []
    order = {call.operation: number for number, call in reversed([*enumerate(graph.calls)])}
    sites.sort(key=lambda site: order.get(site.layer, len(order)))
    opaque = [
        (layer, layer_paths[layer], why)
        for layer, why in graph.opaque
        # Only these could hide a site.
        if any(isinstance(inner, _CANDIDATE_LAYERS) for inner in sublayers(layer))
    ]
    notes = tuple(
        f"{path_of(layer)} was followed with the default of {what}: pass `inputs` if it gets "
        "another"
        for layer, what in graph.assumed
    )
    notes += tuple(
        f"the rule {pattern!r} has no effect, since `structures` leaves out {structure!r}"
        for pattern, structure in (rules or {}).items()
        if structure is not None and structure not in structures
    )
    if {"mlp", "attention"} & set(structures):
        notes += _unaccounted(layers, sites, opaque)
    return Found(sites, opaque, notes)


def _unaccounted(layers: list[Any], sites: list[Site], opaque: list[Any]) -> tuple[str, ...]:
    """Return a note on the matrices without a row."""
    told: set[Any] = set()
    for site in sites:
        told.update(site.covered_layers, sublayers(site.layer))
    others = [layer for layer in layers if layer.built and layer not in told]
    in_projections = sum(is_projection(layer) for layer in others)
    # Experts, latent arrays: a user's layer that holds matrices itself.
    own = sum(
        len(variable.shape) >= 2
        for layer in others
        if is_composite(layer)
        for variable in own_variables(layer)
    )
    if not in_projections and not own:
        return ()
    counted = (
        (in_projections, "projection", "projections"),
        (own, "matrix of a custom layer", "matrices of custom layers"),
    )
    parts = [f"{count} {one if count == 1 else more}" for count, one, more in counted if count]
    return (f"in none of these structures: {', '.join(parts)}",)


def check_not_traced(call: str) -> None:
    """Raise if weights have no values now, as while `jax.jit` traces a function."""
    if is_tracing():
        raise RuntimeError(
            f"`{call}` writes weights and cannot be called in a function that is being traced or "
            "compiled, as by `jax.jit` or `tf.function`. Call it outside of that function."
        )


def check_model(name: str, model: Any, inputs: Any = None) -> None:
    """Raise unless an argument is a Keras model or layer with weights.

    A model without weights is called on zeros like `inputs`, if they are given.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"Argument `{name}` must be a Keras model or layer. "
            f"Received: {name}={model!r} (of type {type(model).__name__})"
        )
    if not model.weights and inputs is not None:
        check_inputs(model, inputs)
        call_on_zeros(model, inputs)
    if not model.weights:
        raise ValueError(
            f"Argument `{name}` must have weights: call it once on data or zeros, as in "
            "`model(keras.ops.zeros((1, 32, 32, 3)))` with the shape of its input. "
            f"Received: {model.name!r}, which has no weights"
        )
    for layer in sublayers(model):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                f"Argument `{name}` must not be quantized: its weights are codes. Take the model "
                f"as it was before. Received: a model whose layer {path_of(layer)!r} is quantized"
            )


def check_names(structures: Any) -> tuple[str, ...]:
    """Return the names of structures in an argument, each once; `None` stands for the default."""
    if structures is None:
        return DEFAULT
    if isinstance(structures, str):
        structures = (structures,)
    try:
        names = tuple(dict.fromkeys(structures))
    except TypeError as error:  # not iterable, or of something that is no name
        raise TypeError(
            "Argument `structures` must be names of structures, or where settings are allowed one "
            "dict from names to these, such as {'mlp': {'mean': -1}}. "
            f"Received: structures={structures!r}"
        ) from error
    if not names:
        raise ValueError(
            "Argument `structures` must name at least one structure, or be None for those that "
            f"are on by default. Received: structures={structures!r}"
        )
    for name in names:
        if not isinstance(name, str) or name not in STRUCTURES:
            known = ", ".join(repr(known) for known in STRUCTURES)
            near = difflib.get_close_matches(str(name), STRUCTURES, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"Argument `structures` must name some of {known}. Received: {name!r}{hint}"
            )
    return names


_CANDIDATE_LAYERS = (
    *COMPOUND_LAYERS,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    *CONVOLUTIONS,
    *DEPTHWISE,
    *SEPARABLE,
)


@dataclasses.dataclass(frozen=True)
class _Named:
    """The effect of a rule on a layer."""

    pattern: str
    structure: str | None
    site: Site | None


def _named_by_rules(
    layers: list[Any], rules: Any, layer_paths: dict[Any, str]
) -> dict[Any, _Named]:
    """Return the rule that applies to each layer with a matching weight."""
    if rules is None:
        return {}
    if not isinstance(rules, Mapping):
        raise TypeError(
            "Argument `rules` must be a dict from regular expressions to names of structures. "
            f"Received: rules={rules!r}"
        )
    named: dict[Any, _Named] = {}
    owners = _owners(layers)
    for pattern, structure in rules.items():
        if structure is not None and not (isinstance(structure, str) and structure in STRUCTURES):
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
                f"{', '.join(map(repr, _nearest(pattern, [path for path, _ in owners])))}."
            )
        for layer in matches:
            if layer in named and named[layer].pattern != pattern:
                raise ValueError(
                    f"Rules {named[layer].pattern!r} and {pattern!r} both match layer "
                    f"{path_of(layer)!r}."
                )
            site = None
            if structure is not None:
                site = STRUCTURES[structure].site_at(layer, layer_paths[layer])
                if site is None:
                    raise ValueError(
                        f"Rule {pattern!r} names layer {path_of(layer)!r} (a "
                        f"{type(layer).__name__}), to which the structure {structure!r} cannot "
                        "be given."
                    )
            named[layer] = _Named(pattern, structure, site)
    return named


def _nearest(pattern: str, paths: list[str]) -> list[str]:
    """Return the three paths that are most like a pattern."""
    # A pattern is often a part of a path.
    shares = [
        difflib.SequenceMatcher(None, pattern, path).find_longest_match().size for path in paths
    ]
    return [path for _, path in sorted(zip(shares, paths, strict=True), key=lambda x: -x[0])][:3]


def path_of(layer: Any) -> str:
    """`layer.path`, which Keras leaves empty for some outermost models."""
    return layer.path or layer.name


def _owners(layers: list[Any]) -> list[tuple[str, Any]]:
    """Each variable's path with the layer that it belongs to, or the whole one around it."""
    owners: dict[int, tuple[str, Any]] = {}
    for layer in layers:
        for variable in layer.variables:
            owner = owners.get(id(variable), (None, None))[1]
            if not isinstance(owner, COMPOUND_LAYERS):
                owners[id(variable)] = (variable.path, layer)
    return list(owners.values())
