"""Channels followed through operations that only move entries.

An array of channel numbers has the shape of a tensor, and gives the channel of each
entry. Along axes on which the channel does not depend, the array has stride 0 and takes
no memory. Functions that read or copy entries skip these axes.
"""

import math
import re
from typing import Any

import keras
import numpy as np

from keras_mimetic._graph.graph import Call
from keras_mimetic._graph.operations import name_of


def spread(numbers: np.ndarray, axes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Broadcast `numbers`, whose axes are `axes` of a tensor, to the shape of the tensor."""
    full = [1] * len(shape)
    for axis, size in zip(axes, numbers.shape, strict=True):
        full[axis] = size
    order = np.argsort(axes)
    return np.broadcast_to(numbers.transpose(order).reshape(full), shape)


def constant_along(array: np.ndarray, axis: int) -> bool:
    """Return whether the channel is constant along an axis."""
    array = without_repeats(array)
    if array.shape[axis] == 1:
        return True
    first = array[(slice(None),) * axis + (slice(0, 1),)]
    return bool((array == first).all())


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two arrays have the same shape and channels."""
    if a.shape != b.shape:
        return False
    kept = tuple(
        slice(0, 1) if strides == (0, 0) else slice(None)
        for strides in zip(a.strides, b.strides, strict=True)
    )
    return bool((a[kept] == b[kept]).all())


def moved(call: Call, array: np.ndarray) -> list[np.ndarray] | None:
    """Return the channels of each output of a call with one input; `None` if it changes entries."""
    shapes = [value.sizes for value in call.outputs]
    if None in shapes:
        return None
    try:
        arrays = _moved(call, array, shapes)
        return None if arrays is None else [_thin(x) for x in arrays]
    except (ValueError, TypeError, IndexError, AttributeError):
        return None


def _moved(call: Call, x: np.ndarray, shapes: list[Any]) -> list[np.ndarray] | None:
    operation, name = call.operation, name_of(call.operation)
    if name in ("Reshape", "Flatten", "Ravel", "Squeeze", "ExpandDims"):
        return [_reshaped(x, shapes[0])]
    if isinstance(operation, keras.layers.Permute):
        return [x.transpose(0, *operation.dims)]
    if name == "Transpose":
        return [x.transpose(operation.axes)]
    if name == "Swapaxes":
        return [x.swapaxes(operation.axis1, operation.axis2)]
    if name == "Moveaxis":
        return [np.moveaxis(x, operation.source, operation.destination)]
    if name == "GetItem":
        key = call.args[1]
        return [x[tuple(key) if isinstance(key, list) else key]]
    if name == "Rearrange":
        return [_rearranged(x, call, shapes[0])]
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
        if constant_along(x, operation.axis):
            return [_resized(x, shapes[0])]
        repeated = np.repeat(without_repeats(x), operation.repeats, axis=operation.axis)
        return [np.broadcast_to(repeated, shapes[0])]
    if name in ("BroadcastTo", "Pad", "ZeroPadding1D", "ZeroPadding2D", "Cropping2D", "Tile"):
        return [_resized(x, shapes[0])]
    return None


def _rearranged(x: np.ndarray, call: Call, shape: tuple[int, ...]) -> np.ndarray:
    """Rearrange as `keras.ops.rearrange` does: "b n (h d) -> b h n d"."""
    left, right = (
        [re.findall(r"\w+", group) for group in re.findall(r"\(.*?\)|\w+", side)]
        for side in call.args[1].split("->")
    )
    sizes = dict(call.kwargs)
    for group, size in zip(left, x.shape, strict=True):
        known = math.prod(sizes[name] for name in group if name in sizes)
        sizes |= {name: size // known for name in group if name not in sizes}
    names = [name for group in left for name in group]
    order = [names.index(name) for group in right for name in group]
    split = _reshaped(x, tuple(sizes[name] for name in names))
    return _reshaped(split.transpose(order), shape)


def _thin(x: np.ndarray) -> np.ndarray:
    """Free the memory that a copy took for axes along which the channel is constant."""
    kept = without_repeats(x)
    for axis in range(x.ndim):
        if kept.shape[axis] > 1 and constant_along(kept, axis):
            kept = kept[(slice(None),) * axis + (slice(0, 1),)]
    return np.broadcast_to(kept if kept.size == x.size else kept.copy(), x.shape)


def without_repeats(x: np.ndarray) -> np.ndarray:
    """Return a view with one entry on each axis of stride 0."""
    return x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.strides)]


def _reshaped(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reshape by groups of axes, with one entry for groups along which the channel is constant."""
    if math.prod(shape) != x.size:
        raise ValueError("sizes differ")
    kept: list[slice] = []
    sizes: list[int] = []
    for before, after in _groups(x.shape, shape):
        is_constant = not any(x.strides[axis] for axis in before if x.shape[axis] > 1)
        kept += [slice(0, 1) if is_constant else slice(None)] * len(before)
        sizes += [1 if is_constant else shape[axis] for axis in after]
    return np.broadcast_to(x[tuple(kept)].reshape(sizes), shape)


def _groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Split the axes of two shapes of equal size into the shortest runs of equal sizes."""
    groups = []
    i = j = 0
    while i < len(before) and j < len(after):
        first, second = [i], [j]
        sizes = before[i], after[j]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                i += 1
                first.append(i)
                sizes = sizes[0] * before[i], sizes[1]
            else:
                j += 1
                second.append(j)
                sizes = sizes[0], sizes[1] * after[j]
        groups.append((first, second))
        i, j = i + 1, j + 1
    # Remaining axes have size 1.
    return [*groups, (list(range(i, len(before))), list(range(j, len(after))))]


def _resized(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize axes along which the channel is constant."""
    x = x.reshape((1,) * (len(shape) - x.ndim) + x.shape)
    for axis, size in enumerate(shape):
        if x.shape[axis] != size:
            if not constant_along(x, axis):
                raise ValueError("channels are padded")
            x = x[(slice(None),) * axis + (slice(0, 1),)]
    return np.broadcast_to(x, shape)
