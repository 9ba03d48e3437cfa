"""Moments and shifts of large weights, in float64 and without a copy of the whole array.

Blocks fit a processor's own cache. Nothing here uses BLAS, whose rounding depends on the
processor and whose threads cost more than they save on blocks of this size.
"""

import math

import numpy as np

_BLOCK = 1 << 14


def array_moments(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of a non-empty array."""
    flat = values.ravel(order="K")
    count, mean, squares = 0, 0.0, 0.0
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
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
    flat = values.ravel(order="K")
    squares = 0.0
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        squares += float(np.add.reduce(np.square(block, out=block)))
    return math.sqrt(squares)


def add_to_array(values: np.ndarray, shift: float) -> np.ndarray:
    """Return `values + shift`, added in float64, as a float32 array."""
    out = np.array(values, np.float32, order="C")
    flat = out.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        block += shift
        flat[start : start + _BLOCK] = block
    return out
