"""A selective state-space layer that starts as linear attention.

The layer (Mamba-2) keeps a matrix H of what it has seen: H_t = a_t H_(t-1) +
step_t x_t b_t^T, read as y_t = H_t c_t, with a_t = exp(-exp(a_log) step_t). With no
decay, steps of 1 and c and b alike functions of the token, y_t is the sum of all x_s
before, weighted by how like the tokens t and s are.
"""

import math

import numpy as np

from keras_mimetic._numerics.random import fold_in, sample

# From accounts of the paper's recipe, not read in the paper itself.
A_LOG = -8.0
STEP = 1.0
# Ours: accounts say that the product of the two projections is near the identity and
# that they are not equal.
CORRELATION = 0.9

# Mamba-2's own ranges, of its reference implementation.
_DECAYS = (1.0, 16.0)
_STEPS = (1e-3, 1e-1)


def in_projection(
    shape: tuple[int, int],
    *,
    num_heads: int,
    shared: int,
    correlation: float,
    has_steps: bool,
    seed: int,
) -> np.ndarray:
    """Draws the projection of the input to gate, x, b, c and steps, in this order.

    All columns are uniform with variance 1 / (3 width), as in Mamba-2's
    implementation. Those of c become `correlation W_b + sqrt(1 - correlation^2) W_c`,
    of the same variance, so that each group's W_c^T W_b is `correlation` W_b^T W_b and
    noise: near a multiple of the identity, as far as its rank goes.

    Args:
        shape: (width, columns), the width that of the input.
        num_heads: Columns of the steps.
        shared: Columns of b, and of c, over all groups of heads.
        correlation: Of each weight of c with its partner of b, in [-1, 1].
        has_steps: If not, the columns of the steps are zero: steps do not depend on
            the token then.
        seed: Integer >= 0.

    Returns:
        float32 array of that shape.
    """
    kernel = sample("uniform", shape, fold_in(seed, 0), std=_std(shape[0]))
    b, c, steps = parts(shape[1], num_heads, shared)
    kernel[:, c] *= np.float32(math.sqrt(1 - correlation**2))
    kernel[:, c] += np.float32(correlation) * kernel[:, b]
    if not has_steps:
        kernel[:, steps] = 0
    return kernel


def parts(columns: int, num_heads: int, shared: int) -> tuple[slice, slice, slice]:
    """Where b, c and the steps are among the columns of `in_projection`."""
    steps = columns - num_heads
    return (
        slice(steps - 2 * shared, steps - shared),
        slice(steps - shared, steps),
        slice(steps, columns),
    )


def log_decays(shape: tuple[int], *, a_log: float | None, seed: int) -> np.ndarray:
    """The logarithm of each head's decay for a step of 1.

    Args:
        shape: (num_heads,).
        a_log: The same for all, -8 for hardly any decay: over a step of 1 the state
            keeps exp(-exp(-8)) = 0.9997 of itself. `None` is Mamba-2's own: decays
            uniform in (1, 16).
        seed: Integer >= 0.

    Returns:
        float32 array of that shape.
    """
    if a_log is not None:
        with np.errstate(over="ignore"):
            return np.full(shape, a_log).astype(np.float32)
    return np.log(_between(*_DECAYS, shape, fold_in(seed, 1))).astype(np.float32)


def step_biases(shape: tuple[int], *, step: float | None, seed: int) -> np.ndarray:
    """What gives each head its step, softplus(bias), where the projection adds nothing.

    Args:
        shape: (num_heads,).
        step: The same for all, > 0. `None` is Mamba-2's own: the steps'
            logarithms uniform between those of 0.001 and 0.1.
        seed: Integer >= 0.

    Returns:
        float32 array of that shape.
    """
    if step is not None:
        steps = np.full(shape, step)
    else:
        low, high = np.log(_STEPS)
        steps = np.exp(_between(low, high, shape, fold_in(seed, 2)))
    # The inverse of softplus, without the overflow of log(exp(x) - 1).
    with np.errstate(over="ignore", divide="ignore"):
        return (steps + np.log(-np.expm1(-steps))).astype(np.float32)


def conv_kernel(shape: tuple[int, int], *, identity: bool, seed: int) -> np.ndarray:
    """The causal filters of all channels.

    Args:
        shape: (taps, channels), the last tap that of the present.
        identity: Whether they hand on the present. If not, they are Mamba-2's
            own: uniform with variance 1 / (3 taps).
        seed: Integer >= 0.

    Returns:
        float32 array of that shape.
    """
    if not identity:
        return sample("uniform", shape, fold_in(seed, 3), std=_std(shape[0]))
    kernel = np.zeros(shape, np.float32)
    kernel[-1] = 1
    return kernel


def conv_bias(shape: tuple[int], *, taps: int, identity: bool, seed: int) -> np.ndarray:
    """Biases of these filters: zero, or Mamba-2's own as for the filters."""
    if identity:
        return np.zeros(shape, np.float32)
    return sample("uniform", shape, fold_in(seed, 4), std=_std(taps))


def out_projection(shape: tuple[int, int], *, seed: int) -> np.ndarray:
    """Mamba-2's own: uniform with variance 1 / (3 fan_in)."""
    return sample("uniform", shape, fold_in(seed, 5), std=_std(shape[0]))


def _std(fan_in: int) -> float:
    return 1 / math.sqrt(3 * fan_in)


def _between(low: float, high: float, shape: tuple[int], seed: int) -> np.ndarray:
    """Uniform numbers in (low, high), in float64."""
    unit = sample("uniform", shape, seed, std=1 / math.sqrt(3)).astype(np.float64)
    return low + (high - low) * (unit + 1) / 2


def memory(a_log: float, step: float) -> float:
    """Return the number of positions after which 1/e of the state is left."""
    return float(np.exp(-a_log) / step)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two arrays; NaN if one is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    # Clipped so that rounding does not give what `initialize` refuses.
    return float(np.clip((a * b).sum() / norms, -1, 1)) if norms else float("nan")


def last_tap_energy(kernel: np.ndarray) -> float:
    """Return the part of a convolution's energy in its last tap; NaN for a kernel of zeros.

    Args:
        kernel: Of shape (taps, channels).
    """
    taps = np.square(kernel, dtype=np.float64).sum(axis=1)
    return float(taps[-1] / taps.sum()) if taps.any() else float("nan")
