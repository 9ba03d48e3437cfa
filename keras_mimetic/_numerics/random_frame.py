"""Orthonormal vectors in random directions."""

import numpy as np

from keras_mimetic._numerics.random import sample


def random_frame(count: int, dim: int, seed: int) -> np.ndarray:
    """Draws orthonormal vectors, uniformly among all that there are (Haar measure).

    They have the law of the Q of a QR decomposition of independent normals, with R's
    diagonal positive. The decomposition's reflections are themselves functions of
    normals, so they are drawn, and nothing is decomposed.

    Args:
        count: Number of vectors, at most `dim`.
        dim: Their dimension.
        seed: Integer >= 0.

    Returns:
        float32 array of shape `(count, dim)`, its rows orthonormal to about 1e-6.

    Reference:

    - [Stewart, 1980](https://doi.org/10.1137/0717034), "The efficient generation of
      random orthogonal matrices with an application to condition estimators".
    """
    # Here, because it takes longer to import than the whole package.
    from scipy.linalg import lapack

    # Row i has the reflection of the last dim - i axes that takes its normals to the first
    # of these axes, scaled so that LAPACK need not store its first entry, 1.
    vectors = sample("untruncated_normal", (count, dim), seed, threads=1)
    for row in range(1, count):
        vectors[row, :row] = 0
    first = vectors.diagonal().astype(np.float64)
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    signs = np.where(first < 0, -1.0, 1.0)
    pivots = first + signs * np.sqrt(squares)
    factors = 2 / (1 + (squares - first**2) / pivots**2)
    vectors /= pivots.astype(np.float32)[:, None]
    # LAPACK's matrices are stored by columns: this is its transpose, without a copy.
    frame, _, status = lapack.sorgqr(
        vectors.T, factors.astype(np.float32), lwork=64 * count, overwrite_a=True
    )
    if status:
        raise RuntimeError(f"LAPACK's sorgqr failed with status {status}.")
    frame = frame.T
    frame *= -signs.astype(np.float32)[:, None]
    return frame
