"""Which streams a tensor's channels are of: what they are a linear sum of, place by place."""

import keras

from keras_mimetic._tracing.graph import Graph
from keras_mimetic._tracing.operations import is_depthwise, is_passthrough, is_projection, name_of
from keras_mimetic._tracing.symbol import Value

_SUMS = {"Add", "Subtract", "Concatenate", "Average", "Where", "Stack"}
_SCALED = {
    *("Multiply", "Divide", "TrueDivide", "Negative", "Rescaling", "Masking"),
    *("LayerNormalization", "BatchNormalization", "GroupNormalization", "RMSNormalization"),
    *("UnitNormalization", "LayerNorm", "RMSNorm"),
}
_PLACES = {
    *("Reshape", "Transpose", "Permute", "Swapaxes", "Moveaxis", "Squeeze", "ExpandDims"),
    *("GetItem", "Split", "ArraySplit", "Unstack", "Roll", "Flip", "Flatten", "Pad", "Take"),
    *("BroadcastTo", "Repeat", "Tile", "TakeAlongAxis", "Slice", "Mean", "AveragePool", "MaxPool"),
    *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling2D", "Resize"),
    *("AveragePooling1D", "AveragePooling2D", "MaxPooling1D", "MaxPooling2D"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "AdaptiveAveragePool"),
}

Streams = dict[int, frozenset[int]]


def streams(graph: Graph) -> Streams:
    """For each value's `id` the streams that are summed in it, each a number.

    Normalization, places moved, left out or averaged, and whatever scales
    channels one by one keep a stream; a matrix or an activation begins a new one.
    Constants and weights are none.
    """
    found: Streams = {}
    for call in graph.calls:
        own = [_of(value, found) for value in call.inputs]
        name = name_of(call.operation)
        kept: frozenset[int] | None = None
        if name in _SUMS or (name in _SCALED and len(call.inputs) <= 2):
            kept = frozenset().union(*own)
        elif own and (
            name in _PLACES or is_passthrough(call.operation) or _by_channel(call.operation)
        ):
            kept = own[0]
        for value in call.outputs:
            found[id(value)] = frozenset([id(value)]) if kept is None else kept
    return found


def _of(value: Value, found: Streams) -> frozenset[int]:
    if value.producer is None and value.constant is not None:
        return frozenset()
    return found.setdefault(id(value), frozenset([id(value)]))


def _by_channel(operation: object) -> bool:
    separable = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
    if isinstance(operation, separable) or is_projection(operation):
        return False
    return is_depthwise(operation)
