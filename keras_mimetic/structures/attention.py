"""Paired projections of self-attention: factors of noise plus identity.

Trained attention layers have, head by head, a product W_Q W_K^T near a positive
multiple of the identity, and over all heads a product W_V W_O near a negative
one. Here both products are drawn first and factored afterwards.
"""

import numpy as np

from keras_mimetic import draws
from keras_mimetic.structures.noise_plus_identity import factors, one_blas_thread

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

    For each head A = noise Z + identity I with independent normals Z of variance
    1/dim, A ~ U S V^T its singular value decomposition cut at rank `head_dim`, W_Q W_K^T
    the matrix U S V^T of that rank nearest to A, and W_Q and W_K of equal norms.

    From a width of 256 on, all heads of all layers of a shape share one decomposition,
    and each turns it by a random frame of its own: every head's directions are
    independent of all others', while the singular values and the angles between left
    and right singular vectors, which hardly vary at such widths, are the same in
    all. Narrower products are decomposed one by one
    (`structures.noise_plus_identity.factors`).

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
            seed=draws.subseed(seed, 0, head),
            threads=1,
        )
        w_query[:, head], w_key[:, head] = left, right.T

    with one_blas_thread():
        draws.in_threads(fill, range(num_heads))
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
        # In float64, where squares of the largest weights are in range.
        norm = np.linalg.norm(weight.astype(np.float64))
        controls.append(noise * np.float32(norm / np.linalg.norm(noise)))
    return tuple(controls)
