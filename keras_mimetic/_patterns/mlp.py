"""Where MLPs are: a projection, an activation, a second projection."""

import heapq
import math
from typing import Any

import keras
import numpy as np

from keras_mimetic._patterns.normalized import normalized_along
from keras_mimetic._patterns.site import Site
from keras_mimetic._tracing.graph import Call, Graph
from keras_mimetic._tracing.operations import (
    channel_axis,
    is_activation,
    is_depthwise,
    is_gate,
    is_normalization,
    is_pointwise,
    is_pointwise_function,
    is_product,
    is_projection,
    is_slicing,
    name_of,
    own_activation,
    strip_passthrough,
)
from keras_mimetic._tracing.symbol import Value

GATED = "a gated MLP: what a mean does to a product of two branches is not known"
NARROW = "its hidden layer is narrower than its input; `rules` may name it"
WIDENS = "its output is wider than its hidden layer; `rules` may name it"
INNER_NORM = (
    "a normalization stands between its first matrix and its activation, and takes away what a "
    "mean or bias there does"
)
WITH_DEPTHWISE = (
    "a depthwise convolution stands between its first matrix and its activation, and has the "
    "hidden bias"
)


def find(graph: Graph, layers: list[Any], layer_paths: dict[int, str]) -> list[Site]:
    """One site for the first projection of each MLP.

    Between the two projections stand an activation and perhaps dropout and
    normalizations, and nothing that mixes places. It is left where the hidden layer is
    narrower than the input or the output, or where what stands before the activation takes
    the place of its bias. The fact `before` is what
    stands directly before the MLP: `"layer_norm"` (over the channels, centered,
    with fresh gamma and beta, so that its output sums to zero), `"batch_norm"`,
    `"normalized_activation"` (either of them after an activation, as in ConvMixer)
    or `"other"`; where a layer is called several times and these differ, `"other"`.

    The fact `activated_in` is where the activation alone changes the hidden units, so that
    they can be seen there: `"first"`, whose own it is, `"second"`, whose input it gives, or
    `""` where a normalization follows it.

    Around it are the matrix of the second projection, and gamma and beta of the
    LayerNorm or BatchNorm before, trained or not; the fact `norm` says which of
    the two, the fact `second` is that projection; each is `None` where there is
    none, or where calls of the first projection differ in it.
    """
    sites: dict[int, Site] = {}
    consumers = _consumers(graph)
    for number, call in enumerate(graph.calls):
        if not call.seen or not is_projection(call.operation):
            continue
        followed = _what_follows(number, graph, consumers)
        if followed is None or id(call.operation) not in layer_paths:
            continue
        skip_reason, second, activated_in = followed
        norm, is_activated = _norm_before(call)
        before = "normalized_activation" if is_activated else _kind(norm)
        earlier = sites.get(id(call.operation))
        if earlier is not None:
            before = before if earlier.facts["before"] == before else "other"
            norm = norm if earlier.facts["norm"] is norm else None
            second = second if earlier.facts["second"] is second else None
            activated_in = activated_in if second is not None else ""
            skip_reason = skip_reason or earlier.skip_reason
        layer = call.operation
        context = {"second": second, "norm": norm, "activated_in": activated_in}
        sites[id(layer)] = site(layer, layer_paths[id(layer)], before, skip_reason, **context)
    return list(sites.values())


def site(
    layer: Any,
    layer_path: str,
    before: str,
    skip_reason: str = "",
    *,
    second: Any = None,
    norm: Any = None,
    activated_in: str = "",
) -> Site:
    """The site of a built projection."""
    context = {
        "bias": getattr(layer, "bias", None),
        "second": None if second is None else second.kernel,
        "gamma": getattr(norm, "gamma", None),
        "beta": getattr(norm, "beta", None),
    }
    return Site(
        structure="mlp",
        layer_path=layer_path,
        layer=layer,
        weights={"kernel": layer.kernel},
        facts={"before": before, "norm": norm, "second": second, "activated_in": activated_in},
        skip_reason=skip_reason,
        context={role: variable for role, variable in context.items() if variable is not None},
    )


def _consumers(graph: Graph) -> dict[int, list[int]]:
    """The numbers of the calls that take each value, by its `id`."""
    found: dict[int, list[int]] = {}
    for number, call in enumerate(graph.calls):
        for value in call.inputs:
            found.setdefault(id(value), []).append(number)
    return found


def _what_follows(
    number: int, graph: Graph, consumers: dict[int, list[int]]
) -> tuple[str, Any, str] | None:
    """Why an MLP that begins here is left ("" for no reason), its second projection, and
    the fact `activated_in`.

    `None` if none begins here.
    """
    first = graph.calls[number]
    inside: set[int] = set()
    # The numbers of calls that take what is inside, the next one first.
    waiting: list[int] = []

    def enter(call: Call) -> None:
        inside.update(id(value) for value in call.outputs)
        for value in call.outputs:
            for later in consumers.get(id(value), ()):
                if later not in waiting:
                    heapq.heappush(waiting, later)

    enter(first)
    function = own_activation(first.operation)
    activated = is_pointwise_function(function)
    gated = function is keras.activations.glu
    if function is not None and not (activated or gated):
        return None
    sliced = normalized = False
    between = ""
    ends: list[Call] = []
    while waiting:
        call = graph.calls[heapq.heappop(waiting)]
        outside = [value for value in call.inputs if id(value) not in inside]
        operation = call.operation
        if is_projection(operation) and not outside:
            ends.append(call)
            continue
        if is_product(operation) and outside:
            # The other branch of a gate starts where this one does.
            if not all(_starts_at(value, first.inputs[0]) for value in outside):
                return None
            gated = True
        elif not outside and not activated and is_depthwise(operation):
            between = between or WITH_DEPTHWISE
        elif outside or not (
            is_pointwise(operation)
            or is_slicing(operation)
            or is_gate(operation)
            or _scales_channels(call)
            or _moves_places(call)
        ):
            # The spatial gate of a gMLP treats one half apart.
            return (GATED, None, "") if sliced and activated else None
        if not activated and _takes_means(operation):
            between = between or INNER_NORM
        gated = gated or is_gate(operation) or (is_product(operation) and sliced)
        sliced = sliced or is_slicing(operation)
        normalized = normalized or is_normalization(operation) or _scales_channels(call)
        activated = activated or is_activation(operation)
        enter(call)
    if len(ends) != 1 or any(id(value) in inside for value in graph.outputs):
        return None
    (end,) = ends
    # A reduction on the way is part of a normalization, or it is a pooling.
    whole = _size(end.inputs[0]) == _size(first.outputs[0])
    if not (gated or (activated and whole and not sliced)) or _excites(first, end):
        return None
    if normalized and end.operation.kernel.shape[-1] > end.operation.kernel.shape[-2]:
        # A norm begins what comes next.
        return None
    skip_reason = GATED if gated else between or _of_widths(first.operation, end.operation)
    activated_in = "first" if function is not None else "" if normalized else "second"
    return skip_reason, end.operation, activated_in


def _size(value: Value) -> Any:
    known = None not in value.shape
    return (math.prod(value.shape), value.shape[-1]) if known else value.shape  # type: ignore


def _moves_places(call: Call) -> bool:
    """Whether places alone are moved about, with channels on the last axis."""
    if len(call.inputs) != 1 or len(call.outputs) != 1:
        return False
    given, made = call.inputs[0].shape, call.outputs[0].shape
    name = name_of(call.operation)
    if name == "Reshape" and None not in (*given, *made):
        return given[-1] == made[-1]
    axes = getattr(call.operation, "axes", None)
    return name == "Transpose" and axes is not None and axes[-1] in (-1, len(given) - 1)


def _of_widths(first: Any, second: Any) -> str:
    (inputs, hidden), width = first.kernel.shape[-2:], second.kernel.shape[-1]
    if hidden < inputs:
        return NARROW
    return WIDENS if width > hidden else ""


def _takes_means(operation: Any) -> bool:
    kinds = (
        keras.layers.BatchNormalization,
        keras.layers.LayerNormalization,
        keras.layers.GroupNormalization,
    )
    return isinstance(operation, kinds) and not getattr(operation, "rms_scaling", False)


def _excites(first: Call, end: Call) -> bool:
    """Whether it weighs the channels of one place, as in squeeze and excitation."""
    sigmoids = (keras.activations.sigmoid, keras.activations.hard_sigmoid)
    shape = first.inputs[0].shape
    one_place = len(shape) == 2 or all(size == 1 for size in shape[1:-1])
    return one_place and own_activation(end.operation) in sigmoids


def _scales_channels(call: Call) -> bool:
    """A layer of the user's, not looked into, that has weights for channels alone.

    Such as a response normalization or a layer scale: without a matrix or a
    window it is taken to mix nothing.
    """
    operation = call.operation
    if not isinstance(operation, keras.layers.Layer) or not operation.weights:
        return False
    shapes = [value.shape for value in (*call.inputs, *call.outputs)]
    if len(call.inputs) != 1 or len(call.outputs) != 1 or shapes[0] != shapes[1]:
        return False
    return all(math.prod(weight.shape) in (1, shapes[0][-1]) for weight in operation.weights)


def _starts_at(value: Value, start: Value) -> bool:
    """Whether it is `start`, projected and then at most treated element by element."""
    seen = 0
    while value.producer is not None and seen < 100:
        call, seen = value.producer, seen + 1
        if is_projection(call.operation):
            return call.inputs[0] is start
        if not is_pointwise(call.operation):
            return False
        value = call.inputs[0]
    return False


def _norm_before(call: Call) -> tuple[Any, bool]:
    """The normalization over the channels directly before a projection, or `None`.

    That is a LayerNormalization that is centered, or a BatchNormalization. The second
    value is whether it normalizes the output of an activation.
    """
    value = call.inputs[0]
    normalized, axis = normalized_along(value)
    if normalized is None or axis != channel_axis(call.operation, len(value.shape)):
        return None, False
    before = strip_passthrough(normalized.inputs[0]).producer
    return normalized.operation, before is not None and _activates(before.operation)


def _activates(operation: Any) -> bool:
    if is_activation(operation):
        return True
    has_own = is_projection(operation) or is_depthwise(operation)
    return has_own and is_pointwise_function(own_activation(operation))


def _kind(norm: Any) -> str:
    if isinstance(norm, keras.layers.BatchNormalization):
        return "batch_norm"
    return "layer_norm" if norm is not None and _is_fresh(norm) else "other"


def _is_fresh(norm: Any) -> bool:
    """Whether a LayerNormalization's output has sum 0."""
    fresh = ((norm.gamma, 1.0), (norm.beta, 0.0))
    return all(
        variable is None or np.all(keras.ops.convert_to_numpy(variable) == value)
        for variable, value in fresh
    )
