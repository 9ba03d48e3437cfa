"""Position tables: sines and cosines, and how near a table is to them.

A table has a row per position. Vaswani et al. (2017, arXiv:1706.03762) give position t the
entries sin(t w_k) and cos(t w_k) with frequencies w_k = 10000^(-2k/d); He et al. (2022,
"Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377) give the patches of
an image such a table of their row in one half of the channels, and of their column in the other.
"""

import math

import numpy as np

from keras_mimetic._numerics.random import sample

_LONGEST = 10_000.0
# A table is compared with sinusoids of so many frequencies for each position, at most.
_FREQUENCIES_BY_POSITION, _MAX_FREQUENCIES = 4, 1024


def sin_cos(positions: np.ndarray, width: int) -> np.ndarray:
    """Return sines, then cosines, of n positions: (n, width); an odd width ends with zeros."""
    half = width // 2
    frequencies = _LONGEST ** (-np.arange(half) / max(half, 1))
    angles = np.asarray(positions, np.float64)[:, None] * frequencies
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.pad(table, ((0, 0), (0, width - 2 * half)))


def sin_cos_table(shape: tuple[int, ...], width: int, rms: float) -> np.ndarray:
    """Return the float32 table of n positions (n,), or of rows and columns of patches (h, w)."""
    if len(shape) == 1:
        table = sin_cos(np.arange(shape[0]), width)
    else:
        rows, columns = np.divmod(np.arange(math.prod(shape)), shape[1])
        half = width // 2
        table = np.concatenate([sin_cos(rows, half), sin_cos(columns, width - half)], axis=1)
    return (table * (rms / math.sqrt(np.mean(table**2)))).astype(np.float32)


def same_norm(table: np.ndarray, seed: int) -> np.ndarray:
    """Return independent normals with the Frobenius norm of a table."""
    noise = sample("untruncated_normal", table.shape, seed)
    return noise * np.float32(np.linalg.norm(table) / np.linalg.norm(noise))


def explained_by_sinusoids(table: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the fraction of a table's energy that one sinusoid for each channel explains.

    Each channel, less its mean over positions, is projected onto the sine and cosine of the
    frequency that fits it best; in an image (h, w) onto those of the row or of the column.
    Independent entries give about 2 ln(n) / n for n positions; equal positions give NaN.
    """
    centered = table.astype(np.float64).reshape(*shape, -1)
    centered = centered - centered.mean(axis=tuple(range(len(shape))))
    total = float((centered**2).sum())
    if total <= 1e-12 * float((table.astype(np.float64) ** 2).sum()):
        return math.nan
    best = np.zeros(table.shape[-1])
    for axis, size in enumerate(shape):
        others = tuple(other for other in range(len(shape)) if other != axis)
        profile = centered.mean(axis=others)
        energy = _best_energy(profile) * math.prod(shape) / size
        best = np.maximum(best, energy)
    return float(best.sum() / total)


def _best_energy(profile: np.ndarray) -> np.ndarray:
    """Return the largest energy in one sinusoid of each column of shape (positions, width)."""
    size = len(profile)
    if size < 2:
        return np.zeros(profile.shape[1])
    number = min(_FREQUENCIES_BY_POSITION * size, _MAX_FREQUENCIES)
    angles = np.outer(np.pi * np.arange(1, number + 1) / number, np.arange(size))
    cos, sin = np.cos(angles), np.sin(angles)
    cos -= cos.mean(axis=1, keepdims=True)
    sin -= sin.mean(axis=1, keepdims=True)
    first = _normalized(cos)
    second = _normalized(sin - first * (first * sin).sum(axis=1, keepdims=True))
    energies = (first @ profile) ** 2 + (second @ profile) ** 2
    return energies.max(axis=0)


def _normalized(rows: np.ndarray) -> np.ndarray:
    """Return rows of norm 1, or 0 where they are nothing but rounding."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-8)
