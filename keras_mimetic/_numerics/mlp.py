"""The structure of mimetic MLPs, measured: means, and what they do to hidden units."""

import math
from typing import Any

import numpy as np

from keras_mimetic._numerics.fans import fans, scaled_std
from keras_mimetic._numerics.random import sample

NAN = float("nan")


def standardized_mean(matrix: np.ndarray) -> tuple[float, float]:
    """Mean of a matrix in its standard deviations, and a z value clustered by input channel.

    The weights of one input channel have much in common in trained networks (a
    mean of their own, random in sign), so that they are no independent evidence
    for a mean of them all. The z value therefore takes the means of channels for
    the independent draws: their mean divided by its standard error.

    Args:
        matrix: Of shape (inputs, outputs).

    Returns:
        The mean, in standard deviations of the entries about it, and z. NaN for a
        matrix of one value; z is NaN for fewer than 2 inputs.
    """
    means = matrix.mean(axis=1, dtype=np.float64)
    deviation = matrix.std(dtype=np.float64)
    if not deviation:
        return NAN, NAN
    z = NAN
    # Means that differ by no more than rounding have no spread.
    if len(means) > 1 and (spread := means.std(ddof=1)) > 1e-9 * np.abs(means).max():
        z = means.mean() / spread * math.sqrt(len(means))
    return float(means.mean() / deviation), float(z)


def energy_of_ones(matrix: np.ndarray, axis: int) -> float:
    """Energy of a matrix in the all-ones direction along an axis, 1 for independent entries.

    That is |u^T W|^2 / |W|^2 for u = (1, ..., 1) / sqrt(n), in multiples of 1/n,
    what a random direction has in expectation. Its maximum is n.

    Args:
        matrix: Of shape (inputs, outputs).
        axis: 0 for the direction over inputs, 1 for that over outputs.

    Returns:
        The energy; NaN for a matrix of zeros.
    """
    largest = np.abs(matrix).max(initial=0)
    if not largest:
        return NAN
    # The scale does not count, and its square might be out of range.
    matrix = matrix / largest
    total = float(np.vdot(matrix, matrix))
    sums = matrix.sum(axis=axis, dtype=np.float64)
    return float(sums @ sums) / total


def expected_of_normals(inputs: int, outputs: int) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the figures of a matrix of independent normals.

    `mean` has the law of t / sqrt(n - 1) with Student's t of n - 1 degrees of freedom, n the
    number of entries; `z` that of t with `inputs` - 1; and the energies are multiples of
    beta variables.

    Args:
        inputs: Rows of the matrix.
        outputs: Its columns.

    Returns:
        `(mean, deviation)` by figure: `mean`, `z`, `energy_over_inputs` and
        `energy_over_outputs`, as far as the law has a deviation.
    """
    entries = inputs * outputs
    expected = {}
    if entries > 3:
        expected["mean"] = 0.0, 1 / math.sqrt(entries - 3)
    if inputs > 3:
        expected["z"] = 0.0, math.sqrt((inputs - 1) / (inputs - 3))
    for name, count, sums in (
        ("energy_over_inputs", inputs, outputs),
        ("energy_over_outputs", outputs, inputs),
    ):
        mean, deviation = expected_part(sums, entries)
        # All of the energy is alike for the only input or output there is, to rounding.
        if deviation:
            expected[name] = count * mean, count * deviation
    return expected


def expected_part(some: int, entries: int) -> tuple[float, float]:
    """Mean and deviation of some entries' part of the energy of independent normals.

    That is a beta variable. Rotated, the entries may be sums over others.
    """
    part = some / entries
    return part, math.sqrt(part * (1 - part) / (entries / 2 + 1))


def effective_bias(
    matrix: np.ndarray, bias: Any, gamma: Any, beta: Any, *, centered: bool
) -> np.ndarray:
    """Bias of each hidden unit behind a normalization, in its pre-activation's deviations.

    For normalized inputs n of mean 0 and variance 1, a unit's pre-activation is
    w . (gamma n + beta) + b. Its mean is b + w . beta; its standard deviation
    |gamma w| if the channels of n are independent, which is assumed here (ours).
    LayerNorm's outputs sum to zero over the channels, so that there gamma w
    counts without its mean.

    Args:
        matrix: Of shape (inputs, units).
        bias: Of shape (units,), or `None` for zeros.
        gamma: The norm's scale, of shape (inputs,), or `None` for ones.
        beta: The norm's offset, of shape (inputs,), or `None` for zeros.
        centered: Whether n sums to zero over the inputs, as after a LayerNorm.

    Returns:
        float64 array of shape (units,); NaN for units without spread.
    """
    scaled = matrix.astype(np.float64)
    shift = np.zeros(matrix.shape[1]) if beta is None else np.asarray(beta, np.float64) @ scaled
    if bias is not None:
        shift = shift + bias
    if gamma is not None:
        scaled *= np.asarray(gamma, np.float64)[:, None]
    if centered:
        scaled -= scaled.mean(axis=0)
        # The other directions have a little more than variance 1 then.
        scaled *= math.sqrt(len(scaled) / max(1, len(scaled) - 1))
    spread = np.linalg.norm(scaled, axis=0)
    return np.divide(shift, spread, out=np.full_like(shift, NAN), where=spread > 0)


# All three constants are ours. `benchmarks/README.md` has the rows that decided them.
# Mean after a fresh LayerNorm, in standard deviations of the matrix.
MEAN_AFTER_LAYER_NORM = -1.0
# Mean anywhere else, in standard deviations of the matrix divided by sqrt(fan_in).
SAFE_SHIFT = -0.5
# Start of the hidden bias, in standard deviations of the pre-activation.
HIDDEN_BIAS = -0.5


def safe_mean(fan_in: int) -> float:
    """Return the mean that no input can turn into a large shift, `-0.5 / sqrt(fan_in)`.

    A mean of m standard deviations shifts a pre-activation by
    `m * sqrt(fan_in) * average(x) / rms(x)` of its own spreads. The average of x is at
    most its root mean square, so this mean shifts by half a spread at most.

    Args:
        fan_in: Number of inputs of each unit, an integer >= 1.

    Returns:
        The mean in standard deviations of the matrix.
    """
    return SAFE_SHIFT / math.sqrt(fan_in)


def auto_mean(before: str, fan_in: int) -> float | None:
    """Return the default mean of an MLP's first matrix, in its standard deviations.

    Args:
        before: What the MLP reads: `"layer_norm"` (fresh, over the channels),
            `"batch_norm"`, `"normalized_activation"` (a norm after an activation) or
            `"other"`.
        fan_in: Number of inputs of each unit.

    Returns:
        The mean, or `None` to leave the matrix as it is.
    """
    if before == "normalized_activation":
        return None
    return MEAN_AFTER_LAYER_NORM if before == "layer_norm" else safe_mean(fan_in)


def auto_hidden_bias(before: str) -> float | None:
    """Return the default start of an MLP's hidden bias, in pre-activation deviations.

    Args:
        before: See `auto_mean`.

    Returns:
        The start after a LayerNorm or BatchNorm, where the scale of the input is known;
        `None` to leave the bias as it is.
    """
    return HIDDEN_BIAS if before in ("layer_norm", "batch_norm") else None


def bias_start(hidden_bias: float, std: float, fan_in: int, mean: float) -> float:
    """Return the value at which the bias after a matrix starts, absolute.

    Args:
        hidden_bias: In standard deviations of the pre-activation, for independent
            inputs of mean 0 and variance 1.
        std: Standard deviation of the matrix, absolute.
        fan_in: Number of inputs of each unit.
        mean: Mean of the matrix in standard deviations, which adds to the spread of
            the pre-activation; 0 where the inputs sum to zero.
    """
    return hidden_bias * std * math.sqrt(fan_in * (1 + mean**2))


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
        distribution: That of Z, one of `DISTRIBUTIONS`.
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
    return sample(distribution, shape, seed, mean=mean * std, std=std)


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
