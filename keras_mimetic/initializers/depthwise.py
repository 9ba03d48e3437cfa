"""The `MimeticDepthwise` initializer."""

import math
from typing import Any, Literal

import keras
import numpy as np

from keras_mimetic._checks import check_positive
from keras_mimetic._numerics.depthwise import GAINS, depthwise_filters, rms_of_gain
from keras_mimetic.initializers.base import NumPyInitializer


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticDepthwise(NumPyInitializer):
    """Smooth, centered filters for depthwise convolutions, as trained ones are.

    Draws every filter independently from a normal distribution over its pixels,
    whose covariance has a closed form with one parameter, `sigma` (see
    `keras_mimetic._numerics.depthwise.covariance`). Near 0 a filter is one pixel, its
    center; above, it is a smooth bump of either sign about it. In trained
    networks sigma grows with depth: `sigma_at_depth` gives it for a place
    in the network.

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
        sigma: Spread in squared pixels, a number > 0: a variance, filters reach some
            sqrt(sigma) pixels.
        gain: Scale of the weight. `"keras"` has the root mean square entry of
            Keras's default (Glorot), whose fan-in counts channels that a
            depthwise filter does not see: it is small, 0.010 for a 7 x 7 kernel
            with 384 channels. `"fan_in"` has 1 / sqrt(kh kw), from the inputs
            that an output really sees: 0.143 there. A number g
            has g / sqrt(kh kw): g is the norm of a filter, in the root mean
            square over filters.
        seed: An integer >= 0 gives the same weight at every call; `None` takes
            one from Python's `random`, which `keras.utils.set_random_seed`
            sets; a `keras.random.SeedGenerator` gives a new weight at each
            call. Equal seeds give weights equal on every backend; between
            machines they may differ by rounding, about 1e-7 of their size.

    It takes kernels of `DepthwiseConv1D` and `2D` and of `SeparableConv*D`, of
    shape `(*kernel_size, channels, multiplier)`, and of grouped `Conv*D`, of
    shape `(*kernel_size, channels / groups, filters)`, and rounds to `dtype` at
    the end. A dense convolution's kernel cannot be told from these by its
    shape: each of its input and output channels gets a filter then.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value that is not allowed; at the call, for a shape of
            rank below 3 or a dtype that is not floating.

    Reference:

    - Trockman, Willmott and Kolter, 2023, "Understanding the Covariance
      Structure of Convolutional Filters" (arXiv:2210.03651): the idea. The form
      of the covariance and its constants are a reconstruction, the scale is
      ours.
    """

    def __init__(
        self, sigma: float, gain: float | Literal["keras", "fan_in"] = "keras", seed: Any = None
    ) -> None:
        self.sigma = check_positive("sigma", sigma)
        self.gain = check_gain("gain", gain)
        super().__init__(seed)

    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        if len(shape) < 3 or 0 in shape[:-2]:
            raise ValueError(
                "Argument `shape` must be that of a convolution kernel, "
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

    def strengths(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "gain": self.gain}

    def get_config(self) -> dict[str, Any]:
        return {
            "sigma": self.sigma,
            "gain": self.gain,
            "seed": self.serialized_seed(),
        }


def check_gain(name: str, gain: Any, more: tuple[str, ...] = ()) -> float | str:
    """Return `gain` if it is one of `GAINS`, of `more`, or a finite number > 0; else raise."""
    choices = (*more, *GAINS)
    allowed = f"{', '.join(map(repr, choices))} or a finite number > 0"
    if isinstance(gain, str):
        if gain not in choices:
            raise ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={gain!r}")
        return gain
    return check_positive(name, gain, allowed)
