"""Paired projections of self-attention: factors of noise plus identity.

Trained attention layers have, head by head, a product W_Q W_K^T near a positive
multiple of the identity, and over all heads a product W_V W_O near a negative
one. Here both products are drawn first and factored afterwards.
"""

import functools
import math
from typing import Any

import numpy as np

from keras_mimetic._numerics.noise_plus_identity import factors, one_blas_thread
from keras_mimetic._numerics.random import fold_in, in_threads, sample

# The projections of a layer, in pairs whose product has the structure.
PAIRS = {"query_key": ("query", "key"), "value_output": ("value", "output")}
ROLES = tuple(role for pair in PAIRS.values() for role in pair)

# Noise and identity of the two products: the constants of accounts of the
# paper's recipe, not read in the paper itself.
QUERY_KEY = (0.7, 0.7)
VALUE_OUTPUT = (0.4, -0.4)


def auto_strengths(pair: str, *, is_causal: bool) -> tuple[float, float] | None:
    """Return the default noise and identity of a pair's product.

    Query and key are left alone in causal attention, where their structure costs a
    language model loss (rows `qk` and `both` of `benchmarks/README.md`, "Language
    models").

    Args:
        pair: `"query_key"` or `"value_output"`.
        is_causal: Whether a token attends only to those before it.

    Returns:
        `(noise, identity)`, or `None` to leave the pair as it is.
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
    """Draws W_Q and W_K of every head from the best approximation of its product.

    For each head A = noise Z + identity I with independent normals Z of variance
    1/dim, A ~ U S V^T its singular value decomposition cut at rank `head_dim`, W_Q W_K^T
    the matrix U S V^T of that rank nearest to A, and W_Q and W_K of equal norms.

    From a width of 256 on, all heads of all layers of a shape share one decomposition,
    and each turns it by a random frame of its own: every head's directions are
    independent of all others', while the singular values and the angles between left
    and right singular vectors, which hardly vary at such widths, are the same in
    all. Narrower products are decomposed one by one
    (`_numerics.noise_plus_identity.factors`).

    Args:
        query_dim: Channels of the queries' input.
        key_dim: Channels of the keys' input. Where it differs from `query_dim`
            the product is not square and `identity` must be 0; the variance of
            Z is then 1 / sqrt(query_dim key_dim) (ours).
        num_heads: Number of heads.
        head_dim: Channels of a head. If there are as many as the narrower input
            has, the product is A itself.
        noise: Weight of Z, >= 0.
        identity: Weight of the identity. Not both may be 0.
        seed: Integer >= 0; head h draws from a sub-stream of its own. The weights are
            equal for any number of threads.

    Returns:
        `(W_Q, W_K)`, float32, of shapes `(query_dim, num_heads, head_dim)` and
        `(key_dim, num_heads, head_dim)`.

    Raises:
        ValueError: if `noise` and `identity` are both 0 or the larger is beyond the range of
            float32, or if `identity` is not 0 where the product is not square.

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
    """Draws W_V and W_O of all heads together from one product.

    A = noise Z + identity I is factored at rank `num_heads * head_dim` as in
    `query_key`, and the heads get consecutive parts of the factors, so that the
    layer's map x W_V W_O is x A (where the heads have enough channels for its
    rank, and else the nearest there is). From a width of 256 on, all layers of a shape
    share one decomposition, and each turns it by a random orthogonal matrix of its own.

    Args:
        value_dim: Channels of the values' input.
        output_dim: Channels of the layer's output; where it differs from
            `value_dim`, `identity` must be 0.
        num_heads: Number of heads.
        head_dim: Channels of a head's values.
        noise: Weight of Z, >= 0.
        identity: Weight of the identity. Not both may be 0.
        seed: Integer >= 0.

    Returns:
        `(W_V, W_O)`, float32, of shapes `(value_dim, num_heads, head_dim)` and
        `(num_heads, head_dim, output_dim)`.

    Raises and reference: as for `query_key`.
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
    """Draw both weights of a pair by `query_key` or `value_output`.

    Args:
        pair: Name of the pair, one of `PAIRS`.
        first: Shape of its first weight, `(dim, num_heads, head_dim)`.
        second: Shape of its second weight, `(dim, num_heads, head_dim)` of keys,
            `(num_heads, head_dim, dim)` of outputs.
        noise: See `query_key`.
        identity: The same.
        seed: The same.
    """
    draw, columns = (query_key, second[0]) if pair == "query_key" else (value_output, second[-1])
    rows, heads, head_dim = first
    return draw(rows, columns, heads, head_dim, noise=noise, identity=identity, seed=seed)


def same_norms(weights: tuple[np.ndarray, ...], seed: int) -> tuple[np.ndarray, ...]:
    """Structureless weights of the same shapes and Frobenius norms: the control."""
    controls = []
    for number, weight in enumerate(weights):
        noise = sample("untruncated_normal", weight.shape, fold_in(seed, 2, number))
        # In float64, where squares of the largest weights are in range.
        norm = np.linalg.norm(weight.astype(np.float64))
        controls.append(noise * np.float32(norm / np.linalg.norm(noise)))
    return tuple(controls)


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
            found = [moments(*product(seed=fold_in(0, 0, draw))) for draw in range(draws)]
        energy = float(np.mean([energy for _, energy, _ in found]))
        trace = float(np.mean([entries.sum() for entries, _, _ in found]))
        aligned[number] = trace / math.sqrt(rank * energy)
        norms[number] = math.sqrt(energy / width)
    # What they are in expectation; the drawn ones are only next to it.
    aligned[0], aligned[-1] = 0, 1
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(aligned)) > 0])
    angle_of = PchipInterpolator(aligned[rising], angles[rising])
    return angle_of, PchipInterpolator(angles, norms)
