"""The structure of mimetic MLPs, measured: means, and what they do to hidden units."""

import math
from typing import Any

import numpy as np

NAN = float("nan")


def mean_in_deviations(matrix: np.ndarray) -> tuple[float, float]:
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
    matrix: np.ndarray, bias: Any, gamma: Any, beta: Any, *, centred: bool
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
        centred: Whether n sums to zero over the inputs, as after a LayerNorm.

    Returns:
        float64 array of shape (units,); NaN for units without spread.
    """
    scaled = matrix.astype(np.float64)
    shift = np.zeros(matrix.shape[1]) if beta is None else np.asarray(beta, np.float64) @ scaled
    if bias is not None:
        shift = shift + bias
    if gamma is not None:
        scaled *= np.asarray(gamma, np.float64)[:, None]
    if centred:
        scaled -= scaled.mean(axis=0)
        # The other directions have a little more than variance 1 then.
        scaled *= math.sqrt(len(scaled) / max(1, len(scaled) - 1))
    spread = np.linalg.norm(scaled, axis=0)
    return np.divide(shift, spread, out=np.full_like(shift, NAN), where=spread > 0)
