"""The sites of a model: where each structure could go, and where it is asked for."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_mimetic._checks import did_you_mean
from keras_mimetic._graph.arguments import call_on_zeros
from keras_mimetic._graph.graph import Graph
from keras_mimetic._graph.held_weights import HeldProjection
from keras_mimetic._graph.keras_internals import (
    own_variables,
    preserve_state,
    sublayers,
)
from keras_mimetic._graph.layer_paths import find_layer_paths
from keras_mimetic._graph.operations import CONVOLUTIONS, DEPTHWISE, SEPARABLE, is_projection
from keras_mimetic._graph.recorder import is_composite, reason, trace
from keras_mimetic._graph.symbol import Nested, Operation
from keras_mimetic._patterns.kernels import overlap
from keras_mimetic._patterns.site import Site
from keras_mimetic._rules import Redraw, Ruled, path_of, read_rules
from keras_mimetic._structures import STRUCTURES, Rules, default_names
from keras_mimetic.initializers.seeds import is_tracing


@dataclasses.dataclass(frozen=True)
class Found:
    """The sites of a model.

    Attributes:
        sites: Sites of all requested structures.
        opaque: Composite layers that could not be traced: layer, layer path, reason.
        notes: Assumptions about the model.
        redraws: Weights that rules give an initializer.
        rules: The number of layers that each rule matches.
        emptied: Structures all of whose sites a rule skips, with the rule.
    """

    sites: list[Site]
    opaque: list[tuple[Any, str, str]]
    notes: tuple[str, ...] = ()
    redraws: tuple[Redraw, ...] = ()
    rules: Mapping[str, int] = dataclasses.field(default_factory=dict)
    emptied: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find_sites(
    model: keras.Layer,
    structures: Iterable[str],
    rules: Rules = None,
    inputs: Nested = None,
) -> Found:
    """Find the sites of `structures` in a built model, following its data; `rules` overrule it."""
    try:
        graph = trace(model, inputs)
    except Exception as error:
        graph = Graph(opaque=[(model, reason(error))])
    why = next((why for layer, why in graph.opaque if layer is model), "")
    if inputs is not None and why:
        # Either because of the inputs, or of code that cannot be traced: ask Keras.
        with preserve_state(model):
            call_on_zeros(model, inputs, why)
    structures = tuple(structures)
    layer_paths = find_layer_paths(model)
    layer_paths |= _paths_of_held_weights(graph, layer_paths)
    layers = sublayers(model)
    ruled = read_rules(layers, rules, layer_paths)
    sites = []
    for structure in structures:
        try:
            found = STRUCTURES[structure].find(graph, layers, layer_paths)
        except Exception as error:  # of code that no pattern foresees
            found = []
            graph.opaque.append((model, f"{reason(error)} (in the search for {structure!r})"))
        sites += _in_order(_follow_rules(found, structure, ruled), graph)
    sites = _in_order(_each_weight_once(sites), graph)
    opaque = [
        (layer, layer_paths[layer], why)
        for layer, why in graph.opaque
        # Only these could hide a site.
        if any(isinstance(inner, _CANDIDATE_LAYERS) for inner in sublayers(layer))
    ]
    notes = _notes(graph, structures, rules or {})
    if {"mlp", "attention"} & set(structures):
        notes += _unaccounted(layers, sites)
    counts = ruled.counts
    return Found(sites, opaque, notes, ruled.redraws, counts, _emptied(sites, rules or {}, counts))


def _follow_rules(found: Iterable[Site], structure: str, ruled: Ruled) -> list[Site]:
    """Return the sites of a structure, with those that rules skip, include or add."""
    sites = [_follow_rule(site, ruled) for site in found]
    known = {site.layer for site in (*found, *sites) if site and not site.skip_reason}
    added = [rule.site for rule in ruled.named.values() if rule.structure == structure]
    return [
        *(site for site in sites if site),
        *(site for site in added if site and site.layer not in known),
    ]


def _follow_rule(site: Site, ruled: Ruled) -> Site | None:
    """Return a site as its rule has it, or `None` if the rule uses its layer alone."""
    redraw = _redrawn(site, ruled)
    owners = (getattr(x, "owner", x) for x in (site.layer, *site.other_layers))
    rule = next((ruled.named[x] for x in owners if x in ruled.named), None)
    if redraw is not None:
        why = f"the rule {redraw.pattern!r} draws a part of it, {redraw.variable.path}"
    elif rule is None:
        return site
    elif rule.structure == site.structure:
        return site.included_by_rule() if site.skip_reason or site.default_skip else site
    else:
        what = "" if rule.structure is None else f", which gives it {rule.structure!r}"
        why = f"by the rule {rule.pattern!r}{what}"
    return dataclasses.replace(site, skip_reason=why, by_rule=True)


def _in_order(sites: list[Site], graph: Graph) -> list[Site]:
    """Sort sites by the first calls of their layers; those without a call come last."""
    order: dict[Operation, int] = {}
    for number, call in enumerate(graph.calls):
        order.setdefault(call.operation, number)

    def first_call(site: Site) -> int:
        # A layer that holds a table may be followed, and then be no operation itself.
        operations = (site.layer, getattr(site, "added_by", None))
        return next((order[x] for x in operations if x in order), len(order))

    return sorted(sites, key=first_call)


def _notes(
    graph: Graph, structures: tuple[str, ...], rules: Mapping[str, object]
) -> tuple[str, ...]:
    """Return the assumptions about the model, and the rules without an effect."""
    return (
        *(
            f"{path_of(layer)} was followed with the default of {what}: pass `inputs` if it gets "
            "another"
            for layer, what in graph.assumed
        ),
        *(
            f"the rule {pattern!r} has no effect, since `structures` leaves out {given!r}"
            for pattern, given in rules.items()
            if isinstance(given, str) and given in STRUCTURES and given not in structures
        ),
    )


# Variables that a site reads and does not write.
_READ = ("second", "gamma", "beta", "inner_gamma")


def _redrawn(site: Site, ruled: Ruled) -> Redraw | None:
    """Return the rule that gives an initializer to a weight of a site."""
    written = [x for role, x in site.variables.items() if role not in _READ]
    return next((r for r in ruled.redraws for x in written if overlap(r.variable, x)), None)


def _emptied(
    sites: list[Site], rules: Mapping[str, object], counts: Mapping[str, int]
) -> dict[str, str]:
    """Return structures without sites that are written, with the rule that skips some of them."""
    emptied = {}
    for structure in {site.structure for site in sites}:
        reasons = [
            site.skip_reason or site.default_skip for site in sites if site.structure == structure
        ]
        for pattern, given in rules.items():
            skipped = reasons.count(f"by the rule {pattern!r}")
            # A rule that matches one layer alone is meant for it.
            if given is None and skipped and max(skipped, counts[pattern]) > 1 and all(reasons):
                emptied[structure] = pattern
    return emptied


def _paths_of_held_weights(graph: Graph, layer_paths: dict[Any, str]) -> dict[Any, str]:
    """Return the paths of projections that are weights of a layer, as in weight files."""
    held = {x.operation for x in graph.calls if isinstance(x.operation, HeldProjection)}
    paths = {}
    for one in held:
        index = next(n for n, x in enumerate(own_variables(one.owner)) if x is one.kernel)
        paths[one] = f"{layer_paths[one.owner]}/vars/{index}".lstrip("/")
    return paths


def _each_weight_once(sites: list[Site]) -> list[Site]:
    """Skip sites whose weights another site has; the one with more weights has them."""
    claimed: dict[int, list[tuple[Any, Site]]] = {}
    lost: dict[int, str] = {}
    for site in sorted(sites, key=lambda site: -len(site.weights)):
        if site.skip_reason:
            continue
        for role, weight in site.weights.items():
            if role in site.partly_skipped:
                continue
            others = claimed.setdefault(id(getattr(weight, "variable", weight)), [])
            other = next((x for used, x in others if x is not site and overlap(used, weight)), None)
            if other is not None:
                lost[id(site)] = f"its weight has the structure {other.structure!r}"
            others.append((weight, site))
    return [
        dataclasses.replace(site, skip_reason=lost[id(site)]) if id(site) in lost else site
        for site in sites
    ]


def _unaccounted(layers: list[keras.Layer], sites: list[Site]) -> tuple[str, ...]:
    """Return a note on the matrices without a row."""
    told: set[int] = set()
    for site in sites:
        for layer in site.covered_layers:
            held = isinstance(layer, HeldProjection)
            told.update(id(x) for x in ([layer.kernel] if held else layer.weights))
    others = [layer for layer in layers if layer.built]
    in_projections = sum(is_projection(layer) and id(layer.kernel) not in told for layer in others)
    # Experts, latent arrays: a user's layer that holds matrices itself.
    own = sum(
        sum(size > 1 for size in variable.shape) >= 2 and id(variable) not in told
        for layer in others
        if is_composite(layer)
        for variable in own_variables(layer)
    )
    counted = (
        (in_projections, "projection", "projections"),
        (own, "matrix of a custom layer", "matrices of custom layers"),
    )
    parts = [f"{count} {one if count == 1 else more}" for count, one, more in counted if count]
    return (f"in none of these structures: {', '.join(parts)}",) if parts else ()


def check_not_traced(call: str) -> None:
    """Raise if weights have no values now, as while `jax.jit` traces a function."""
    if is_tracing():
        raise RuntimeError(
            f"`{call}` writes weights and cannot be called in a function that is being traced or "
            "compiled, as by `jax.jit` or `tf.function`. Call it outside of that function."
        )


def check_model(model: object, inputs: Nested = None) -> None:
    """Raise unless `model` is a Keras model or layer with weights, building it on `inputs`."""
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            "Argument `model` must be a Keras model or layer. "
            f"Received: model={model!r} (of type {type(model).__name__})"
        )
    if isinstance(inputs, tuple) and inputs and all(isinstance(x, int | None) for x in inputs):
        shape = tuple(1 if x is None else x for x in inputs)
        raise ValueError(
            "Argument `inputs` takes example arrays, not their shape, such as "
            f"inputs=keras.ops.zeros({shape}). Received: inputs={inputs}"
        )
    # A model that makes some weights in `__init__` is not built before its first call.
    if inputs is not None and not (model.weights and model.built):
        call_on_zeros(model, inputs)
    if not model.weights:
        raise ValueError(
            "Argument `model` must have weights: call it once on data or zeros, as in "
            "`model(keras.ops.zeros((1, 32, 32, 3)))` with the shape of its input. `initialize` "
            "and `measure` call it if they get `inputs`. "
            f"Received: {model.name!r}, which has no weights"
        )
    for layer in sublayers(model):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                "Argument `model` must not be quantized: its weights are codes. Take the model "
                f"as it was before. Received: a model whose layer {path_of(layer)!r} is quantized"
            )


def check_names(structures: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of structures in an argument, each once; `None` stands for the default."""
    if structures is None:
        return default_names()
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
            raise ValueError(
                f"Argument `structures` must name some of {known}, or be a dict from these to "
                f"settings. Received: {name!r}{did_you_mean(name, STRUCTURES)}"
            )
    return names


_CANDIDATE_LAYERS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    *CONVOLUTIONS,
    *DEPTHWISE,
    *SEPARABLE,
)
