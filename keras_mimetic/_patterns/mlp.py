"""MLPs in a graph: a projection, an activation, a second projection."""

import dataclasses
import heapq
import math
from typing import Any, ClassVar, Literal, Self

import keras
import numpy as np

from keras_mimetic._patterns.inverted_residuals import inverted_residuals
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.normalized import normalized_along
from keras_mimetic._patterns.site import Site
from keras_mimetic._tracing.graph import Call, Graph, in_call_order
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

GATED = "a gated MLP: the effect of a mean on the product of two branches is unknown"
NARROW = "its hidden layer is narrower than its input; use `rules` to include it"
WIDENS = "its output is wider than its hidden layer; use `rules` to include it"
INNER_NORM = (
    "a normalization between its first matrix and its activation would cancel the mean and the "
    "hidden bias"
)
WITH_DEPTHWISE = (
    "a depthwise convolution between its first matrix and its activation has the hidden bias"
)
INVERTED = (
    "an inverted residual: the effect of a mean or hidden bias before its depthwise "
    "convolution is unknown"
)

# Operations between factors of channels and their product.
_SHAPES = {"Reshape", "ExpandDims", "Identity", "BroadcastTo", "RepeatVector"}

# The input of an MLP; see `MLPSite.before`.
Before = Literal["layer_norm", "batch_norm", "normalized_activation", "other"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MLPSite(Site):
    """The first projection of an MLP; its main weight is `kernel`.

    Attributes:
        before: The layer directly before the MLP: `"layer_norm"` (over the channels,
            centered, with untrained gamma and beta, so that its output sums to zero),
            `"batch_norm"`, `"normalized_activation"` (either norm after an activation,
            as in ConvMixer) or `"other"`. It is `"other"` for a layer that is called several
            times in different contexts.
        norm: The LayerNormalization or BatchNormalization before the MLP, or `None`.
        second: The second projection, or `None` if it is unknown.
        inner_norm: The centered LayerNormalization or BatchNormalization directly before the
            activation, whose beta is the hidden bias, or `None`.
    """

    structure: ClassVar[str] = "mlp"

    before: Before = "other"
    norm: Any = None
    second: Any = None
    inner_norm: Any = None

    @property
    def bias(self) -> Any:
        """The bias of the first projection, or `None`."""
        return getattr(self.layer, "bias", None)

    @property
    def variables(self) -> dict[str, Any]:
        known = {
            **self.weights,
            "bias": self.bias,
            "second": None if self.second is None else self.second.kernel,
            "gamma": getattr(self.norm, "gamma", None),
            "beta": getattr(self.norm, "beta", None),
            "inner_gamma": getattr(self.inner_norm, "gamma", None),
            "inner_beta": getattr(self.inner_norm, "beta", None),
        }
        return {role: variable for role, variable in known.items() if variable is not None}

    def included_by_rule(self) -> Self:
        # As for any layer that a rule names, what stands before it is not used.
        return dataclasses.replace(self, skip_reason="", before="other", norm=None, inner_norm=None)

    @property
    def covered_layers(self) -> tuple[Any, ...]:
        return (*super().covered_layers, *(() if self.second is None else (self.second,)))


def mlp_site(layer: Any, layer_path: str, **details: Any) -> MLPSite:
    """Return the site of a built projection."""
    return MLPSite(layer_path=layer_path, layer=layer, weights={"kernel": layer.kernel}, **details)


def find_mlps(graph: Graph, layer_paths: dict[Any, str]) -> list[MLPSite]:
    """Find the first projection of each MLP.

    Between the two projections, there must be an activation, and there may be dropout and
    normalizations, but nothing that mixes positions. An MLP is skipped if its hidden layer
    is narrower than its input or output, or if a layer before the activation cancels or
    replaces the hidden bias and is not a normalization with a beta. Inverted residuals are
    listed as skipped.
    """
    sites: dict[Any, MLPSite] = {}
    consumers = _consumers(graph)
    for number, call in enumerate(graph.calls):
        layer = call.operation
        if not call.seen or not is_projection(layer):
            continue
        followed = _match_rest(number, graph, consumers)
        if followed is None or layer not in layer_paths:
            continue
        skip_reason, second = followed.skip_reason, followed.second
        inner_norm = followed.inner_norm
        norm, is_activated = _norm_before(call)
        before = "normalized_activation" if is_activated else _kind(norm)
        earlier = sites.get(layer)
        if earlier is not None:
            before = before if earlier.before == before else "other"
            norm = norm if earlier.norm is norm else None
            second = second if earlier.second is second else None
            skip_reason = skip_reason or earlier.skip_reason
            if inner_norm is not earlier.inner_norm:
                inner_norm, skip_reason = None, skip_reason or INNER_NORM
        sites[layer] = mlp_site(
            layer,
            layer_paths[layer],
            before=before,
            norm=norm,
            second=second,
            inner_norm=inner_norm,
            skip_reason=skip_reason,
        )
    for first, second in inverted_residuals(graph):
        if first in layer_paths:
            site = mlp_site(first, layer_paths[first], second=second, skip_reason=INVERTED)
            sites.setdefault(first, site)
    in_order = in_call_order(list(sites), graph)
    return [sites[layer] for layer in in_order]


@dataclasses.dataclass(frozen=True)
class _Followed:
    """The properties of an MLP that the calls after its first projection determine."""

    skip_reason: str
    second: Any = None
    inner_norm: Any = None


def _consumers(graph: Graph) -> dict[int, list[int]]:
    """Return the indices of the calls that use each value, by its `id`."""
    found: dict[int, list[int]] = {}
    for number, call in enumerate(graph.calls):
        for value in call.inputs:
            found.setdefault(id(value), []).append(number)
    return found


def _match_rest(number: int, graph: Graph, consumers: dict[int, list[int]]) -> _Followed | None:
    """Match the rest of an MLP that begins at a projection; `None` if no MLP begins there."""
    first = graph.calls[number]
    inside: set[int] = set()
    # A heap of the indices of calls that use the values inside.
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
    between, inner_norm = "", None
    ends: list[Call] = []
    while waiting:
        call = graph.calls[heapq.heappop(waiting)]
        outside = [value for value in call.inputs if id(value) not in inside]
        operation = call.operation
        if is_projection(operation) and not outside:
            ends.append(call)
            continue
        if is_product(operation) and outside:
            # Both branches of a gate start at the same value.
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
            or _moves_positions(call)
        ):
            # The spatial gate of a gMLP mixes positions in one half of the channels.
            return _Followed(GATED) if sliced and activated else None
        if not activated and _takes_means(operation):
            between = between or INNER_NORM
        gated = gated or is_gate(operation) or (is_product(operation) and sliced)
        sliced = sliced or is_slicing(operation)
        normalized = normalized or is_normalization(operation) or _scales_channels(call)
        if not activated and is_activation(operation):
            activated, inner_norm = True, _inner_norm(call, first, inside)
        enter(call)
    if len(ends) != 1 or any(id(value) in inside for value in graph.outputs):
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
    skip_reason = GATED if gated else between or _of_widths(first.operation, end.operation)
    return _Followed(skip_reason, end.operation, inner_norm)


def _inner_norm(activation: Call, first: Call, inside: set[int]) -> Any:
    """Return the normalization directly before an activation if it has a beta, or `None`."""
    value = activation.inputs[0]
    norm, axis = normalized_along(value)
    if norm is None or id(norm.outputs[0]) not in inside or norm.operation.beta is None:
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


def _excites(first: Call, end: Call, graph: Graph, consumers: dict[int, list[int]]) -> bool:
    """Return whether an MLP computes factors of channels, as in squeeze and excitation."""
    sigmoids = (keras.activations.sigmoid, keras.activations.hard_sigmoid)
    shape = first.inputs[0].shape
    has_one_position = len(shape) == 2 or all(size == 1 for size in shape[1:-1])
    if not has_one_position or own_activation(end.operation) not in sigmoids:
        return False
    # A classifier ends with a sigmoid, too: factors are multiplied with something.
    values = list(end.outputs)
    while values:
        calls = [graph.calls[number] for x in values for number in consumers.get(id(x), ())]
        if any(is_product(call.operation) for call in calls):
            return True
        values = [x for call in calls if name_of(call.operation) in _SHAPES for x in call.outputs]
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
    """Find the normalization over the channels directly before a projection.

    Returns:
        A centered LayerNormalization, a BatchNormalization, or `None`; and whether it
        normalizes the output of an activation.
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


def _kind(norm: Any) -> Before:
    if isinstance(norm, keras.layers.BatchNormalization):
        return "batch_norm"
    return "layer_norm" if norm is not None and _is_untrained(norm) else "other"


def _is_untrained(norm: Any) -> bool:
    """Return whether gamma and beta of a LayerNormalization are untrained."""
    untrained = ((norm.gamma, 1.0), (norm.beta, 0.0))
    return all(
        variable is None or np.all(values_of(variable) == value) for variable, value in untrained
    )
