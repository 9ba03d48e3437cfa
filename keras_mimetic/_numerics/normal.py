"""Unit normals from uniforms, with the same bits on every processor.

Every step is one float32 operation that IEEE 754 rounds exactly (+, -, x, /, square
root). Each is a pass over a whole array, in place where possible, on memory that the
caller has aligned. The cost is the number of passes.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

# 2 Phi(2) - 1, the probability that a unit normal is within +-2.
TRUNCATED_MASS = 0.95449973610364158
# Uniforms are multiplied by this power of two, the scale of their random bits, which changes
# no rounding.
SCALE = 2.0**31
# Number of scratch arrays that `to_normals` needs.
SCRATCH = 4


class Tail(NamedTuple):
    """The uniforms that need the second polynomial, log(1 - u**2) <= -5."""

    positions: np.ndarray
    # `SCALE` times u, and log(1 - u**2).
    x: np.ndarray
    log: np.ndarray


def _constant(value: float | np.floating, dtype: Any = np.float32) -> np.ndarray:
    # Operations convert scalars at each call, but not arrays without axes.
    return np.array(value, dtype)


_MASS = _constant(TRUNCATED_MASS)
_SCALE = _constant(SCALE)
_SCALE_SQUARED = _constant(SCALE**2)
# The exponent of a float32 starts at bit 23.
_EXPONENT = _constant(~0x7FFFFF, np.int32)
_SQRT_HALF = _constant(0x3F3504F3 + (62 << 23), np.int32)
_LOG_2 = _constant(np.float32(math.log(2)) * np.float32(2.0**-23))
_SQRT_2 = _constant(np.float32(math.sqrt(2)) / np.float32(SCALE))
_TAIL_STARTS = _constant(-5)
_CENTER, _TAIL_CENTER = _constant(-2.5), _constant(3)

# 2 atanh(s) / s in s**2, highest power first.
_LOG_SERIES = [_constant(value) for value in (2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0)]
# Giles's single-precision inverse error function, highest power first: in w - 2.5 for
# w < 5, then in sqrt(w) - 3, w = -log(1 - u**2).
_ERFINV_CENTER = [
    _constant(value)
    for value in (
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
]
_ERFINV_TAIL = [
    _constant(value)
    for value in (
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
]


def to_normals(x: np.ndarray, scratch: Iterable[np.ndarray]) -> Tail:
    """Turn float32 `SCALE` times uniforms in (-1, 1), never 0, into unit normals in place.

    They are sqrt(2) erfinv(u). The caller writes the `tail_normals` of the returned tail, which is
    small, and cheaper to compute for many blocks at once. `scratch` is `SCRATCH` arrays like `x`.

    Reference:

    - Giles, 2012, "Approximating the erfinv function", GPU Computing Gems
      (Jade edition), chapter 10.
    """
    log, values, rest, spare = scratch
    _log_of_one_minus_square(x, log, values, rest, spare)
    positions = np.less_equal(log, _TAIL_STARTS).nonzero()[0]
    tail = Tail(positions, x[positions], log[positions])
    _finish(x, log, values)
    return tail


def tail_normals(tail: Tail) -> np.ndarray:
    """Return the normals of a tail."""
    root = np.sqrt(-tail.log)
    root -= _TAIL_CENTER
    values = _polynomial(_ERFINV_TAIL, root, np.empty_like(root))
    values *= tail.x
    values *= _SQRT_2
    return values


def to_truncated_normals(x: np.ndarray, scratch: Iterable[np.ndarray]) -> None:
    """Turn such uniforms into unit normals with |value| <= 2, in place; there is no tail."""
    x *= _MASS
    log, values, rest, spare = scratch
    _log_of_one_minus_square(x, log, values, rest, spare)
    _finish(x, log, values)


def _log_of_one_minus_square(
    x: np.ndarray, out: np.ndarray, m: np.ndarray, s: np.ndarray, log_m: np.ndarray
) -> None:
    """Write log((1 - u) (1 + u)) for uniforms u = x / SCALE, without `numpy.log`.

    The last bit of `numpy.log` depends on the processor. Here the product is m * 2**k with
    m in [sqrt(1/2), sqrt(2)), read off the bits, and log(m) = 2 atanh(s),
    s = (m - 1) / (m + 1), is computed by its series up to s**9. `m` holds SCALE**2 times m.
    The last three arrays are scratch.
    """
    np.subtract(_SCALE, x, m)
    np.add(_SCALE, x, s)
    m *= s
    bits, exponent = m.view(np.int32), s.view(np.int32)
    np.subtract(bits, _SQRT_HALF, exponent)
    exponent &= _EXPONENT
    bits -= exponent
    # 2**23 k.
    np.copyto(out, exponent)
    out *= _LOG_2
    np.subtract(m, _SCALE_SQUARED, s)
    m += _SCALE_SQUARED
    s /= m
    square = np.square(s, m)
    _polynomial(_LOG_SERIES, square, log_m)
    log_m *= s
    out += log_m


def _finish(x: np.ndarray, log: np.ndarray, values: np.ndarray) -> None:
    """Turn uniforms into normals, given log(1 - u**2) > -5, which is overwritten."""
    np.subtract(_CENTER, log, log)
    x *= _polynomial(_ERFINV_CENTER, log, values)
    x *= _SQRT_2


def _polynomial(coefficients: list[np.ndarray], x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Evaluate a polynomial by Horner's rule, highest power first, in float32 throughout."""
    np.multiply(x, coefficients[0], out)
    out += coefficients[1]
    for coefficient in coefficients[2:]:
        out *= x
        out += coefficient
    return out
