"""Paired projections of self-attention: factors of noise plus identity.

Trained attention layers have, head by head, a product W_Q W_K^T near a positive
multiple of the identity, and over all heads a product W_V W_O near a negative
one. Here both products are drawn first and factored afterwards.
"""

import functools
import math
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from keras_mimetic import draws

# The projections of a layer: each pair's first and second.
ROLES = ("query", "key", "value", "output")

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

    For each head A = noise Z + identity I with a fresh Z of independent normals
    of variance 1/dim, A ~ U S V^T its singular value decomposition cut at rank
    `head_dim`, W_Q = U S^(1/2) and W_K = V S^(1/2). So W_Q W_K^T is the matrix of
    that rank nearest to A.

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
        seed: Integer >= 0; head h draws from a sub-stream of its own.

    Returns:
        `(W_Q, W_K)`, float32, of shapes `(query_dim, num_heads, head_dim)` and
        `(key_dim, num_heads, head_dim)`.

    Raises:
        ValueError: if `noise` and `identity` are both 0, or `identity` is not
            where the product is not square.

    Reference:

    - Trockman and Kolter, 2023, "Mimetic Initialization of Self-Attention
      Layers" (arXiv:2305.09828).
    """
    w_query = np.empty((query_dim, num_heads, head_dim), np.float32)
    w_key = np.empty((key_dim, num_heads, head_dim), np.float32)
    with _one_blas_thread():
        for head in range(num_heads):
            left, right = _factors(
                query_dim,
                key_dim,
                head_dim,
                noise=noise,
                identity=identity,
                seed=draws.subseed(seed, 0, head),
            )
            w_query[:, head], w_key[:, head] = left, right.T
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

    A = noise Z + identity I is factored once at rank `num_heads * head_dim` as in
    `query_key`, and the heads get consecutive parts of the factors, so that the
    layer's map x W_V W_O is x A (where the heads have enough channels for its
    rank, and else the nearest there is).

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
    with _one_blas_thread():
        left, right = _factors(
            value_dim,
            output_dim,
            num_heads * head_dim,
            noise=noise,
            identity=identity,
            seed=draws.subseed(seed, 1),
        )
    return (
        left.reshape(value_dim, num_heads, head_dim),
        right.reshape(num_heads, head_dim, output_dim),
    )


def same_norms(weights: tuple[np.ndarray, ...], seed: int) -> tuple[np.ndarray, ...]:
    """Structureless weights of the same shapes and Frobenius norms: the control."""
    controls = []
    for number, weight in enumerate(weights):
        noise = draws.draw("untruncated_normal", weight.shape, draws.subseed(seed, 2, number))
        controls.append(noise * np.float32(np.linalg.norm(weight) / np.linalg.norm(noise)))
    return tuple(controls)


def _one_blas_thread() -> AbstractContextManager:
    """So that rounding does not depend on their number; more would not be faster."""
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> ThreadpoolController:
    """To look for NumPy's and SciPy's BLAS takes milliseconds, and they stay loaded."""
    import scipy.linalg  # noqa: F401  (loads SciPy's)

    return ThreadpoolController()


def _factors(
    rows: int, columns: int, rank: int, *, noise: float, identity: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """L (rows, rank) and R (rank, columns) of equal norms, L R nearest to A."""
    if identity and rows != columns:
        raise ValueError(
            f"Argument `identity` must be 0 for a product of shape ({rows}, {columns}), which "
            f"is not square. Received: identity={identity}"
        )
    if noise == identity == 0:
        raise ValueError(
            "Arguments `noise` and `identity` must not both be 0. "
            f"Received: noise={noise}, identity={identity}"
        )
    # The product is factored near a scale of 1: its square would not fit into float32.
    exponent = _exponent(max(noise, abs(identity)))
    noise, identity = math.ldexp(noise, -2 * exponent), math.ldexp(identity, -2 * exponent)
    std = noise / math.sqrt(math.sqrt(rows * columns))
    z = draws.draw("untruncated_normal", (rows, columns), draws.subseed(seed, 0), threads=1)
    if noise:
        product = np.float32(std) * z
        if identity:
            product[np.diag_indices(rows)] += np.float32(identity)
    else:
        # All directions are equally good then: take random ones.
        basis = np.linalg.qr(z)[0][:, : min(rank, rows)]
        product = np.float32(identity) * (basis @ basis.T)
    if rows <= columns:
        left, right = _truncated(product, min(rank, rows))
    else:
        right, left = (factor.T for factor in _truncated(product.T, min(rank, columns)))
    if rank > left.shape[1]:
        # More channels than the product has rank: spread it over all of them.
        square = draws.draw("untruncated_normal", (rank, left.shape[1]), draws.subseed(seed, 1))
        spread = np.linalg.qr(square)[0]
        left, right = left @ spread.T, spread @ right
    if exponent:
        with np.errstate(over="ignore", under="ignore"):
            left, right = (np.ldexp(factor, exponent) for factor in (left, right))
    return left, right


def _exponent(strength: float) -> int:
    """The power of 2 by which both factors of a product are scaled; 0 for usual strengths."""
    if 1e-3 <= strength <= 1e3:
        return 0
    return round(math.frexp(strength)[1] / 2)


def _truncated(a: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """U S^(1/2) and S^(1/2) V^T of the largest `rank` singular values, S falling.

    By the eigenvectors of A A^T, several times cheaper than a singular value
    decomposition. L R = U U^T A holds whatever the eigenvalues' errors, and the
    singular values are read off U^T A, so nothing is lost by the squaring.
    """
    # Here, because it takes longer to import than the whole package.
    from scipy.linalg import blas, eigh

    count = len(a)
    some: dict[str, Any] = {"driver": "evd"}
    if rank < count:
        some = {"driver": "evr", "subset_by_index": [count - rank, count - 1]}
    # Its upper triangle is enough, and what OpenBLAS reduces fastest.
    gram = blas.ssyrk(1.0, a.T, trans=True)
    _, vectors = eigh(gram, lower=False, check_finite=False, overwrite_a=True, **some)
    vectors = vectors[:, ::-1]
    # An eigenvector's sign is arbitrary: let its largest entry be positive.
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(rank)])
    scaled = vectors.T @ a
    root = np.sqrt(np.linalg.norm(scaled, axis=1))
    inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    return vectors * root, scaled * inverse[:, None]
