"""The nominal scale of an initializer."""

import math
from typing import Any

import keras
import numpy as np

from keras_mimetic._numerics.fans import fans, scaled_std

# Standard deviation of a unit normal truncated at two standard deviations.
_TRUNCATED = 0.87962566103423978


def rms_to_keep(values: np.ndarray, initializer: Any, axes: int) -> tuple[float, bool]:
    """Return the root mean square that new values keep, and whether it is the initializer's.

    The initializer's does not depend on samples. If the values are no samples of it, theirs
    is kept. Values are independent along the last `axes` axes.
    """
    shape = values.shape
    squares = np.square(values, dtype=np.float64)
    own = math.sqrt(squares.mean())
    meant = rms_of(initializer, shape)
    if not meant or not own:
        return own, False
    samples = squares.reshape(-1, math.prod(shape[-axes:])).mean(axis=0)
    # Of few samples, the error is that of normals that are constant in each.
    error = samples.std() if len(samples) > 15 else math.sqrt(2) * meant**2
    is_meant = abs(own**2 - meant**2) < 6 * error / math.sqrt(len(samples))
    return (meant, True) if is_meant else (own, False)


def rms_of(initializer: Any, shape: tuple[int, ...]) -> float | None:
    """Return the expected root mean square of an initializer's values, or `None` if unknown."""
    known = keras.initializers
    if isinstance(initializer, known.VarianceScaling):
        return scaled_std(*fans(shape), scale=initializer.scale, mode=initializer.mode)
    if isinstance(initializer, known.TruncatedNormal):
        return math.hypot(initializer.mean, _TRUNCATED * initializer.stddev)
    if isinstance(initializer, known.RandomNormal):
        return math.hypot(initializer.mean, initializer.stddev)
    if isinstance(initializer, known.RandomUniform):
        low, high = initializer.minval, initializer.maxval
        return math.sqrt((low * low + low * high + high * high) / 3)
    return None
