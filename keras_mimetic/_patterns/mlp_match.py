"""What follows the first projection of an MLP, and what follows the MLP."""

import dataclasses
import heapq
import math
from typing import Any, Literal

import keras
import numpy as np

from keras_mimetic._patterns.layout import moved, spread
from keras_mimetic._patterns.normalized import normalized_along
from keras_mimetic._tracing.graph import Call, Graph, walk_back
from keras_mimetic._tracing.operations import (
    POINTWISE,
    channel_axis,
    does,
    is_depthwise,
    is_pointwise_function,
    is_projection,
    name_of,
    own_activation,
)
from keras_mimetic._tracing.symbol import Value

BOTH_HALVES = "a gated MLP without an activation of one branch"
GATED = "a gated MLP: set `mean` or `hidden_bias` to a number to write its gate"
LINEAR_BRANCH = "the linear branch of a gated MLP"
NARROW = "its hidden layer is narrower than its input; use `rules` to include it"
WIDENS = "its output is wider than its hidden layer; use `rules` to include it"
INNER_NORM = (
    "a normalization between its first matrix and its activation would cancel the mean and the "
    "hidden bias"
)
WITH_DEPTHWISE = (
    "a depthwise convolution between its first matrix and its activation has the hidden bias"
)
ODD = "its activation has no flat side: set `mean` or `hidden_bias` to a number to write this MLP"
INVERTED = (
    "an inverted residual: the effect of a mean or hidden bias before its depthwise "
    "convolution is unknown"
)

# Indices of the calls that use each value.
Consumers = dict[Value, list[int]]
# Activation functions with equal positive and negative sides, and those of channel gates.
_ODD = ("tanh", "softsign", "hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink")
_SIGMOIDS = (keras.activations.sigmoid, keras.activations.hard_sigmoid)
# Maximum number of calls that are followed to the product of a gate.
_STEPS = 32


@dataclasses.dataclass(frozen=True)
class Match:
    """The properties of an MLP that the calls after its first projection determine.

    `skip_reason` and `default_skip` are as in `MLPSite`. `end` is the call of the second
    projection, or `None` if it is unknown. `gate` has the channels of the first projection
    that are activated, if those of another branch come from the same projection.
    """

    skip_reason: str = ""
    default_skip: str = ""
    end: Call | None = None
    inner_norm: Any = None
    gate: np.ndarray | None = None


def consumers_of(graph: Graph) -> Consumers:
    """Return the indices of the calls that use each value."""
    found: Consumers = {}
    for number, call in enumerate(graph.calls):
        for value in call.inputs:
            found.setdefault(value, []).append(number)
    return found


def match_mlp(number: int, graph: Graph, consumers: Consumers) -> Match | None:
    """Match the rest of an MLP that begins at a projection; `None` if no MLP begins there."""
    first = graph.calls[number]
    inside: set[Value] = set()
    # A heap of the indices of calls that use the values inside.
    waiting: list[int] = []

    def enter(call: Call) -> None:
        inside.update(call.outputs)
        for value in call.outputs:
            for later in consumers.get(value, ()):
                if later not in waiting:
                    heapq.heappush(waiting, later)

    enter(first)
    function = own_activation(first.operation)
    activated = is_pointwise_function(function)
    gated = function is keras.activations.glu
    if function is not None and not (activated or gated):
        return None
    is_odd = getattr(function, "__name__", "") in _ODD
    sliced = normalized = is_gate = False
    gate = _second_half(first) if gated else None
    between, inner_norm = "", None
    ends: list[Call] = []
    while waiting:
        call = graph.calls[heapq.heappop(waiting)]
        outside = [value for value in call.inputs if value not in inside]
        operation = call.operation
        if is_projection(operation) and not outside:
            ends.append(call)
            continue
        if does(operation, "product") and outside:
            # Both branches of a gate start at the same value.
            if not all(_starts_at(value, first.inputs[0]) for value in outside):
                return None
            gated, is_gate = True, activated
        elif not outside and not activated and is_depthwise(operation):
            between = between or WITH_DEPTHWISE
        elif outside or not (
            does(operation, *POINTWISE, "slice", "gate")
            or _scales_channels(call)
            or _moves_positions(call)
        ):
            # The spatial gate of a gMLP mixes positions in one half of the channels.
            halves = sliced and activated and _meets_again(call, inside, graph, consumers)
            return Match(BOTH_HALVES) if halves else None
        if not activated and _takes_means(operation):
            between = between or INNER_NORM
        # A function written in operations, such as GELU, multiplies its parts.
        is_odd &= not (does(operation, "product") and len(call.inputs) > 1)
        gated = gated or does(operation, "gate") or (does(operation, "product") and sliced)
        sliced = sliced or does(operation, "slice")
        normalized = normalized or does(operation, "normalize", "reduce") or _scales_channels(call)
        if not activated and does(operation, "activate"):
            activated, inner_norm = True, _inner_norm(call, first, inside)
            is_odd = does(operation, "odd") or _is_odd_layer(operation)
            gate = _channels(first, call.inputs[0]) if sliced else None
        if does(operation, "gate"):
            gate = _second_half(first)
        enter(call)
    if len(ends) != 1 or not inside.isdisjoint(graph.outputs):
        return None
    (end,) = ends
    # A reduction that changes the size is a pooling, not a part of a normalization.
    whole = _size(end.inputs[0]) == _size(first.outputs[0])
    if not (gated or (activated and whole and not sliced)) or _excites(
        first, end, graph, consumers
    ):
        return None
    if normalized and end.operation.kernel.shape[-1] > end.operation.kernel.shape[-2]:
        # The norm belongs to the next block.
        return None
    between = between if inner_norm is None else ""
    skip_reason = between or _of_widths(first.operation, end.operation)
    is_gate = is_gate or gate is not None
    if gated and not is_gate:
        skip_reason = BOTH_HALVES if activated or sliced else LINEAR_BRANCH
    default_skip = GATED if is_gate else ODD if is_odd else ""
    return Match(skip_reason, default_skip, end, inner_norm, gate)


def follows(end: Call, graph: Graph, consumers: Consumers) -> Literal["residual", "output", ""]:
    """Return whether an MLP is added to another value, or is the output of the model."""
    inside = set(end.outputs)
    waiting = list(end.outputs)
    while waiting:
        value = waiting.pop()
        if value in graph.outputs:
            return "output"
        for call in (graph.calls[number] for number in consumers.get(value, ())):
            if does(call.operation, "add") and any(
                x not in inside and x.constant is None for x in call.inputs
            ):
                return "residual"
            passes = does(call.operation, *POINTWISE, "softmax", "move", "slice", "pad")
            if (passes or _scales_channels(call)) and not inside.issuperset(call.outputs):
                inside.update(call.outputs)
                waiting += call.outputs
    return ""


def _second_half(first: Call) -> np.ndarray:
    """Return the channels of a projection that `glu` activates."""
    width = first.operation.kernel.shape[-1]
    return np.arange(width // 2, width)


def _channels(first: Call, value: Value) -> np.ndarray | None:
    """Return the channels of a projection that a value has, or `None` if they are unknown."""
    path = []
    while value is not first.outputs[0]:
        call = value.producer
        if call is None or len(call.inputs) != 1:
            return None
        path.append((call, call.outputs.index(value)))
        value = call.inputs[0]
    sizes = tuple(size for size in value.shape if size is not None)
    if len(sizes) != len(value.shape):
        return None
    axis = channel_axis(first.operation, len(sizes))
    array = spread(np.arange(sizes[axis]), (axis,), sizes)
    for call, number in reversed(path):
        arrays = [array] if does(call.operation, *POINTWISE) else moved(call, array)
        if arrays is None:
            return None
        array = arrays[number]
    return np.unique(array)


def _is_odd_layer(operation: Any) -> bool:
    return getattr(getattr(operation, "activation", None), "__name__", "") in _ODD


def _meets_again(call: Call, inside: set[Value], graph: Graph, consumers: Consumers) -> bool:
    """Return whether what a call makes of one half of the channels multiplies the other half."""
    waiting, seen = [call], 0
    while waiting and seen < _STEPS:
        call, seen = waiting.pop(0), seen + 1
        if does(call.operation, "product") and not inside.isdisjoint(call.inputs):
            return True
        waiting += [graph.calls[n] for x in call.outputs for n in consumers.get(x, ())]
    return False


def _inner_norm(activation: Call, first: Call, inside: set[Value]) -> Any:
    """Return the normalization directly before an activation if it has a beta, or `None`."""
    value = activation.inputs[0]
    norm, axis = normalized_along(value)
    if norm is None or norm.outputs[0] not in inside or norm.operation.beta is None:
        return None
    return norm.operation if axis == channel_axis(first.operation, len(value.shape)) else None


def _size(value: Value) -> Any:
    known = None not in value.shape
    return (math.prod(value.shape), value.shape[-1]) if known else value.shape  # type: ignore


def _moves_positions(call: Call) -> bool:
    """Return whether a call only moves positions, with channels on the last axis."""
    if len(call.inputs) != 1 or len(call.outputs) != 1:
        return False
    given, made = call.inputs[0].shape, call.outputs[0].shape
    name = name_of(call.operation)
    if name == "Reshape" and None not in (*given, *made):
        return given[-1] == made[-1]
    axes = getattr(call.operation, "axes", None)
    return name == "Transpose" and axes is not None and axes[-1] in (-1, len(given) - 1)


def _of_widths(first: Any, second: Any) -> str:
    inputs, (hidden, width) = first.kernel.shape[-2], second.kernel.shape[-2:]
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


def _excites(first: Call, end: Call, graph: Graph, consumers: Consumers) -> bool:
    """Return whether an MLP computes factors of channels, as in squeeze and excitation."""
    shape = first.inputs[0].shape
    if len(shape) != 2 and any(size != 1 for size in shape[1:-1]):
        return False
    # A classifier ends with a sigmoid, too: factors are multiplied with something.
    values = [(x, own_activation(end.operation) in _SIGMOIDS) for x in end.outputs]
    while values:
        value, bounded = values.pop()
        for call in (graph.calls[number] for number in consumers.get(value, ())):
            if does(call.operation, "product") and len(call.inputs) > 1:
                return bounded
            if does(call.operation, "copy", "move", "add", "scale", "activate"):
                bounded = bounded or does(call.operation, "activate")
                values += [(x, bounded) for x in call.outputs]
    return False


def _scales_channels(call: Call) -> bool:
    """Return whether a layer only has weights per channel, such as a layer scale.

    Without a matrix or a window, a layer is assumed to mix neither channels nor positions.
    """
    operation = call.operation
    if not isinstance(operation, keras.layers.Layer) or not operation.weights:
        return False
    shapes = [value.shape for value in (*call.inputs, *call.outputs)]
    if len(call.inputs) != 1 or len(call.outputs) != 1 or shapes[0] != shapes[1]:
        return False
    return all(math.prod(weight.shape) in (1, shapes[0][-1]) for weight in operation.weights)


def _starts_at(value: Value, start: Value) -> bool:
    """Return whether a value is a projection of `start`, possibly after elementwise operations."""
    *_, first = walk_back(value, lambda call: call.inputs[: does(call.operation, *POINTWISE)])
    call = first.producer
    return call is not None and is_projection(call.operation) and call.inputs[0] is start
