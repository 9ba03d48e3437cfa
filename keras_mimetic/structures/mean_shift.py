"""A weight with a nonzero mean: the structure of mimetic MLPs."""

import numpy as np

from keras_mimetic import draws
from keras_mimetic.structures.variance_scaling import fans, scaled_std

# A mean this near to the one asked for, in standard deviations, is that mean: weights
# of low precision cannot be shifted more finely.
_TOLERANCE = 1e-3


def mean_shifted(
    shape: tuple[int, ...],
    *,
    mean: float,
    scale: float,
    mode: str,
    distribution: str,
    seed: int,
    input_axes: tuple[int, ...] | None = None,
    output_axes: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Draw W = s (Z + mean): a variance-scaled weight moved off zero.

    Z has mean 0 and variance 1, and s = sqrt(scale / fan).

    Args:
        shape: Shape of the weight.
        mean: Mean of W, in its standard deviations s.
        scale: Positive number, the variance times the fan.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.
        distribution: That of Z, one of `draws.DISTRIBUTIONS`.
        seed: Integer >= 0.
        input_axes: See `fans`.
        output_axes: See `fans`.

    Returns:
        float32 array.

    Reference:

    - Trockman and Kolter, 2026, "Mimetic Initialization of MLPs"
      (arXiv:2602.07156).
    """
    std = scaled_std(*fans(shape, input_axes, output_axes), scale=scale, mode=mode)
    return draws.draw(distribution, shape, seed, mean=mean * std, std=std)


def shifted_to_mean(values: np.ndarray, mean: float) -> np.ndarray:
    """Shift a weight to a mean in units of its own standard deviation.

    The scale, the distribution and any other structure of the weight stay. Shifting
    twice equals shifting once.

    Args:
        values: float32 array of at least two different values.
        mean: The new mean, in standard deviations of `values` about their mean.

    Returns:
        float32 array of the same shape.
    """
    before = values.mean(dtype=np.float64)
    std = values.std(dtype=np.float64)
    if abs(before / std - mean) < _TOLERANCE:
        return values
    return (values + (mean * std - before)).astype(np.float32)
