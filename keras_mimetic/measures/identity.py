"""The structure of mimetic attention, measured: products near identities."""

import functools
import math
from typing import Any

import numpy as np

from keras_mimetic.draws import subseed
from keras_mimetic.structures.noise_plus_identity import factors, one_blas_thread

NAN = float("nan")
# Width of the reference products that `strengths` compares with: a truncated
# product's trace and norm depend on the rank's part of the width, hardly on the width.
_REFERENCE_WIDTH = 256


# A product's diagonal, the sum of its squared entries, and that of its entries.
Moments = tuple[np.ndarray, float, float]


def diagonal(left: np.ndarray, right: np.ndarray, known: Moments | None = None) -> float:
    """Mean of a product's diagonal in deviations of its off-diagonal entries.

    It needs no product: the cost is that of two (rank, rank) matrices.

    Args:
        left: Of shape (n, rank).
        right: Of shape (rank, n).
        known: Their `moments`, if they are there.

    Returns:
        mean_i P_ii / std_(i != j) P_ij for P = left right; 0 plus or minus
        1/sqrt(n) for independent entries. NaN where it is not defined.
    """
    count = len(left)
    entries, energy, total = known or moments(left, right)
    off = count * (count - 1)
    if not off:
        return NAN
    mean = (total - entries.sum()) / off
    variance = (energy - entries @ entries) / off - mean**2
    # Below float32's rounding of the whole there is no spread to be seen.
    if variance <= 1e-12 * energy / off:
        return NAN
    return float(entries.mean() / math.sqrt(variance))


def expected_diagonal(count: int, rank: int) -> tuple[float, float] | None:
    """Mean and deviation of `diagonal` for independent normals, to 2 %.

    Args:
        count: Rows of the product.
        rank: Its rank.

    Returns:
        `(0, 1 / sqrt(count))`; `None` for products that are too small for it.
    """
    if count < 16 or count * rank < 512:
        return None
    return 0.0, 1 / math.sqrt(count)


def strengths(
    left: np.ndarray, right: np.ndarray, known: Moments | None = None
) -> tuple[float, float]:
    """(noise, identity) with which `structures.attention` would draw such a product.

    The product's trace and Frobenius norm are those of the best approximation, of
    the same rank, of noise Z + identity I (in expectation, and with either sign of
    the identity). At full rank that is closed: identity is the mean of the diagonal.
    Below, the two are read off products drawn at a reference width with the same
    ratio of rank to width.

    Args:
        left: Of shape (n, rank).
        right: Of shape (rank, n).
        known: Their `moments`, if they are there.

    Returns:
        `(noise, identity)`, noise >= 0, absolute as in `query_key`. NaN for a
        product of zeros.
    """
    count, rank = len(left), min(left.shape)
    entries, energy, _ = known or moments(left, right)
    trace = float(entries.sum())
    if energy <= 0:
        return NAN, NAN
    if rank == count:
        identity = trace / count
        # |Z|^2 is n in expectation.
        return math.sqrt(max(0.0, energy / count - identity**2)), identity
    # Of a projection on `rank` dimensions this is 1, and nothing has more.
    aligned = abs(trace) / math.sqrt(rank * energy)
    angle_of, norm_of = _reference(*_reference_sizes(count, rank))
    angle = float(angle_of(min(aligned, 1.0)))
    scale = math.sqrt(energy / count) / float(norm_of(angle))
    return scale * math.cos(angle), math.copysign(scale * math.sin(angle), trace)


def moments(left: np.ndarray, right: np.ndarray) -> Moments:
    """Diagonal of the product, sum of its squared entries, and sum of its entries."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    entries = np.einsum("ir,ri->i", left, right)
    energy = float(np.vdot(left.T @ left, right @ right.T))
    return entries, energy, float(left.sum(axis=0) @ right.sum(axis=1))


def _reference_sizes(count: int, rank: int) -> tuple[int, int]:
    """A width, smaller where that does, and a rank of nearly the same part of it."""
    largest = min(count, _REFERENCE_WIDTH if 16 * rank >= count else 2 * _REFERENCE_WIDTH)
    widths = range(largest, largest * 3 // 4, -1)

    def error(width: int) -> float:
        part = rank * width / count
        return abs(part - max(1, round(part))) / part

    width = min(widths, key=error)
    return width, max(1, round(rank * width / count))


@functools.lru_cache(maxsize=64)
def _reference(width: int, rank: int) -> tuple[Any, Any]:
    """Functions read off drawn products of noise cos(angle) and identity sin(angle).

    The first gives the angle for a trace relative to the norm, the second the
    norm, divided by sqrt(width), for an angle.
    """
    # Slow to import, and seldom needed.
    from scipy.interpolate import PchipInterpolator

    angles = np.linspace(0, math.pi / 2, 25)
    aligned, norms = np.empty_like(angles), np.empty_like(angles)
    # Small products vary much.
    draws = min(max(1, 4096 // (width * rank)), 200)
    for number, angle in enumerate(angles):
        # Exactly no noise at the end, where the cosine is not exactly 0.
        noise = math.cos(angle) if number < len(angles) - 1 else 0.0
        product = functools.partial(
            factors, width, width, rank, noise=noise, identity=math.sin(angle), is_shared=False
        )
        with one_blas_thread():
            found = [moments(*product(seed=subseed(0, 0, draw))) for draw in range(draws)]
        energy = float(np.mean([energy for _, energy, _ in found]))
        trace = float(np.mean([entries.sum() for entries, _, _ in found]))
        aligned[number] = trace / math.sqrt(rank * energy)
        norms[number] = math.sqrt(energy / width)
    # What they are in expectation; the drawn ones are only next to it.
    aligned[0], aligned[-1] = 0, 1
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(aligned)) > 0])
    angle_of = PchipInterpolator(aligned[rising], angles[rising])
    return angle_of, PchipInterpolator(angles, norms)
