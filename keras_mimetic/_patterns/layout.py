"""Follows single channels through operations that only move entries about.

An array of numbers has the shape of a tensor, and says of each entry which
channel it is. Along axes on which the channel does not depend it has stride 0,
so that it takes no memory and most operations on it are views.
"""

from typing import Any

import keras
import numpy as np

from keras_mimetic._tracing.graph import Call
from keras_mimetic._tracing.operations import name_of

# Arrays of so many entries are no burden.
_SMALL = 2**16


def spread(numbers: np.ndarray, axes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """`numbers`, whose axes are those `axes` of a tensor of this shape, over all of it."""
    full = [1] * len(shape)
    for axis, size in zip(axes, numbers.shape, strict=True):
        full[axis] = size
    order = np.argsort(axes)
    return np.broadcast_to(numbers.transpose(order).reshape(full), shape)


def constant_along(array: np.ndarray, axis: int) -> bool:
    """Whether the channel does not depend on the place on an axis."""
    if array.strides[axis] == 0 or array.shape[axis] == 1:
        return True
    first = np.take(array, [0], axis)
    return bool((array == first).all())


def moved(call: Call, array: np.ndarray) -> list[np.ndarray] | None:
    """The channels of a call's outputs; `None` if it does more than to move them.

    Args:
        call: A call with one input.
        array: The channels of that input.
    """
    shapes = [value.shape for value in call.outputs]
    if any(size is None for shape in shapes for size in shape):
        return None
    try:
        arrays = _moved(call, array, shapes)
        return None if arrays is None else [_thin(x) for x in arrays]
    except (ValueError, TypeError, IndexError, AttributeError):
        return None


def _moved(call: Call, x: np.ndarray, shapes: list[Any]) -> list[np.ndarray] | None:
    operation, name = call.operation, name_of(call.operation)
    if name in ("Reshape", "Flatten", "Ravel", "Squeeze", "ExpandDims"):
        return [x.reshape(shapes[0])]
    if isinstance(operation, keras.layers.Permute):
        return [x.transpose(0, *operation.dims)]
    if name in ("Transpose", "Permute"):
        return [x.transpose(_attribute(call, "axes", "dims"))]
    if name == "Swapaxes":
        return [x.swapaxes(operation.axis1, operation.axis2)]
    if name == "Moveaxis":
        return [np.moveaxis(x, operation.source, operation.destination)]
    if name == "GetItem":
        return [x[call.args[1]]]
    if name in ("Split", "ArraySplit"):
        sections = operation.indices_or_sections
        return list(np.array_split(x, sections, axis=operation.axis))
    if name == "Unstack":
        return list(np.moveaxis(x, operation.axis, 0))
    if name in ("Roll", "Flip"):
        axes = keras.tree.flatten(operation.axis)
        if all(constant_along(x, axis) for axis in axes):
            return [x]
        if name == "Flip":
            return [np.flip(x, operation.axis)]
        return [np.roll(x, operation.shift, operation.axis)]
    if name == "Repeat":
        return [np.repeat(x, operation.repeats, axis=operation.axis)]
    if name in ("BroadcastTo", "Pad", "ZeroPadding1D", "ZeroPadding2D", "Cropping2D", "Tile"):
        return [_resized(x, shapes[0])]
    return None


def _thin(x: np.ndarray) -> np.ndarray:
    """Without the memory that a copy took on axes that tell nothing."""
    if x.size <= _SMALL or 0 in x.strides:
        return x
    index = tuple(slice(0, 1) if constant_along(x, axis) else slice(None) for axis in range(x.ndim))
    return np.broadcast_to(x[index].copy(), x.shape)


def _attribute(call: Call, *names: str) -> Any:
    return next(getattr(call.operation, n) for n in names if hasattr(call.operation, n))


def _resized(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """On axes that tell nothing of the channel, longer or shorter."""
    x = x.reshape((1,) * (len(shape) - x.ndim) + x.shape)
    for axis, size in enumerate(shape):
        if x.shape[axis] != size:
            if not constant_along(x, axis):
                raise ValueError("channels are padded")
            x = np.take(x, [0], axis)
    return np.broadcast_to(x, shape)
