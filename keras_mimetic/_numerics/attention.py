"""Paired projections of self-attention: factors of noise plus identity.

In trained attention layers, the product W_Q W_K^T of each head is near a positive
multiple of the identity, and the product W_V W_O over all heads is near a negative
multiple. Here both products are sampled first and then factored.

Reference:

- Trockman and Kolter, 2023, "Mimetic Initialization of Self-Attention Layers" (arXiv:2305.09828).
"""

import math

import numpy as np

from keras_mimetic._numerics.noise_plus_identity import factors
from keras_mimetic._numerics.random import fold_in, sample
from keras_mimetic._numerics.threads import in_threads, one_blas_thread

# Pairs of projections whose product has the structure.
PAIRS = {"query_key": ("query", "key"), "value_output": ("value", "output")}
ROLES = tuple(role for pair in PAIRS.values() for role in pair)

# Noise and identity of the two products, from secondary sources, not from the paper itself.
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
    """Sample W_Q (query_dim, num_heads, head_dim) and W_K (key_dim, num_heads, head_dim).

    For each head, W_Q W_K^T is the matrix of rank `head_dim` nearest to noise Z + identity I (see
    `factors`). The dims differ only in cross-attention, with an identity of 0; the variance of Z
    is ours there.
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
        )
        w_query[:, head], w_key[:, head] = left, right.T

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
    """Sample W_V (value_dim, num_heads, head_dim) and W_O (num_heads, head_dim, output_dim).

    They are factors of one product, of rank `num_heads * head_dim`, and each head has consecutive
    slices of them. The layer then maps x to x A if the heads have enough channels, and otherwise
    to x times the nearest matrix of that rank.
    """
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
    with one_blas_thread():
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
      product of each head is noise of its own plus identity, projected on the columns of W_K.
    - Value and output: W_V is paired with the sum of the output weights of its group. The
      entries of each head have 1 / size of the variance of the sum.
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
