"""Paired projections of self-attention: factors of noise plus identity.

In trained attention layers, the product W_Q W_K^T of each head is near a positive
multiple of the identity, and the product W_V W_O over all heads is near a negative
multiple. Here both products are sampled first and then factored.
"""

import functools
import math
from typing import Any

import numpy as np

from keras_mimetic._numerics.noise_plus_identity import factors, one_blas_thread
from keras_mimetic._numerics.random import fold_in, in_threads, sample

# Pairs of projections whose product has the structure.
PAIRS = {"query_key": ("query", "key"), "value_output": ("value", "output")}
ROLES = tuple(role for pair in PAIRS.values() for role in pair)

# Noise and identity of the two products, from accounts of the paper's recipe, not from the
# paper itself.
QUERY_KEY = (0.7, 0.7)
VALUE_OUTPUT = (0.4, -0.4)


def auto_strengths(pair: str, *, is_causal: bool) -> tuple[float, float] | None:
    """Return the default `(noise, identity)` of a pair's product; `None` keeps its weights.

    In causal attention, query and key are not changed: their structure raises the loss of
    a language model (`qk` and `both` in `benchmarks/results/language-500/table.md`).
    """
    if pair == "value_output":
        return VALUE_OUTPUT
    return None if is_causal else QUERY_KEY


def query_key(
    query_dim: int,
    key_dim: int,
    num_heads: int,
    head_dim: int,
    *,
    noise: float,
    identity: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample W_Q and W_K of every head as factors of equal norms of noise plus identity.

    For each head, A = noise Z + identity I, where Z has independent normal entries of variance
    1 / sqrt(query_dim key_dim). The dims differ only in cross-attention, with an identity of 0;
    the variance is ours there. W_Q W_K^T is the matrix of rank `head_dim` nearest to A, its
    truncated singular value decomposition (see `factors`).

    Returns:
        Two float32 arrays of shapes `(query_dim, num_heads, head_dim)` and
        `(key_dim, num_heads, head_dim)`.

    Reference:

    - Trockman and Kolter, 2023, "Mimetic Initialization of Self-Attention
      Layers" (arXiv:2305.09828).
    """
    w_query = np.empty((query_dim, num_heads, head_dim), np.float32)
    w_key = np.empty((key_dim, num_heads, head_dim), np.float32)

    def fill(head: int) -> None:
        left, right = factors(
            query_dim,
            key_dim,
            head_dim,
            noise=noise,
            identity=identity,
            seed=fold_in(seed, 0, head),
            threads=1,
        )
        w_query[:, head], w_key[:, head] = left, right.T

    with one_blas_thread():
        in_threads(fill, range(num_heads))
    return w_query, w_key


def value_output(
    value_dim: int,
    output_dim: int,
    num_heads: int,
    head_dim: int,
    *,
    noise: float,
    identity: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample W_V and W_O of all heads as factors of one product, at rank `num_heads * head_dim`.

    The heads get consecutive slices of the factors. The layer then maps x to x A if the heads
    have enough channels, and otherwise to x times the nearest matrix of that rank.

    Returns:
        Two float32 arrays of shapes `(value_dim, num_heads, head_dim)` and
        `(num_heads, head_dim, output_dim)`.

    Reference: see `query_key`.
    """
    with one_blas_thread():
        left, right = factors(
            value_dim,
            output_dim,
            num_heads * head_dim,
            noise=noise,
            identity=identity,
            seed=fold_in(seed, 1),
        )
    return (
        left.reshape(value_dim, num_heads, head_dim),
        right.reshape(num_heads, head_dim, output_dim),
    )


def sample_pair(
    pair: str,
    first: tuple[int, ...],
    second: tuple[int, ...],
    *,
    noise: float,
    identity: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample float32 weights of shapes `first` and `second` by `query_key` or `value_output`.

    Shapes are `(dim, num_heads, head_dim)`, for outputs `(num_heads, head_dim, dim)`. Keys and
    values may have fewer heads, each of which consecutive heads share (see `_for_groups`).
    """
    method, columns = (query_key, second[0]) if pair == "query_key" else (value_output, second[-1])
    rows, heads, head_dim = first
    others = second[1] if pair == "query_key" else second[0]
    groups, size = min(heads, others), max(heads, others) // min(heads, others)
    # The mean over a group has less noise than each of its products.
    shared = noise / math.sqrt(size) if pair == "query_key" else noise
    left, right = method(
        rows, columns, groups, head_dim, noise=shared, identity=identity, seed=seed
    )
    return (left, right) if size == 1 else _for_groups(pair, left, right, size, noise, seed)


def _for_groups(
    pair: str, left: np.ndarray, right: np.ndarray, size: int, noise: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Extend the weights of groups to heads, `size` of which share a key and a value head (ours).

    The deviations of the heads from the mean of their group are normals that sum to zero.

    - Query and key: W_K is paired with the mean of the query weights of its group. The
      product of each head is noise plus identity, projected on the columns of W_K. Each
      head has its own noise.
    - Value and output: W_V is paired with the sum of the output weights of its group. Heads
      with equal attention therefore act as one head with this sum. The entries of each head
      have 1 / size of the variance of the sum.
    """
    if pair == "query_key":
        rows, groups, head_dim = left.shape
        heads = np.repeat(left, size, axis=1)
        spread = noise / (rows * len(right)) ** 0.25
        deviations = _centered((groups, size, rows, head_dim), seed)
        for group in range(groups):
            inverse_root = _inverse_root(right[:, group])
            for member in range(size):
                more = spread * deviations[group, member] @ inverse_root
                heads[:, group * size + member] += more
        return heads, right
    groups, head_dim, columns = right.shape
    deviations = _centered((groups, size, head_dim, columns), seed)
    spread = np.sqrt(np.mean(right**2, axis=(1, 2)) / size)[:, None, None, None]
    blocks = right[:, None] / size + spread * deviations
    return left, blocks.reshape(-1, head_dim, columns).astype(np.float32)


def _centered(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Sample normals of variance 1 and subtract their mean over the second axis."""
    normals = sample("untruncated_normal", shape, fold_in(seed, 3))
    return normals - normals.mean(axis=1, keepdims=True)


def _inverse_root(matrix: np.ndarray) -> np.ndarray:
    """Return (K^T K)^(-1/2) of a matrix K, without directions in which K is zero."""
    values, vectors = np.linalg.eigh(matrix.T.astype(np.float64) @ matrix)
    least = 1e-6 * values[-1]
    roots = np.where(values > least, np.maximum(values, least) ** -0.5, 0)
    return ((vectors * roots) @ vectors.T).astype(np.float32)


NAN = float("nan")
# Width of the reference products of `strengths`: trace and norm of a truncated product
# depend on the ratio of rank to width, and hardly on the width.
_REFERENCE_WIDTH = 256


# The diagonal of a product, the sum of its squared entries, and the sum of its entries.
Moments = tuple[np.ndarray, float, float]


def diagonal(left: np.ndarray, right: np.ndarray, known: Moments | None = None) -> float:
    """Return the mean of the diagonal of a product in stds of its off-diagonal entries.

    It is mean_i P_ii / std_(i != j) P_ij for P = left right, of shapes (n, rank) and (rank, n):
    0 plus or minus 1/sqrt(n) for independent entries, and NaN if it is undefined. P is not
    computed: the cost is that of two (rank, rank) matrices.
    """
    count = len(left)
    entries, energy, total = known or moments(left, right)
    off = count * (count - 1)
    if not off:
        return NAN
    mean = (total - entries.sum()) / off
    variance = (energy - entries @ entries) / off - mean**2
    # A variance below the rounding of float32 counts as 0.
    if variance <= 1e-12 * energy / off:
        return NAN
    return float(entries.mean() / math.sqrt(variance))


def expected_diagonal(count: int) -> tuple[float, float] | None:
    """Return mean and std of `diagonal` for independent normals; `None` if that is infinite.

    Of independent entries it is `t sqrt(off / (off - 1) / count)`, with Student's t of `off` - 1
    degrees of freedom, for the `off` entries off the diagonal. Products of any rank agree to 5 %.
    """
    off = count * (count - 1)
    return (0.0, math.sqrt(off / (off - 3) / count)) if count > 2 else None


def strengths(
    left: np.ndarray, right: np.ndarray, known: Moments | None = None
) -> tuple[float, float]:
    """Estimate the `(noise, identity)` from which a product of (n, rank) and (rank, n) is sampled.

    In expectation, the best approximation of noise Z + identity I of the same rank has
    the trace and Frobenius norm of the product. At full rank there is a closed form:
    identity is the mean of the diagonal. Below, both are interpolated from products
    sampled at a reference width with the same ratio of rank to width. Both are NaN for a
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
    # At most 1, which a projection on `rank` dimensions has.
    aligned = abs(trace) / math.sqrt(rank * energy)
    angle_of, norm_of = _reference(*_reference_sizes(count, rank))
    angle = float(angle_of(min(aligned, 1.0)))
    scale = math.sqrt(energy / count) / float(norm_of(angle))
    return scale * math.cos(angle), math.copysign(scale * math.sin(angle), trace)


def moments(left: np.ndarray, right: np.ndarray) -> Moments:
    """Return the diagonal of a product, its squared Frobenius norm, and the sum of its entries."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    entries = np.einsum("ir,ri->i", left, right)
    energy = float(np.vdot(left.T @ left, right @ right.T))
    return entries, energy, float(left.sum(axis=0) @ right.sum(axis=1))


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
def _reference(width: int, rank: int) -> tuple[Any, Any]:
    """Interpolate over sampled products of noise cos(angle) and identity sin(angle).

    Return two functions: trace / norm to the angle, and the angle to norm / sqrt(width).
    """
    # Imported here: it is slow to import, and rarely needed.
    from scipy.interpolate import PchipInterpolator

    angles = np.linspace(0, math.pi / 2, 25)
    aligned, norms = np.empty_like(angles), np.empty_like(angles)
    # Small products vary more.
    samples = min(max(1, 4096 // (width * rank)), 200)
    for number, angle in enumerate(angles):
        # The cosine of the last angle is not exactly 0.
        noise = math.cos(angle) if number < len(angles) - 1 else 0.0
        product = functools.partial(
            factors, width, width, rank, noise=noise, identity=math.sin(angle), is_shared=False
        )
        with one_blas_thread():
            found = [moments(*product(seed=fold_in(0, 0, index))) for index in range(samples)]
        energy = float(np.mean([energy for _, energy, _ in found]))
        trace = float(np.mean([entries.sum() for entries, _, _ in found]))
        aligned[number] = trace / math.sqrt(rank * energy)
        norms[number] = math.sqrt(energy / width)
    # The expectations at both ends are known exactly.
    aligned[0], aligned[-1] = 0, 1
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(aligned)) > 0])
    angle_of = PchipInterpolator(aligned[rising], angles[rising])
    return angle_of, PchipInterpolator(angles, norms)
