"""The nominal scale of an initializer."""

import math
from typing import Any

import keras
import numpy as np

from keras_mimetic._numerics.fans import fans, scaled_std
from keras_mimetic._patterns.kernels import values_of

# Standard deviation of a unit normal truncated at two standard deviations.
_TRUNCATED = 0.87962566103423978


def rms_to_keep(variable: Any, initializer: Any) -> float:
    """Return the root mean square entry that new values of a variable keep.

    It is what the variable's initializer means, so that it does not depend on its
    samples, or the variable's own where its values are no sample of that.
    """
    shape = tuple(variable.shape)
    own = float(np.sqrt(np.mean(np.square(values_of(variable), dtype=np.float64))))
    meant = rms_of(initializer, shape)
    if not meant:
        return own
    # Five standard errors of the root mean square of normals.
    return meant if abs(own / meant - 1) < 5 / np.sqrt(2 * math.prod(shape)) else own


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
