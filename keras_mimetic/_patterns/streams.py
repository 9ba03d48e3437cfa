"""Streams of channels: the tensors whose sum, position by position, another tensor is."""

from collections.abc import Iterator

import keras

from keras_mimetic._tracing.graph import Call, Graph
from keras_mimetic._tracing.operations import (
    CONVOLUTIONS,
    is_activation,
    is_depthwise,
    is_passthrough,
    is_projection,
    name_of,
)
from keras_mimetic._tracing.symbol import Value

_SUMS = {"Add", "Subtract", "Concatenate", "Average", "Where", "Stack"}
_SCALED = {
    *("Multiply", "Divide", "TrueDivide", "Negative", "Rescaling", "Masking"),
    *("LayerNormalization", "BatchNormalization", "GroupNormalization", "RMSNormalization"),
    *("UnitNormalization", "LayerNorm", "RMSNorm"),
}
_REARRANGING = {
    *("Reshape", "Transpose", "Permute", "Swapaxes", "Moveaxis", "Squeeze", "ExpandDims"),
    *("GetItem", "Split", "ArraySplit", "Unstack", "Roll", "Flip", "Flatten", "Pad", "Take"),
    *("BroadcastTo", "Repeat", "Tile", "TakeAlongAxis", "Slice", "Mean", "AveragePool", "MaxPool"),
    *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling2D", "Resize"),
    *("AveragePooling1D", "AveragePooling2D", "MaxPooling1D", "MaxPooling2D"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "AdaptiveAveragePool"),
}

Streams = dict[int, frozenset[int]]
# Maximum number of operations that are followed back from a tensor.
_STEPS = 16


def streams(graph: Graph) -> Streams:
    """Return the streams that are summed in each value, by its `id`.

    A stream is identified by the `id` of its first value. Operations that normalize, that
    move, select or average positions, or that scale channels preserve a stream. A matrix or
    an activation begins a new one. Constants and weights have no stream.
    """
    found: Streams = {}
    for call in graph.calls:
        own = [_of(value, found) for value in call.inputs]
        name = name_of(call.operation)
        kept: frozenset[int] | None = None
        if name in _SUMS or (name in _SCALED and len(call.inputs) <= 2):
            kept = frozenset().union(*own)
        elif own and (
            name in _REARRANGING or is_passthrough(call.operation) or _by_channel(call.operation)
        ):
            kept = own[0]
        for value in call.outputs:
            found[id(value)] = frozenset([id(value)]) if kept is None else kept
    return found


def ways_from_one_stream(
    a: Value, b: Value, found: Streams
) -> tuple[list[Call], list[Call]] | None:
    """Return the matrices on the shortest paths from a common stream to two tensors.

    The paths lead through convolutions, projections and activations with a single input.
    Return `None` if no common stream is found.
    """
    ways = [
        (first, second)
        for streams_of_a, first in _ancestry(a, found)
        for streams_of_b, second in _ancestry(b, found)
        if streams_of_a & streams_of_b
    ]
    return min(ways, key=lambda way: sum(map(len, way)), default=None)


def _ancestry(value: Value, found: Streams) -> Iterator[tuple[frozenset[int], list[Call]]]:
    """Yield the streams from which a tensor is computed, with the matrices in between."""
    matrices: list[Call] = []
    for _ in range(_STEPS):
        yield found.get(id(value), frozenset()), list(matrices)
        call = value.producer
        if call is None or not call.seen:
            return
        inputs = [x for x in call.inputs if x.constant is None]
        is_matrix = is_projection(call.operation) or isinstance(call.operation, CONVOLUTIONS)
        name = name_of(call.operation)
        is_known = name in _SCALED | _REARRANGING or is_passthrough(call.operation)
        if len(inputs) != 1 or not (is_matrix or is_known or is_activation(call.operation)):
            return
        if is_matrix:
            matrices.append(call)
        (value,) = inputs


def _of(value: Value, found: Streams) -> frozenset[int]:
    if value.producer is None and value.constant is not None:
        return frozenset()
    return found.setdefault(id(value), frozenset([id(value)]))


def _by_channel(operation: object) -> bool:
    separable = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
    if isinstance(operation, separable) or is_projection(operation):
        return False
    return is_depthwise(operation)
