"""Mimetic MLPs: means of matrices, their effect on hidden units, and how to measure both."""

import math
from collections.abc import Callable

import numpy as np

from keras_mimetic._numerics.random import sample


def standardized_mean(matrix: np.ndarray) -> tuple[float, float]:
    """Return the mean of a matrix (inputs, outputs) in its stds, and z; NaN where undefined.

    In trained networks, the weights of an input channel share a mean of random sign, so
    they are not independent evidence for a mean of the whole matrix. Therefore z treats the
    means of the channels as the independent samples: it is their mean divided by its standard
    error.
    """
    means = matrix.mean(axis=1, dtype=np.float64)
    std = matrix.std(dtype=np.float64)
    if not std:
        return math.nan, math.nan
    z = math.nan
    # Differences within rounding are no spread.
    if len(means) > 1 and (spread := means.std(ddof=1)) > 1e-9 * np.abs(means).max():
        z = means.mean() / spread * math.sqrt(len(means))
    return float(means.mean() / std), float(z)


def energy_of_ones(matrix: np.ndarray, axis: int) -> float:
    """Return n |u^T W|^2 / |W|^2 for u = (1, ..., 1) / sqrt(n) along an axis; NaN for zeros.

    It is at most n, and 1 in expectation for independent entries.
    """
    total = float(np.square(matrix, dtype=np.float64).sum())
    sums = matrix.sum(axis=axis, dtype=np.float64)
    return float(sums @ sums) / total if total else math.nan


def expected_of_normals(inputs: int, outputs: int) -> dict[str, tuple[float, float]]:
    """Return mean and std, by name, of the figures of independent normals, where they are finite.

    For n entries, `mean` is distributed as t / sqrt(n - 1), with Student's t of n - 1 degrees of
    freedom; `z` as t of `inputs` - 1 degrees; and the energies as multiples of beta variables.
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
        mean, std = expected_part(sums, entries)
        expected[name] = count * mean, count * std
    return expected


def expected_part(some: int, entries: int) -> tuple[float, float]:
    """Return mean and standard deviation of the fraction of energy in `some` of `entries` normals.

    The fraction is a beta variable. By rotation, this also holds for normalized sums of entries.
    """
    part = some / entries
    return part, math.sqrt(part * (1 - part) / (entries / 2 + 1))


def effective_bias(
    matrix: np.ndarray,
    bias: np.ndarray | None,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    *,
    centered: bool,
) -> np.ndarray:
    """Return the biases (units,) after a normalization, in stds of the pre-activations.

    For normalized inputs n of mean 0 and variance 1, the pre-activation of a unit is
    w . (gamma n + beta) + b, with w its column of the matrix (inputs, units). Its mean is
    b + w . beta, and its standard deviation |gamma w|, if the channels of n are independent, which
    we assume. If `centered`, n sums to zero over the inputs, as after a LayerNorm, so the mean of
    gamma w is subtracted. `None` is a bias or beta of 0, or a gamma of 1. The result is NaN for
    units whose pre-activation is constant.
    """
    scaled = matrix.astype(np.float64)
    shift = np.zeros(matrix.shape[1]) if beta is None else np.asarray(beta, np.float64) @ scaled
    if bias is not None:
        shift = shift + bias
    if gamma is not None:
        scaled *= np.asarray(gamma, np.float64)[:, None]
    if centered:
        scaled -= scaled.mean(axis=0)
        # The remaining directions have variance n / (n - 1).
        scaled *= math.sqrt(len(scaled) / max(1, len(scaled) - 1))
    spread = np.linalg.norm(scaled, axis=0)
    return np.divide(shift, spread, out=np.full_like(shift, math.nan), where=spread > 0)


# All three constants are ours. What decided them in benchmarks/results: `mean-1` and `bias-0.5` of
# confirm-mlp/table.md and defaults/over-spatial.md, `shift-0.5` of plain-mlp/table.md.
# Mean after an untrained LayerNorm, in standard deviations of the matrix.
MEAN_AFTER_LAYER_NORM = -1.0
# Mean elsewhere, in standard deviations of the matrix divided by sqrt(fan_in).
SAFE_SHIFT = -0.5
# Initial hidden bias, in standard deviations of the pre-activation.
HIDDEN_BIAS = -0.5


def safe_mean(fan_in: int) -> float:
    """Return a mean in standard deviations that is safe for every input, `-0.5 / sqrt(fan_in)`.

    A mean of m stds shifts a pre-activation by `m * sqrt(fan_in) * average(x) / rms(x)` of its
    stds, and the average of x is at most its rms: this mean shifts by at most half a std.
    """
    return SAFE_SHIFT / math.sqrt(max(1, fan_in))


def auto_mean(before: str, fan_in: int) -> float | None:
    """Return the default mean of an MLP's first matrix in its stds; `None` keeps the matrix.

    The input of the MLP is `"layer_norm"` (untrained, over the channels), `"batch_norm"`,
    `"normalized_activation"` (a norm after an activation) or `"other"`.
    """
    if before == "normalized_activation":
        return None
    return MEAN_AFTER_LAYER_NORM if before == "layer_norm" else safe_mean(fan_in)


def auto_hidden_bias(before: str) -> float | None:
    """Return the default hidden bias of an MLP in pre-activation stds; `None` keeps the bias.

    There is one only after a LayerNorm or BatchNorm, where the scale of the input is known.
    """
    return HIDDEN_BIAS if before in ("layer_norm", "batch_norm") else None


def bias_start(hidden_bias: float, std: float, fan_in: int, mean: float) -> float:
    """Return a hidden bias that is given in stds of the pre-activation, in absolute units.

    The inputs are independent, of mean 0 and variance 1. The mean of the matrix, in units of its
    `std`, widens the pre-activation; pass 0 if the inputs sum to zero.
    """
    return hidden_bias * std * math.sqrt(fan_in * (1 + mean**2))


# Tolerance on the mean, in standard deviations: weights of low precision cannot be shifted
# more finely.
_TOLERANCE = 1e-3


def shifted_to_mean(
    values: np.ndarray,
    mean: float,
    rounded: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Shift a float32 weight to a mean in units of its own standard deviation, idempotently.

    `rounded` rounds an array to the precision of the weight, if that is not float32.
    """
    before, std = _mean_and_std(values)
    error = abs(before / std - mean)
    # Rounding may miss the mean, since it shifts equally spaced values by equal amounts. Then
    # shift again until it no longer helps, so that a second call has nothing to do.
    while error >= _TOLERANCE:
        shifted = np.add(values, mean * std - before, dtype=np.float64).astype(np.float32)
        if rounded is None or not np.isfinite(nearest := rounded(shifted)).all():
            return shifted
        before, std = _mean_and_std(nearest)
        now = abs(before / std - mean) if std else 0.0
        if now >= error:
            break
        values, error = nearest, now
    return values


def _mean_and_std(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def random_signs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Sample +1 or -1 for each entry, as a float32 array."""
    return np.copysign(np.float32(1), sample("uniform", shape, seed))


def with_signs_in_mean(values: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, float]:
    """Replace the mean of a float32 weight by signs (+1, -1) of its size, one for each entry.

    This keeps the norm up to sampling error, and is idempotent. The second result is the
    standard deviation without the signs, relative to that before.
    """
    mean, std = _mean_and_std(values)
    if abs(mean) < 1e-6 * std:
        # A mean of 0, up to rounding.
        return values, 1.0
    values = values - np.float32(mean)
    signs = signs - signs.mean(dtype=np.float32)
    # In float64, since a float32 dot product has other errors on other processors.
    wide = signs.astype(np.float64)
    values -= np.float32(np.vdot(values, wide) / np.vdot(wide, wide)) * signs
    rest = values.std(dtype=np.float64)
    return values + np.float32(mean / std * rest) * signs, rest / std
