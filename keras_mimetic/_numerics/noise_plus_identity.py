"""Factors of noise plus identity, of any rank, with one decomposition for many.

A = noise Z + identity I, with independent normals Z, has the same law as Q A Q^T for
every orthogonal Q. So one A is decomposed for each shape and each ratio of the
strengths, and every product gets a random frame of its own.
"""

import dataclasses
import functools
import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mimetic._cache import BoundedCache
from keras_mimetic._numerics.random import fold_in, in_threads, sample
from keras_mimetic._numerics.random_frame import random_frame

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

# Products narrower than this are decomposed one by one: it costs little, and there
# a spectrum shared by all of them would show.
SHARED_FROM = 256
# The decompositions that are shared are always drawn from this seed.
_SHARED_SEED = 0x6D696D65746963
# At most so many bytes of them are kept.
_KEPT_BYTES = 2**29
# Rows of a large product of matrices for one thread.
_ROWS = 256
# Strengths that leave room for products in float32.
SMALLEST, LARGEST = 1e-37, 1e37


def one_blas_thread() -> AbstractContextManager:
    """So that rounding does not depend on their number; products have threads of their own."""
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> "ThreadpoolController":
    """To look for NumPy's and SciPy's BLAS takes milliseconds, and they stay loaded."""
    import scipy.linalg  # noqa: F401  (loads SciPy's)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def factors(
    rows: int,
    columns: int,
    rank: int,
    *,
    noise: float,
    identity: float,
    seed: int,
    is_shared: bool | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw L and R of equal norms whose product is the matrix nearest to A of that rank.

    A = noise Z + identity I has the shape `(rows, columns)`, and Z the variance
    1 / sqrt(rows columns).

    - Narrower than 256 either way, A is drawn and decomposed for each call.
    - From 256 on, one A is decomposed for each shape, rank and ratio of the strengths.
      With both noise and identity, L R = Q L_0 R_0 Q^T, with L_0 R_0 of that
      decomposition and a random orthogonal Q for each call. All calls share the
      singular values and the angles between left and right singular vectors, which
      hardly vary at these widths: the mean of the diagonal by noise / width at full
      rank. With noise alone, left and right vectors are drawn independently and
      the singular values are shared.
    - With the identity alone, the product is `identity` times a random projection, and
      the law is exact at all widths. Noise below the rounding of the identity in float32
      counts as none.

    Args:
        rows: Rows of the product.
        columns: Its columns.
        rank: Columns of L; if there are more than the product has rank, they share it.
        noise: Weight of Z, >= 0.
        identity: Weight of the identity; 0 where the product is not square.
        seed: Integer >= 0.
        is_shared: Whether to take the decomposition that calls share; `None` decides by
            the width, as above.
        threads: At most this many; by default one for each processor. It does not
            change the result.

    Returns:
        `(L, R)`, float32, of shapes `(rows, rank)` and `(rank, columns)`.

    Raises:
        ValueError: if both strengths are 0, for strengths beyond the range of float32, or
            for an identity where the product is not square.
    """
    _check(rows, columns, noise, identity)
    # The factors of strengths near 1, times a power of two, which rounds nothing.
    half = int(math.frexp(max(noise, abs(identity)))[1] / 2)
    noise, identity = noise / 4.0**half, identity / 4.0**half
    if noise < np.finfo(np.float32).eps * abs(identity):
        noise = 0.0
    full = min(rows, columns)
    kept = min(rank, full)
    if is_shared is None:
        is_shared = full >= SHARED_FROM
    if noise and not is_shared:
        left, right = _direct(rows, columns, kept, noise, identity, seed)
    else:
        core = shared_core(rows, columns, kept, noise, identity)
        left, right = framed(core, rows, columns, seed, threads)
    if rank > kept:
        square = sample("untruncated_normal", (rank, kept), fold_in(seed, 1), threads=1)
        spread = np.linalg.qr(square)[0]
        left, right = left @ spread.T, spread @ right
    return left * np.float32(2.0**half), right * np.float32(2.0**half)


def in_range(noise: float, identity: float) -> bool:
    """Whether float32 can hold the product's entries, and tell them from 0."""
    return SMALLEST <= max(noise, abs(identity)) <= LARGEST


def _check(rows: int, columns: int, noise: float, identity: float) -> None:
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
    if not in_range(noise, identity):
        name, value = max(("noise", noise), ("identity", identity), key=lambda pair: abs(pair[1]))
        raise ValueError(
            f"Argument `{name}` must be between {SMALLEST:g} and {LARGEST:g} in size, for "
            f"products that float32 can hold. Received: {name}={value}"
        )


def _direct(
    rows: int, columns: int, rank: int, noise: float, identity: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of a product that is drawn and decomposed for itself."""
    product = _product(rows, columns, noise, identity, fold_in(seed, 0))
    if rows <= columns:
        return truncated(product, rank)
    right, left = truncated(product.T, rank)
    return left.T, right.T


def _product(rows: int, columns: int, noise: float, identity: float, seed: int) -> np.ndarray:
    z = sample("untruncated_normal", (rows, columns), seed, threads=1)
    z *= np.float32(noise / math.sqrt(math.sqrt(rows * columns)))
    if identity:
        z[np.diag_indices(rows)] += np.float32(identity)
    return z


def truncated(a: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
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
    square = blas.ssyrk if a.dtype == np.float32 else blas.dsyrk
    gram = square(1.0, a.T, trans=True)
    _, vectors = eigh(gram, lower=False, check_finite=False, overwrite_a=True, **some)
    vectors = vectors[:, ::-1]
    # An eigenvector's sign is arbitrary: let its largest entry be positive.
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(rank)])
    scaled = vectors.T @ a
    root = np.sqrt(np.linalg.norm(scaled, axis=1))
    inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    return vectors * root, scaled * inverse[:, None]


@dataclasses.dataclass(frozen=True)
class Core:
    """What products share: their factors' coordinates in a frame that each draws.

    Attributes:
        left: L^T in the frame, of shape (rank, size of the frame), or of a diagonal matrix
            the diagonal.
        right: R in the frame, likewise.
        has_one_frame: Whether the same frame stands on both sides, as the identity
            demands; if not, each side has its own.
    """

    left: np.ndarray
    right: np.ndarray
    has_one_frame: bool

    @property
    def bytes(self) -> int:
        return self.left.nbytes + self.right.nbytes


def framed(
    core: Core, rows: int, columns: int, seed: int, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The factors that a core and a random frame, or two, make."""
    size = core.left.shape[-1]
    frame = random_frame(size, rows, fold_in(seed, 2))
    left = _multiplied(core.left, frame, threads)
    if not core.has_one_frame:
        frame = random_frame(size, columns, fold_in(seed, 3))
    return left.T, _multiplied(core.right, frame, threads)


def _multiplied(a: np.ndarray, b: np.ndarray, threads: int | None) -> np.ndarray:
    """`a @ b`, some rows at a time, which are the same for any number of threads."""
    if a.ndim == 1:
        return a[:, None] * b
    out = np.empty((len(a), b.shape[1]), np.float32)

    def some(start: int) -> None:
        np.matmul(a[start : start + _ROWS], b, out=out[start : start + _ROWS])

    in_threads(some, range(0, len(a), _ROWS), threads)
    return out


def shared_core(
    rows: int, columns: int, rank: int, noise: float, identity: float, seed: int = _SHARED_SEED
) -> Core:
    """The core of a product with these strengths, of `rank` <= min(rows, columns)."""
    if not noise:
        roots = np.full(rank, math.sqrt(abs(identity)), np.float32)
        return Core(roots, np.float32(math.copysign(1, identity)) * roots, True)
    key = (rows, columns, rank, noise, identity, seed)
    if identity:
        return _kept.get(key, lambda: _one_frame_core(rows, rank, noise, identity, seed))
    return _kept.get(key, lambda: _two_frames_core(rows, columns, rank, noise, seed))


def _one_frame_core(dim: int, rank: int, noise: float, identity: float, seed: int) -> Core:
    product = _product(dim, dim, noise, identity, seed)
    if 2 * rank >= dim:
        left, right = truncated(product, rank)
        return Core(np.ascontiguousarray(left.T), right, True)
    # In float64: on another machine, a turn of nearly equal singular vectors or a sign
    # would give the frames another meaning.
    left, right = truncated(product.astype(np.float64), rank)
    _, coordinates = np.linalg.qr(np.concatenate([left, right.T], axis=1))
    coordinates *= np.where(coordinates.diagonal() < 0, -1, 1)[:, None]
    both = np.ascontiguousarray(coordinates.T, np.float32)
    return Core(both[:rank], both[rank:], True)


def _two_frames_core(rows: int, columns: int, rank: int, noise: float, seed: int) -> Core:
    from scipy.linalg import blas, eigvalsh

    product = _product(rows, columns, noise, 0.0, seed).astype(np.float64)
    gram = blas.dsyrk(1.0, product if rows > columns else product.T, trans=True)
    values = eigvalsh(gram, lower=False, check_finite=False, overwrite_a=True)[::-1][:rank]
    # The roots of the singular values, which are the roots of these.
    roots = (np.maximum(values, 0) ** 0.25).astype(np.float32)
    return Core(roots, roots, False)


_kept: BoundedCache[Core] = BoundedCache(_KEPT_BYTES, lambda core: core.bytes)


def clear_decompositions(larger_than: int = 2**24) -> None:
    """Free the shared decompositions of more than so many bytes."""
    _kept.clear(larger_than)
