"""Factors of noise plus identity, of any rank, from shared decompositions.

A = noise Z + identity I, where the entries of Z are independent normals, has the same
distribution as Q A Q^T for every orthogonal Q. Therefore one A is decomposed for each
shape and pair of strengths, and every product gets its own random frame.
"""

import dataclasses
import functools
import math
import threading
from typing import Any

import numpy as np

from keras_mimetic._numerics.random import fold_in, sample
from keras_mimetic._numerics.random_frame import random_frame
from keras_mimetic._numerics.threads import in_threads

# Narrower products are decomposed one by one: this is cheap, and their singular values vary.
SHARED_FROM = 256
# Seed of all shared decompositions.
_SHARED_SEED = 0x6D696D65746963
# One thread decomposes a product, and others wait for it.
_LOCK = threading.Lock()
# Rows of a large matrix product per task of a thread.
_ROWS = 256
# The shared part of products: L^T and R in the coordinates of random frames, one for both if there
# is an identity. Of shape (rank, size of the frame), or the diagonals of diagonal matrices.
Core = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class NoisePlusIdentity:
    """The distribution of A = noise Z + identity I, of shape (rows, columns).

    The entries of Z are independent normals of variance 1 / sqrt(rows columns). The identity is 0
    unless A is square.
    """

    rows: int
    columns: int
    noise: float
    identity: float

    def sample(self, seed: int) -> np.ndarray:
        """Sample A in float32."""
        a = sample("untruncated_normal", (self.rows, self.columns), seed)
        a *= np.float32(self.noise / math.sqrt(math.sqrt(self.rows * self.columns)))
        if self.identity:
            a[np.diag_indices(self.rows)] += np.float32(self.identity)
        return a


def factors(
    rows: int,
    columns: int,
    rank: int,
    *,
    noise: float,
    identity: float,
    seed: int,
    is_shared: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample L (rows, rank) and R (rank, columns) of equal norms, in float32.

    Their product is the matrix of a rank nearest to A. If `rank` exceeds the rank of the product,
    its energy is spread over all columns of L.

    - If `rows` or `columns` is below 256, A is sampled and decomposed for each call.
    - From 256 on (or if `is_shared`), one A is decomposed for each shape, rank and pair of
      strengths. With both noise and identity, L R = Q L_0 R_0 Q^T, where L_0 R_0 is the shared
      decomposition and Q a random orthogonal matrix for each call. All calls share the singular
      values and the angles between singular vectors, which hardly vary at these widths. With noise
      alone, left and right vectors are sampled independently.
    - With the identity alone, the product is `identity` times a random projection. Noise below
      the float32 rounding of the identity counts as 0.

    The number of threads does not change the result.
    """
    if noise < np.finfo(np.float32).eps * abs(identity):
        noise = 0.0
    a = NoisePlusIdentity(rows, columns, noise, identity)
    full = min(rows, columns)
    kept = min(rank, full)
    if is_shared is None:
        is_shared = full >= SHARED_FROM
    if noise and not is_shared:
        left, right = _decomposed(a.sample(fold_in(seed, 0)), kept)
    else:
        left, right = framed(shared_core(a, kept), a, seed)
    if rank > kept:
        square = sample("untruncated_normal", (rank, kept), fold_in(seed, 1))
        spread = np.linalg.qr(square)[0]
        left, right = left @ spread.T, spread @ right
    return left, right


def _decomposed(a: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return L and R of a matrix of any shape."""
    if len(a) <= a.shape[1]:
        return truncated(a, rank)
    right, left = truncated(a.T, rank)
    return left.T, right.T


def truncated(a: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return U S^(1/2) and S^(1/2) V^T for the largest `rank` singular values, in falling order.

    The eigenvectors of A A^T are several times cheaper than a singular value decomposition.
    Squaring A loses no accuracy: L R = U U^T A holds whatever the errors of the eigenvalues,
    and the singular values come from U^T A.
    """
    # Imported here: SciPy takes longer to import than the whole package.
    from scipy.linalg import blas, eigh

    count = len(a)
    some: dict[str, Any] = {"driver": "evd"}
    if rank < count:
        some = {"driver": "evr", "subset_by_index": [count - rank, count - 1]}
    # The upper triangle is enough, and the one that OpenBLAS reduces fastest.
    square = blas.ssyrk if a.dtype == np.float32 else blas.dsyrk
    gram = square(1.0, a.T, trans=True)
    _, vectors = eigh(gram, lower=False, check_finite=False, overwrite_a=True, **some)
    vectors = vectors[:, ::-1]
    # The sign of an eigenvector is arbitrary: make its largest entry positive.
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(rank)])
    scaled = vectors.T @ a
    root = np.sqrt(np.linalg.norm(scaled, axis=1))
    inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    return vectors * root, scaled * inverse[:, None]


def framed(core: Core, a: NoisePlusIdentity, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of a product, from a core and one or two random frames."""
    left, right = core
    size = left.shape[-1]
    frame = random_frame(size, a.rows, fold_in(seed, 2))
    left = _multiplied(left, frame)
    if not a.identity:
        frame = random_frame(size, a.columns, fold_in(seed, 3))
    return left.T, _multiplied(right, frame)


def _multiplied(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return `a @ b`, computed in blocks of rows that do not depend on the thread count."""
    if a.ndim == 1:
        return a[:, None] * b
    out = np.empty((len(a), b.shape[1]), np.float32)

    def fill(start: int) -> None:
        np.matmul(a[start : start + _ROWS], b, out=out[start : start + _ROWS])

    in_threads(fill, range(0, len(a), _ROWS))
    return out


def shared_core(a: NoisePlusIdentity, rank: int, seed: int = _SHARED_SEED) -> Core:
    """Return the core of products of a rank <= min(rows, columns)."""
    if not a.noise:
        roots = np.full(rank, math.sqrt(abs(a.identity)), np.float32)
        return roots, np.float32(math.copysign(1, a.identity)) * roots
    with _LOCK:
        return sampled_core(a, rank, seed)


# A core is at most as large as W_V and W_O of one layer, so a few are kept between calls.
@functools.lru_cache(maxsize=8)
def sampled_core(a: NoisePlusIdentity, rank: int, seed: int) -> Core:
    """Return the core of one sample of A."""
    return (_one_frame_core if a.identity else _two_frames_core)(a.sample(seed), rank)


def _one_frame_core(a: np.ndarray, rank: int) -> Core:
    if 2 * rank >= len(a):
        left, right = truncated(a, rank)
        return np.ascontiguousarray(left.T), right
    # In float64: rounding that differs between machines could rotate nearly equal singular
    # vectors or flip a sign, and so change the products.
    left, right = truncated(a.astype(np.float64), rank)
    _, coordinates = np.linalg.qr(np.concatenate([left, right.T], axis=1))
    coordinates *= np.where(coordinates.diagonal() < 0, -1, 1)[:, None]
    both = np.ascontiguousarray(coordinates.T, np.float32)
    return both[:rank], both[rank:]


def _two_frames_core(a: np.ndarray, rank: int) -> Core:
    from scipy.linalg import blas, eigvalsh

    a = a.astype(np.float64)
    gram = blas.dsyrk(1.0, a if len(a) > a.shape[1] else a.T, trans=True)
    values = eigvalsh(gram, lower=False, check_finite=False, overwrite_a=True)[::-1][:rank]
    # Square roots of the singular values, from eigenvalues that are their squares.
    roots = (np.maximum(values, 0) ** 0.25).astype(np.float32)
    return roots, roots
