"""Moments and shifts of large weights, in float64 and without a copy of the whole array.

Blocks fit a processor's own cache. Nothing here uses BLAS, whose rounding depends on the
processor and whose threads cost more than they save on blocks of this size.
"""

import math
from collections.abc import Iterator

import numpy as np

_BLOCK = 1 << 14


def array_moments(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of a non-empty array."""
    count, mean, squares = 0, 0.0, 0.0
    for _, block in _blocks(values.ravel(order="K")):
        own_mean = float(np.add.reduce(block)) / len(block)
        block -= own_mean
        np.square(block, out=block)
        # Moments of two sets from those of each.
        total = count + len(block)
        change = own_mean - mean
        squares += float(np.add.reduce(block)) + change**2 * count * len(block) / total
        mean += change * len(block) / total
        count = total
    return mean, math.sqrt(squares / count)


def array_norm(values: np.ndarray) -> float:
    """Return the Frobenius norm of an array, whose squares float32 may not hold."""
    blocks = _blocks(values.ravel(order="K"))
    return math.sqrt(sum(float(np.add.reduce(np.square(b, out=b))) for _, b in blocks))


def add_to_array(values: np.ndarray, shift: float) -> np.ndarray:
    """Return `values + shift`, added in float64, as a float32 array."""
    out = np.array(values, np.float32, order="C")
    flat = out.reshape(-1)
    for where, block in _blocks(flat):
        block += shift
        flat[where] = block
    return out


def _blocks(flat: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the slice of each block, and a copy of its values in float64."""
    for start in range(0, len(flat), _BLOCK):
        where = slice(start, start + _BLOCK)
        yield where, flat[where].astype(np.float64)
