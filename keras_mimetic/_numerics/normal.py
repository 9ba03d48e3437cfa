"""Unit normals from uniforms, with the same bits on every processor.

Every step is one float32 operation that IEEE 754 rounds exactly (+, -, x, /, square
root), on a whole array. The cost is the number of steps.
"""

import math
from collections.abc import Sequence

import numpy as np

# 2 Phi(2) - 1, the probability that a unit normal is within +-2.
TRUNCATED_MASS = 0.95449973610364158
# The bits of a float32 from its exponent on, and the bits of sqrt(1/2).
_EXPONENT, _SQRT_HALF = ~0x7FFFFF, 0x3F3504F3

# 2 atanh(s) / s in s**2, highest power first.
_LOG_SERIES = (2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0)
# Giles's single-precision inverse error function, highest power first: in w - 2.5 for
# w < 5, then in sqrt(w) - 3, w = -log(1 - u**2).
_ERFINV_CENTER = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
_ERFINV_TAIL = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)


def to_normals(u: np.ndarray) -> np.ndarray:
    """Return the unit normals sqrt(2) erfinv(u) of float32 uniforms in (-1, 1).

    Reference:

    - Giles, 2012, "Approximating the erfinv function", GPU Computing Gems
      (Jade edition), chapter 10.
    """
    log = _log_of_one_minus_square(u)
    values = _polynomial(_ERFINV_CENTER, -2.5 - log)
    tail = np.flatnonzero(log <= -5)
    values[tail] = _polynomial(_ERFINV_TAIL, np.sqrt(-log[tail]) - 3)
    values *= u
    values *= math.sqrt(2)
    return values


def to_truncated_normals(u: np.ndarray) -> np.ndarray:
    """Return unit normals with |value| <= 2 of float32 uniforms in (-1, 1)."""
    return to_normals(u * TRUNCATED_MASS)


def _log_of_one_minus_square(u: np.ndarray) -> np.ndarray:
    """Return log((1 - u) (1 + u)), without `numpy.log`, whose last bit depends on the processor.

    The product is m * 2**k with m in [sqrt(1/2), sqrt(2)), read off the bits, and
    log(m) = 2 atanh(s), s = (m - 1) / (m + 1), is computed by its series up to s**9.
    """
    m = (1 - u) * (1 + u)
    bits = m.view(np.int32)
    exponent = (bits - _SQRT_HALF) & _EXPONENT  # 2**23 k
    bits -= exponent
    s = (m - 1) / (m + 1)
    log = exponent.astype(np.float32)
    log *= math.log(2) * 2.0**-23
    log += _polynomial(_LOG_SERIES, s * s) * s
    return log


def _polynomial(coefficients: Sequence[float], x: np.ndarray) -> np.ndarray:
    """Evaluate a polynomial by Horner's rule, highest power first, in float32 throughout."""
    out = x * coefficients[0]
    out += coefficients[1]
    for coefficient in coefficients[2:]:
        out *= x
        out += coefficient
    return out
