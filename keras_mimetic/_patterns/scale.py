"""The nominal scale of an initializer."""

import math
from typing import Any

import keras

from keras_mimetic._numerics.fans import fans, scaled_std

# Standard deviation of a unit normal truncated at two standard deviations.
_TRUNCATED = 0.87962566103423978


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
