"""What follows the first projection of an MLP, what follows the MLP, and inverted residuals."""

import dataclasses
import heapq
import math
from collections.abc import Iterable
from typing import Any, Literal

import keras
import numpy as np

from keras_mimetic._graph.graph import Call, Graph, walk_back
from keras_mimetic._graph.operations import (
    CENTERING,
    POINTWISE,
    activates,
    channel_axis,
    does,
    is_depthwise,
    is_pointwise_function,
    is_projection,
    name_of,
    own_activation,
)
from keras_mimetic._graph.symbol import Operation, Value
from keras_mimetic._patterns.layout import moved, spread
from keras_mimetic._patterns.normalized import norm_over_channels

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

# Activation functions with equal positive and negative sides, and those of channel gates.
_ODD = ("tanh", "softsign", "hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink")
_SIGMOIDS = (keras.activations.sigmoid, keras.activations.hard_sigmoid)
# Maximum number of calls that are followed to the product of a gate, and of operations that are
# followed back from the end of an inverted residual.
_STEPS = 32
_STEPS_BACK = 24


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
    inner_norm: keras.Layer | None = None
    gate: np.ndarray | None = None


class Uses:
    """Where the values of a graph are used."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._numbers: dict[Value, list[int]] = {}
        for number, call in enumerate(graph.calls):
            for value in call.inputs:
                self._numbers.setdefault(value, []).append(number)

    def calls(self, *values: Value) -> list[Call]:
        """Return the calls that use values."""
        return [self.graph.calls[number] for number in self.numbers(values)]

    def numbers(self, values: Iterable[Value]) -> list[int]:
        """Return the indices of these calls in the graph."""
        return [number for value in values for number in self._numbers.get(value, ())]


class _Hidden:
    """The hidden layer of an MLP, and what the calls that were followed do with it."""

    def __init__(self, first: Call) -> None:
        function = own_activation(first.operation)
        self.first = first
        self.values = set(first.outputs)
        self.is_activated = is_pointwise_function(function)
        self.is_odd = _is_odd(first.operation)
        self.is_gated = function is keras.activations.glu
        # The channels that are activated to multiply the others.
        self.gate = _second_half(first) if self.is_gated else None
        self.is_sliced = self.is_normalized = self.multiplies_a_branch = False
        self.inner_norm: keras.Layer | None = None
        # Why the activation does not see the hidden bias.
        self.between = ""

    def goes_on(self, call: Call, outside: list[Value]) -> bool:
        """Return whether the outputs of a call still have one entry for each hidden unit."""
        if outside:
            return does(call.operation, "product")
        return (
            does(call.operation, *POINTWISE, "slice", "gate")
            or (is_depthwise(call.operation) and not self.is_activated)
            or _scales_channels(call)
            or _moves_positions(call)
        )

    def add(self, call: Call, outside: list[Value]) -> None:
        """Add the outputs of a call."""
        operation = call.operation
        is_product = does(operation, "product")
        if outside:
            self.is_gated, self.multiplies_a_branch = True, self.is_activated
        if not self.is_activated and is_depthwise(operation):
            self.between = self.between or WITH_DEPTHWISE
        if not self.is_activated and _takes_means(operation):
            self.between = self.between or INNER_NORM
        # A function written in operations, such as GELU, multiplies its parts.
        self.is_odd &= not (is_product and len(call.inputs) > 1)
        self.is_gated |= does(operation, "gate") or (is_product and self.is_sliced)
        self.is_sliced |= does(operation, "slice")
        self.is_normalized |= does(operation, "normalize", "reduce") or _scales_channels(call)
        if not self.is_activated and does(operation, "activate"):
            self.is_activated = True
            self.is_odd = _is_odd(operation)
            self.inner_norm = _inner_norm(call, self.first, self.values)
            self.gate = _channels(self.first, call.inputs[0]) if self.is_sliced else None
        if does(operation, "gate"):
            self.gate = _second_half(self.first)
        self.values.update(call.outputs)


def match_mlp(first: Call, uses: Uses) -> Match | None:
    """Match the rest of an MLP that begins at a projection; `None` if no MLP begins there."""
    hidden = _Hidden(first)
    if own_activation(first.operation) and not (hidden.is_activated or hidden.is_gated):
        return None
    ends: list[Call] = []
    # The calls to look at, in the order of the graph.
    waiting = sorted(set(uses.numbers(first.outputs)))
    while waiting:
        call = uses.graph.calls[heapq.heappop(waiting)]
        outside = [value for value in call.inputs if value not in hidden.values]
        if is_projection(call.operation) and not outside:
            ends.append(call)
            continue
        if not hidden.goes_on(call, outside):
            # The spatial gate of a gMLP mixes positions in one half of the channels.
            are_halves = hidden.is_sliced and hidden.is_activated
            meets = are_halves and _meets_again(call, hidden.values, uses)
            return Match(BOTH_HALVES) if meets else None
        # Both branches of a gate start at the same value.
        if not all(_starts_at(value, first.inputs[0]) for value in outside):
            return None
        hidden.add(call, outside)
        for number in uses.numbers(call.outputs):
            if number not in waiting:
                heapq.heappush(waiting, number)
    if len(ends) != 1 or not hidden.values.isdisjoint(uses.graph.outputs):
        return None
    return _match_of(hidden, ends[0], uses)


def _match_of(hidden: _Hidden, end: Call, uses: Uses) -> Match | None:
    first = hidden.first
    # A reduction that changes the size is a pooling, not a part of a normalization.
    is_whole = _size(end.inputs[0]) == _size(first.outputs[0]) and not hidden.is_sliced
    if not (hidden.is_gated or (hidden.is_activated and is_whole)) or _excites(first, end, uses):
        return None
    width_before, width_after = end.operation.kernel.shape[-2:]
    if hidden.is_normalized and width_after > width_before:
        # The norm belongs to the next block.
        return None
    has_gate = hidden.multiplies_a_branch or hidden.gate is not None
    if hidden.is_gated and not has_gate:
        is_split = hidden.is_activated or hidden.is_sliced
        skip_reason = BOTH_HALVES if is_split else LINEAR_BRANCH
    else:
        between = hidden.between if hidden.inner_norm is None else ""
        skip_reason = between or _of_widths(first.operation, end.operation)
    default_skip = GATED if has_gate else ODD if hidden.is_odd else ""
    return Match(skip_reason, default_skip, end, hidden.inner_norm, hidden.gate)


def follows(end: Call, uses: Uses) -> Literal["residual", "output", ""]:
    """Return whether an MLP is added to another value, or is the output of the model."""
    inside = set(end.outputs)
    waiting = list(end.outputs)
    while waiting:
        value = waiting.pop()
        if value in uses.graph.outputs:
            return "output"
        for call in uses.calls(value):
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
    sizes = value.sizes
    if sizes is None:
        return None
    axis = channel_axis(first.operation, len(sizes))
    array = spread(np.arange(sizes[axis]), (axis,), sizes)
    for call, number in reversed(path):
        arrays = [array] if does(call.operation, *POINTWISE) else moved(call, array)
        if arrays is None:
            return None
        array = arrays[number]
    return np.unique(array)


def _is_odd(operation: Operation) -> bool:
    function = getattr(operation, "activation", None)
    return does(operation, "odd") or getattr(function, "__name__", "") in _ODD


def _meets_again(call: Call, inside: set[Value], uses: Uses) -> bool:
    """Return whether what a call makes of one half of the channels multiplies the other half."""
    waiting, seen = [call], 0
    while waiting and seen < _STEPS:
        call, seen = waiting.pop(0), seen + 1
        if does(call.operation, "product") and not inside.isdisjoint(call.inputs):
            return True
        waiting += uses.calls(*call.outputs)
    return False


def _inner_norm(activation: Call, first: Call, inside: set[Value]) -> keras.Layer | None:
    """Return the normalization directly before an activation if it has a beta, or `None`."""
    norm = norm_over_channels(activation.inputs[0], first.operation)
    if norm is None or norm.outputs[0] not in inside or norm.operation.beta is None:
        return None
    return norm.operation


def _size(value: Value) -> Any:
    sizes = value.sizes
    return (math.prod(sizes), sizes[-1]) if sizes else value.shape


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


def _of_widths(first: keras.Layer, second: keras.Layer) -> str:
    inputs, (hidden, width) = first.kernel.shape[-2], second.kernel.shape[-2:]
    if hidden < inputs:
        return NARROW
    return WIDENS if width > hidden else ""


def _takes_means(operation: Operation) -> bool:
    return isinstance(operation, CENTERING) and not getattr(operation, "rms_scaling", False)


def _excites(first: Call, end: Call, uses: Uses) -> bool:
    """Return whether an MLP computes factors of channels, as in squeeze and excitation."""
    shape = first.inputs[0].shape
    if len(shape) != 2 and any(size != 1 for size in shape[1:-1]):
        return False
    # A classifier ends with a sigmoid, too: factors are multiplied with something.
    values = [(x, own_activation(end.operation) in _SIGMOIDS) for x in end.outputs]
    while values:
        value, bounded = values.pop()
        for call in uses.calls(value):
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


def inverted_residuals(graph: Graph) -> list[tuple[keras.Layer, keras.Layer]]:
    """Return the first and last projection of each inverted residual."""
    found = []
    for call in graph.calls:
        if is_projection(call.operation):
            start = _expansion(call)
            if start is not None:
                found.append((start, call.operation))
    return found


def _expansion(end: Call) -> keras.Layer | None:
    """Return the first projection of an inverted residual that ends here, or `None`."""
    depthwise = activations = 0
    starts: set[keras.Layer] = set()
    for value in walk_back(end.inputs[0], _main_inputs, limit=_STEPS_BACK):
        call = value.producer
        if call is None:
            return None
        operation = call.operation
        if is_projection(operation):
            starts.add(operation)
        elif is_depthwise(operation):
            depthwise += 1
        elif not _main_inputs(call):
            return None
        activations += activates(operation)
    if len(starts) != 1 or not depthwise or not activations:
        return None
    (start,) = starts
    (inputs, hidden), width = start.kernel.shape[-2:], end.operation.kernel.shape[-1]
    return start if hidden > max(inputs, width) else None


def _main_inputs(call: Call) -> list[Value]:
    """Return the inputs to follow: all summands, or the larger factor of a gate of channels."""
    values = [x for x in call.inputs if x.constant is None]
    if not values or not (is_depthwise(call.operation) or does(call.operation, *POINTWISE, "pad")):
        return []
    if does(call.operation, "add"):
        return values
    return [max(values, key=lambda x: math.prod(size or 1 for size in x.shape))]
