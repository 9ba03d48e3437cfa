"""Tensors that are normalized over an axis, also after operations that move positions."""

import keras
import numpy as np

from keras_mimetic._graph.graph import Call
from keras_mimetic._graph.operations import channel_axis, does, name_of
from keras_mimetic._graph.symbol import Value
from keras_mimetic._patterns.layout import constant_along, moved, spread

_NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)
# Maximum number of operations that are followed back from a tensor.
_STEPS = 16


def norm_over_channels(value: Value, layer: keras.Layer) -> Call | None:
    """Return the normalization whose output a value is, over the channels of a layer's input."""
    norm, axis = _normalized_along(value)
    return norm if axis == channel_axis(layer, len(value.shape)) else None


def _normalized_along(value: Value, steps: int = _STEPS) -> tuple[Call | None, int]:
    """Return the normalization whose output a tensor is, and its axis; `(None, 0)` if none.

    It is a centered LayerNormalization or a BatchNormalization over one axis. Positions
    may have been moved, selected or concatenated after it.
    """
    call = value.producer
    if call is None or not steps or not call.inputs:
        return None, 0
    if isinstance(call.operation, _NORMS):
        axes = keras.tree.flatten(call.operation.axis)
        if len(axes) > 1 or getattr(call.operation, "rms_scaling", False):
            return None, 0
        return call, axes[0] % len(value.shape)
    if does(call.operation, "copy"):
        return _normalized_along(call.inputs[0], steps - 1)
    found = [_normalized_along(x, steps - 1) for x in call.inputs]
    norm, axis = found[0]
    if norm is None or any(x[0] is None or x[1] != axis for x in found):
        return None, 0
    if name_of(call.operation) == "Concatenate":
        same = all(x[0] is not None and x[0].operation is norm.operation for x in found)
        joined = call.operation.axis % len(value.shape)
        return (norm, axis) if same and joined != axis else (None, 0)
    sizes = call.inputs[0].sizes
    if len(call.inputs) > 1 or sizes is None:
        return None, 0
    size = sizes[axis]
    arrays = moved(call, spread(np.arange(size), (axis,), sizes))
    if arrays is None:
        return None, 0
    array = arrays[call.outputs.index(value)]
    axes = [n for n in range(array.ndim) if not constant_along(array, n)]
    whole = len(axes) == 1 and array.shape[axes[0]] == size
    return (norm, axes[0]) if whole else (None, 0)
