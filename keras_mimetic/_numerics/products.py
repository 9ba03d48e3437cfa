"""Figures of a product of two weights: its diagonal, and the noise and identity in it.

A product P = left right is of shape (n, n), from factors (n, rank) and (rank, n). It is not
computed: figures cost as much as two matrices (rank, rank).
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from keras_mimetic._numerics.noise_plus_identity import factors
from keras_mimetic._numerics.random import fold_in
from keras_mimetic._numerics.threads import one_blas_thread

# Width of the reference products of `strengths`: trace and norm of a truncated product
# depend on the ratio of rank to width, and hardly on the width.
_REFERENCE_WIDTH = 256


def diagonal(left: np.ndarray, right: np.ndarray) -> float:
    """Return mean_i P_ii / std_(i != j) P_ij, or NaN if it is undefined.

    For independent entries it is 0 plus or minus 1/sqrt(n).
    """
    left, right = left.astype(np.float64), right.astype(np.float64)
    off = len(left) * (len(left) - 1)
    if not off:
        return math.nan
    entries, energy = _diagonal_and_energy(left, right)
    mean = (left.sum(axis=0) @ right.sum(axis=1) - entries.sum()) / off
    variance = (energy - entries @ entries) / off - mean**2
    # A variance below the rounding of float32 counts as 0.
    if variance <= 1e-12 * energy / off:
        return math.nan
    return float(entries.mean() / math.sqrt(variance))


def expected_diagonal(count: int) -> tuple[float, float] | None:
    """Return mean and std of `diagonal` for independent normals; `None` if that is infinite.

    Of independent entries it is `t sqrt(off / (off - 1) / count)`, with Student's t of `off` - 1
    degrees of freedom, for the `off` entries off the diagonal. Products of any rank agree to 5 %.
    """
    off = count * (count - 1)
    return (0.0, math.sqrt(off / (off - 3) / count)) if count > 2 else None


def strengths(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Estimate the `(noise, identity)` from which a product is sampled.

    In expectation, the best approximation of noise Z + identity I of the same rank has
    the trace and Frobenius norm of the product. At full rank there is a closed form:
    identity is the mean of the diagonal. Below, both are interpolated from products
    sampled at a reference width with the same ratio of rank to width. Both are NaN for a
    product of zeros.
    """
    count, rank = len(left), min(left.shape)
    entries, energy = _diagonal_and_energy(left, right)
    trace = float(entries.sum())
    if energy <= 0:
        return math.nan, math.nan
    if rank == count:
        identity = trace / count
        # |Z|^2 is n in expectation.
        return math.sqrt(max(0.0, energy / count - identity**2)), identity
    # At most 1, which a projection on `rank` dimensions has.
    aligned = abs(trace) / math.sqrt(rank * energy)
    angle_of, norm_of = _reference(*_reference_sizes(count, rank))
    angle = float(angle_of(min(aligned, 1.0)))
    scale = math.sqrt(energy / count) / float(norm_of(angle))
    return scale * math.cos(angle), math.copysign(scale * math.sin(angle), trace)


def _diagonal_and_energy(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the diagonal of a product and the sum of its squared entries, in float64."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    return np.einsum("ir,ri->i", left, right), float(np.vdot(left.T @ left, right @ right.T))


def _reference_sizes(count: int, rank: int) -> tuple[int, int]:
    """Return a width up to the reference width, and a rank of nearly the same ratio to it."""
    largest = min(count, _REFERENCE_WIDTH if 16 * rank >= count else 2 * _REFERENCE_WIDTH)
    widths = range(largest, largest * 3 // 4, -1)

    def error(width: int) -> float:
        part = rank * width / count
        return abs(part - max(1, round(part))) / part

    width = min(widths, key=error)
    return width, max(1, round(rank * width / count))


@functools.lru_cache(maxsize=64)
def _reference(width: int, rank: int) -> tuple[Callable, Callable]:
    """Interpolate over sampled products of noise cos(angle) and identity sin(angle).

    Return two functions: trace / norm to the angle, and the angle to norm / sqrt(width).
    """
    # Imported here: it is slow to import, and rarely needed.
    from scipy.interpolate import PchipInterpolator

    angles = np.linspace(0, math.pi / 2, 25)
    # The cosine of the last angle is not exactly 0.
    noises = [*map(math.cos, angles[:-1]), 0.0]
    pairs = [
        _trace_and_energy(width, rank, noise=noise, identity=math.sin(angle))
        for noise, angle in zip(noises, angles, strict=True)
    ]
    traces, energies = np.array(pairs).T
    aligned = traces / np.sqrt(rank * energies)
    # The expectations at both ends are known exactly.
    aligned[0], aligned[-1] = 0, 1
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(aligned)) > 0])
    angle_of = PchipInterpolator(aligned[rising], angles[rising])
    return angle_of, PchipInterpolator(angles, np.sqrt(energies / width))


def _trace_and_energy(
    width: int, rank: int, *, noise: float, identity: float
) -> tuple[float, float]:
    """Return the mean trace and squared Frobenius norm of sampled products (width, width)."""
    # Small products vary more.
    samples = min(max(1, 4096 // (width * rank)), 200)
    product = functools.partial(
        factors, width, width, rank, noise=noise, identity=identity, is_shared=False
    )
    with one_blas_thread():
        products = [product(seed=fold_in(0, 0, index)) for index in range(samples)]
    diagonals, energies = zip(*(_diagonal_and_energy(*each) for each in products), strict=True)
    return float(np.sum(diagonals)) / samples, float(np.mean(energies))
