"""Orthonormal vectors in random directions."""

import numpy as np

from keras_mimetic._numerics.random import sample


def random_frame(count: int, dim: int, seed: int) -> np.ndarray:
    """Sample `count` <= `dim` orthonormal rows from the uniform distribution (Haar measure).

    They are those of Q in the QR decomposition of independent normals. Its reflections are
    functions of independent normals, so they are sampled directly, without a decomposition. Rows
    are orthonormal to about 1e-6, in float32.

    Reference:

    - [Stewart, 1980](https://doi.org/10.1137/0717034), "The efficient generation of
      random orthogonal matrices with an application to condition estimators".
    """
    # Imported here: SciPy takes longer to import than the whole package.
    from scipy.linalg import lapack

    # Row i has the reflection of the last dim - i axes that maps its normals to the first
    # of these axes, scaled to a first entry of 1, which LAPACK does not store.
    vectors = sample("untruncated_normal", (count, dim), seed)
    for row in range(1, count):
        vectors[row, :row] = 0
    first = vectors.diagonal().astype(np.float64)
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    signs = np.where(first < 0, -1.0, 1.0)
    pivots = first + signs * np.sqrt(squares)
    factors = 2 / (1 + (squares - first**2) / pivots**2)
    vectors /= pivots.astype(np.float32)[:, None]
    # LAPACK stores matrices by columns, so the transpose needs no copy.
    frame, _, _ = lapack.sorgqr(
        vectors.T, factors.astype(np.float32), lwork=64 * count, overwrite_a=True
    )
    frame = frame.T
    frame *= -signs.astype(np.float32)[:, None]
    return frame
