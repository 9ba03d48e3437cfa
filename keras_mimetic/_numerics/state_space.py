"""A selective state-space layer that starts as linear attention.

The layer (Mamba-2) keeps a state H of fixed size: H_t = exp(A dt_t) H_(t-1) +
dt_t x_t B_t^T, read as y_t = H_t C_t, with A = -exp(a_log). With no decay, dt = 1 and
B and C similar functions of the token, y_t is the sum of all earlier x_s, weighted by
the similarity of the tokens t and s.
"""

import math

import numpy as np

from keras_mimetic._numerics.random import fold_in, sample

# From secondary sources; we could not read the paper itself.
A_LOG = -8.0
DT = 1.0
# Ours: secondary sources say that the product of the two projections is near the identity and
# that they are not equal.
CORRELATION = 0.9
# float32 must hold the decay rate, exp(a_log). Far smaller rates erase the state already.
MAX_A_LOG = 80

# The ranges of Mamba-2's reference implementation.
_DECAYS = (1.0, 16.0)
_DTS = (1e-3, 1e-1)


def in_projection(
    shape: tuple[int, int],
    *,
    num_heads: int,
    bc_dim: int,
    correlation: float,
    input_dependent_dt: bool,
    seed: int,
) -> np.ndarray:
    """Sample the projection (width, columns) of the input to gate, x, B, C and dt, in this order.

    All columns are uniform with variance 1 / (3 width), as in Mamba-2's implementation. The
    `bc_dim` columns of C become `correlation W_B + sqrt(1 - correlation^2) W_C`, so that each
    group's W_C^T W_B is `correlation` W_B^T W_B plus noise: near a multiple of the identity, as far
    as its rank allows. The `num_heads` columns of dt are zero unless dt depends on the token.
    """
    kernel = sample("uniform", shape, fold_in(seed, 0), std=_std(shape[0]))
    b, c, dt = parts(shape[1], num_heads, bc_dim)
    kernel[:, c] *= np.float32(math.sqrt(1 - correlation**2))
    kernel[:, c] += np.float32(correlation) * kernel[:, b]
    if not input_dependent_dt:
        kernel[:, dt] = 0
    return kernel


def parts(columns: int, num_heads: int, bc_dim: int) -> tuple[slice, slice, slice]:
    """Return the columns of `in_projection` that hold B, C and dt."""
    dt = columns - num_heads
    return slice(dt - 2 * bc_dim, dt - bc_dim), slice(dt - bc_dim, dt), slice(dt, columns)


def log_decays(shape: tuple[int], *, a_log: float | None, seed: int) -> np.ndarray:
    """Return `a_log`, the logarithm of the decay rate, for each head; `None` samples Mamba-2's own.

    With -8 and dt = 1, the state keeps exp(-exp(-8)) = 0.9997 of itself. Mamba-2's decay rates
    are uniform in (1, 16).
    """
    if a_log is not None:
        return np.full(shape, a_log, np.float32)
    return np.log(_between(*_DECAYS, shape, fold_in(seed, 1))).astype(np.float32)


def dt_biases(shape: tuple[int], *, dt: float | None, seed: int) -> np.ndarray:
    """Return each head's `dt_bias`, where dt = softplus(dt_bias); `None` samples Mamba-2's own dt.

    Its logarithms are uniform between those of 0.001 and 0.1.
    """
    if dt is not None:
        values = np.full(shape, dt)
    else:
        low, high = np.log(_DTS)
        values = np.exp(_between(low, high, shape, fold_in(seed, 2)))
    # The inverse of softplus, without the overflow of log(exp(x) - 1).
    return (values + np.log(-np.expm1(-values))).astype(np.float32)


def conv_kernel(shape: tuple[int, int], *, identity: bool, seed: int) -> np.ndarray:
    """Return causal filters (taps, channels), the last tap at the current position.

    They are the identity, or Mamba-2's own: uniform with variance 1 / (3 taps).
    """
    if not identity:
        return sample("uniform", shape, fold_in(seed, 3), std=_std(shape[0]))
    kernel = np.zeros(shape, np.float32)
    kernel[-1] = 1
    return kernel


def conv_bias(shape: tuple[int], *, taps: int, identity: bool, seed: int) -> np.ndarray:
    """Return the biases of `conv_kernel`: zero for the identity, else sampled like it."""
    if identity:
        return np.zeros(shape, np.float32)
    return sample("uniform", shape, fold_in(seed, 4), std=_std(taps))


def out_projection(shape: tuple[int, int], *, seed: int) -> np.ndarray:
    """Sample the output projection like Mamba-2: uniform with variance 1 / (3 fan_in)."""
    return sample("uniform", shape, fold_in(seed, 5), std=_std(shape[0]))


def _std(fan_in: int) -> float:
    return 1 / math.sqrt(3 * fan_in)


def _between(low: float, high: float, shape: tuple[int], seed: int) -> np.ndarray:
    """Sample uniform numbers in (low, high), in float64."""
    unit = sample("uniform", shape, seed, std=1 / math.sqrt(3)).astype(np.float64)
    return low + (high - low) * (unit + 1) / 2


def memory(a_log: float, dt: float) -> float:
    """Return the number of positions after which 1/e of the state is left."""
    return float(np.exp(-a_log) / dt)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two arrays; NaN if one is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / norms) if norms else float("nan")


def last_tap_energy(kernel: np.ndarray) -> float:
    """Return the last tap's fraction of the energy of a kernel (taps, channels); NaN for zeros."""
    taps = np.square(kernel, dtype=np.float64).sum(axis=1)
    return float(taps[-1] / taps.sum()) if taps.any() else float("nan")
