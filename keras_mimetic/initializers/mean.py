"""The `MimeticMean` initializer."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_mimetic._checks import AUTO, check_choice, check_integer, check_number, warn
from keras_mimetic._numerics.fans import MODES, fans, scaled_std
from keras_mimetic._numerics.mlp import safe_mean
from keras_mimetic._numerics.random import DISTRIBUTIONS, sample
from keras_mimetic.initializers.base import NumPyInitializer


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticMean(NumPyInitializer):
    """Variance scaling with a nonzero mean, for the first matrix of an MLP.

    Which `mean` to use:

    - `"auto"`, the default, is safe for any input. It is `-0.5 / sqrt(fan_in)` and shifts a
      pre-activation by at most half of its standard deviation.
    - `-1` is for a layer *directly after a LayerNormalization* over the channels, and for no
      other. The output of the normalization sums to zero, so the mean has no effect at first.
      Later it acts as a hidden bias that all units share and that learns quickly.
    - Any other number shifts the outputs of `x @ W` by `mean * sqrt(fan_in) * average(x) /
      rms(x)` of their standard deviations. For inputs uniform on (0, 1), `fan_in=3072` and
      `mean=-0.1`, the shift is -4.8 standard deviations, and a ReLU layer is dead.

    Use Keras's own initializers for biases and recurrent kernels. This one warns when it
    samples a bias, but cannot recognize a recurrent kernel by its shape.

    Samples `W = s * (Z + mean)`, where Z has mean 0 and variance 1 and
    `s = sqrt(scale / fan)`. With `mean=0` and the other defaults, the distribution is that of
    Keras's `GlorotUniform`.

    Evidence for these defaults, in points of accuracy after short training (n = 5): after a
    LayerNormalization, -1 adds +1.4 [0.8, 2.0] in a ConvNeXt-like network and +0.6 [0.4, 0.8] in
    a ViT (`mean-1` in `benchmarks/results/defaults/over-spatial.md`), less on top of a negative
    hidden bias (`mean-1_bias-0.5` in `benchmarks/results/defaults/table.md`). `"auto"` has no
    measurable effect (`shift-0.5` in `benchmarks/results/plain-mlp/table.md` and `shift-0.5` in
    `benchmarks/results/safe-mean/table.md`); twice that value gave -0.4 [-0.8, 0.0] on raw pixels
    with ReLU.

    Examples:

    >>> # In any layer:
    >>> layer = keras.layers.Dense(256, "relu", kernel_initializer=MimeticMean())

    >>> # By its name, after importing `keras_mimetic`:
    >>> layer = keras.layers.Dense(256, "relu", kernel_initializer="mimetic_mean")

    >>> # Directly after a LayerNormalization:
    >>> mlp = keras.Sequential(
    ...     [
    ...         keras.layers.LayerNormalization(),
    ...         keras.layers.Dense(256, "gelu", kernel_initializer=MimeticMean(-1)),
    ...         keras.layers.Dense(64),
    ...     ]
    ... )

    >>> # Standalone:
    >>> weight = MimeticMean(seed=0)(shape=(64, 256))

    >>> # In `EinsumDense`, whose axes an initializer cannot see:
    >>> layer = keras.layers.EinsumDense(
    ...     "abc,cde->abde",
    ...     output_shape=(None, 8, 32),
    ...     kernel_initializer=MimeticMean(input_axes=(0,), output_axes=(1, 2)),
    ... )

    Args:
        mean: Mean of the weight in units of `s`, `"auto"` or a number. The nonzero mean is the
            paper's idea; we chose its sign and size.
        scale: Variance of the weight times the fan, a positive number.
        mode: The fan: `"fan_in"`, `"fan_out"` or `"fan_avg"`, their average.
        distribution: `"uniform"`, `"truncated_normal"` (cut at two standard deviations; Keras
            also calls it `"normal"`), or `"untruncated_normal"`. All have standard deviation
            `s`.
        seed: An integer >= 0 gives the same weight at every call and, bit for bit, on every
            backend. `None` takes a seed from Python's `random`, which
            `keras.utils.set_random_seed` controls. A `keras.random.SeedGenerator` gives a new
            weight at each call.
        input_axes: Axes of the weight that are contracted with the input, if they are not those
            of a `Dense` or convolution kernel.
        output_axes: Axes of the weight that the output keeps. Required with `input_axes`.

    Call arguments:
        shape: Shape of the weight.
        dtype: A floating dtype; `None` is `keras.config.floatx()`. Values are cast last.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed; when called, if the dtype is not floating, the
            shape does not have the axes, or a `SeedGenerator` is used while a function is traced.

    References:

    - Trockman and Kolter, 2026, "Mimetic Initialization of MLPs" (arXiv:2602.07156): the
      nonzero mean.
    - [Glorot and Bengio, 2010](https://proceedings.mlr.press/v9/glorot10a.html): the scale.
    """

    def __init__(
        self,
        mean: float | Literal["auto"] = AUTO,
        scale: float = 1.0,
        mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_avg",
        distribution: Literal[
            "uniform", "normal", "truncated_normal", "untruncated_normal"
        ] = "uniform",
        seed: Any = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ) -> None:
        self.mean = check_number("mean", mean, or_=(AUTO,))
        self.scale = check_number("scale", scale, above=0)
        self.mode = check_choice("mode", mode, MODES)
        self.distribution = _check_distribution(distribution)
        if (input_axes is None) != (output_axes is None):
            raise ValueError(
                "Arguments `input_axes` and `output_axes` must be given together. "
                f"Received: input_axes={input_axes}, output_axes={output_axes}"
            )
        self.input_axes = _check_axes("input_axes", input_axes)
        self.output_axes = _check_axes("output_axes", output_axes)
        super().__init__(seed)

    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        if len(shape) == 1 and self.mean != 0:
            warn(f"MimeticMean is for kernels. It was used for a bias or scale of shape {shape}.")
        fan_in, fan_out = fans(shape, self.input_axes, self.output_axes)
        std = scaled_std(fan_in, fan_out, scale=self.scale, mode=self.mode)
        mean = safe_mean(fan_in) if isinstance(self.mean, str) else self.mean
        return sample(self.distribution, shape, seed, mean=mean * std, std=std)

    def get_config(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "scale": self.scale,
            "mode": self.mode,
            "distribution": self.distribution,
            "seed": self.serialized_seed(),
            "input_axes": self.input_axes and list(self.input_axes),
            "output_axes": self.output_axes and list(self.output_axes),
        }


def _check_distribution(distribution: Any) -> str:
    """Return the name of a distribution; as in Keras, case is ignored and "normal" is truncated."""
    name = distribution.lower() if isinstance(distribution, str) else distribution
    check_choice("distribution", name, (*DISTRIBUTIONS, "normal"))
    return "truncated_normal" if name == "normal" else name


def _check_axes(name: str, axes: Any) -> tuple[int, ...] | None:
    if axes is None:
        return None
    if not isinstance(axes, (list, tuple)) or not axes:
        raise TypeError(
            f"Argument `{name}` must be None or a tuple of axes. Received: {name}={axes!r}"
        )
    # Negative axes count from the end.
    return tuple(check_integer(name, axis, minimum=-64) for axis in axes)
