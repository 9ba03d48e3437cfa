"""The `MimeticDepthwise` initializer."""

import math
from typing import Any, Literal

import keras
import numpy as np

from keras_mimetic._checks import check_number
from keras_mimetic._numerics.depthwise import GAINS, depthwise_filters, rms_of_gain
from keras_mimetic.initializers.base import NumPyInitializer


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticDepthwise(NumPyInitializer):
    """Smooth, centered filters for depthwise convolutions, as in trained networks.

    Samples each filter independently from a normal distribution over its pixels. With
    `g(i, j) = exp(-|i - j|^2 / (2 sigma))` for pixels i and j, and the center c of the filter, its
    covariance is proportional to the positive semi-definite matrix nearest to

        (K + K^T) / 2,    K_ij = g(i, c) (g(i, j) - g(j, c) / 2)

    For `sigma` near 0 a filter is a single pixel, its center; for larger values it is a smooth
    bump of either sign around the center. In trained networks sigma grows with depth;
    `sigma_at_depth` gives its value.

    Accepts kernels of `DepthwiseConv*D` and `SeparableConv*D`, of shape
    `(*kernel_size, channels, multiplier)`, and of grouped `Conv*D`, of shape
    `(*kernel_size, channels / groups, filters)`. The kernel of a dense convolution has the same
    rank and is not refused: each pair of an input and an output channel gets a filter.

    Examples:

    >>> # Standalone, 5 x 5, 16 channels:
    >>> weight = MimeticDepthwise(sigma=0.5, seed=0)(shape=(5, 5, 16, 1))

    >>> # The third of seven such layers:
    >>> layer = keras.layers.DepthwiseConv2D(
    ...     7,
    ...     padding="same",
    ...     depthwise_initializer=MimeticDepthwise(sigma_at_depth(2 / 6)),
    ... )

    Args:
        sigma: Width of the covariance in squared pixels, a number > 0. Filters extend over
            about sqrt(sigma) pixels.
        gain: Root mean square of the weight. `"keras"` is that of Keras's default (Glorot),
            whose fan-in counts channels that a depthwise filter does not see: 0.010 for a
            7 x 7 kernel with 384 channels. `"fan_in"` is 1 / sqrt(height * width), 0.143 here. A
            number g is g / sqrt(height * width): g is the root mean square norm of the filters.
        seed: An integer >= 0 gives the same weight at every call. `None` takes a seed from
            Python's `random`, which `keras.utils.set_random_seed` controls. A
            `keras.random.SeedGenerator` gives a new weight at each call. Equal seeds give equal
            weights on every backend; between machines they may differ by rounding, about 1e-7 of
            their size.

    Call arguments:
        shape: Shape of a convolution kernel, of rank 3 or higher.
        dtype: A floating dtype; `None` is `keras.config.floatx()`. Values are cast last.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed; when called, if the shape has a rank below 3 or
            the dtype is not floating.

    Reference:

    - Trockman, Willmott and Kolter, 2023, "Understanding the Covariance Structure of
      Convolutional Filters" (arXiv:2210.03651). The form of the covariance and its constants
      are a reconstruction; the scale is ours.
    """

    def __init__(
        self, sigma: float, gain: float | Literal["keras", "fan_in"] = "keras", seed: Any = None
    ) -> None:
        self.sigma = check_number("sigma", sigma, above=0)
        self.gain = check_number("gain", gain, above=0, or_=GAINS)
        super().__init__(seed)

    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        if len(shape) < 3 or 0 in shape[:-2]:
            raise ValueError(
                "MimeticDepthwise is for the kernels of convolutions, of shape "
                f"(*kernel_size, channels, filters). Received: shape={shape}"
            )
        filters = depthwise_filters(
            shape[:-2],
            math.prod(shape[-2:]),
            sigma=self.sigma,
            rms=rms_of_gain(shape, self.gain),
            seed=seed,
        )
        return filters.reshape(shape)

    def get_config(self) -> dict[str, Any]:
        return {
            "sigma": self.sigma,
            "gain": self.gain,
            "seed": self.serialized_seed(),
        }
