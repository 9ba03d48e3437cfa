"""A seed becomes NumPy random numbers: the same ones on every backend.

What is promised. Value number `i` of a sample is a function of the
distribution, the seed and `i` alone. Its random bits are the raw output of
NumPy's `Philox` bit generator, keyed by `SeedSequence(seed)`: both streams
are ones that NumPy promises to keep (those of `numpy.random.Generator`'s
distributions are not). The step from bits to numbers is ours and uses only
float32 operations that IEEE 754 rounds exactly (+, -, x, /, square root), so
that the same seed gives the same bits in every backend, on every processor
and for any number of threads. Because Philox counts, any range of a large
tensor can be drawn alone (`sample_range`), as a shard on one of many hosts
would be.

What it costs. Uniforms lie on a grid of 2**24 values, as NumPy's own float32
uniforms do. Normals come from one uniform each by the inverse distribution
function, to a relative error of about 1e-6, and end at |z| = 5.42.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_mimetic._checks import check_choice, check_integer, check_shape

# Standard deviation of a unit normal truncated at two of its own.
TRUNCATED_STD = 0.87962566103423978
# 2 Phi(2) - 1: the part of a unit normal that the truncation keeps.
TRUNCATED_MASS = 0.95449973610364158

# Philox makes four 64-bit words per count of its counter: eight values.
_BLOCK = 8
# How many values one thread makes at a time: few enough for the last level of cache, and
# enough that threads rarely wait for one another between two NumPy calls. It
# does not show in the result.
_CHUNK = 1 << 18
# How many arrays of that length the steps from uniforms to normals need, so that
# no step waits for fresh memory.
_SCRATCH = 4

# Coefficients of Giles's single-precision inverse error function, highest
# power first: in w - 2.5 for w < 5, then in sqrt(w) - 3, w = -log(1 - x**2).
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


def check_seed(seed: Any) -> int:
    """Return `seed` as a Python `int` >= 0 of any size.

    Raises:
        TypeError: if it is not an integer (a bool is not one here).
        ValueError: if it is negative.
    """
    return check_integer("seed", seed, minimum=0)


def fold_in(seed: int, *path: int) -> int:
    """Return the seed of a sub-stream, a 128-bit integer for each `path`.

    Sub-streams of one seed, and of neighboring seeds, are independent
    (`numpy.random.SeedSequence`), as they are not with `seed + 1`.

    Args:
        seed: Integer >= 0.
        *path: Integers >= 0 that number the sub-stream.

    Returns:
        An integer in [0, 2**128).
    """
    words = np.random.SeedSequence(seed, spawn_key=path).generate_state(4, np.uint32)
    return sum(int(word) << (32 * position) for position, word in enumerate(words))


def split_seed(seed: int, names: Sequence[str]) -> dict[str, int]:
    """Return a seed for each name, by its number in `names`."""
    return {name: fold_in(seed, number) for number, name in enumerate(names)}


def sample(
    distribution: str,
    shape: Any,
    seed: int,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    threads: int | None = None,
) -> np.ndarray:
    """Draws a float32 array from a distribution with the given mean and std.

    Args:
        distribution: `"uniform"`; `"truncated_normal"`, a normal distribution
            cut at two of its standard deviations on either side; or
            `"untruncated_normal"`.
        shape: Tuple of integers >= 0.
        seed: Integer >= 0.
        mean: Mean of the distribution drawn from, absolute.
        std: Its standard deviation, absolute; for `"truncated_normal"` that
            of the distribution after the cut.
        threads: At most this many threads; by default one for each processor.
            It does not change the result.

    Returns:
        Array of the given shape, filled in C order.

    Raises:
        ValueError, TypeError: for a distribution, shape or seed other than
            these.

    Example:

    >>> sample("uniform", (2, 3), seed=0).shape
    (2, 3)

    Reference:

    - [Salmon et al., 2011](https://doi.org/10.1145/2063384.2063405), "Parallel
      random numbers: as easy as 1, 2, 3": the generator.
    - Giles, 2012, "Approximating the erfinv function", GPU Computing Gems
      (Jade edition), chapter 10: the normal distribution's inverse.
    """
    shape = check_shape(shape)
    size = math.prod(shape)
    values = sample_range(distribution, 0, size, seed, mean=mean, std=std, threads=threads)
    return values.reshape(shape)


def sample_range(
    distribution: str,
    start: int,
    stop: int,
    seed: int,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    threads: int | None = None,
) -> np.ndarray:
    """Values `start` to `stop` of the endless sequence that `sample` cuts from.

    `sample_range(d, a, b, seed)` equals `sample(d, shape, seed).ravel()[a:b]`
    without drawing the rest. Arguments, units and errors are those of `sample`.

    Returns:
        float32 array of shape `(stop - start,)`.
    """
    check_choice("distribution", distribution, DISTRIBUTIONS)
    start = check_integer("start", start, minimum=0)
    stop = check_integer("stop", stop, minimum=start)
    transform, deviation = _TRANSFORMS[distribution]
    key = np.random.SeedSequence(check_seed(seed)).generate_state(2, np.uint64)
    # What float32 cannot hold becomes inf, for the caller to see.
    with np.errstate(over="ignore"):
        scale, shift = np.float32(std / deviation), np.float32(mean)
    out = np.empty(stop - start, np.float32)

    def fill(begin: int) -> None:
        values = out[begin - start : min(begin + _CHUNK, stop) - start]
        _symmetric_uniform(key, begin, values)
        transform(values, np.empty((_SCRATCH, len(values)), np.float32))
        with np.errstate(over="ignore", invalid="ignore"):
            values *= scale
            values += shift

    in_threads(fill, range(start, stop, _CHUNK), threads)
    return out


def in_threads(function: Callable[[int], None], items: range, threads: int | None = None) -> None:
    """Calls a function with each item, in at most so many threads [one a processor]."""
    threads = min(threads or processors(), len(items))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(function, items))
    else:
        for item in items:
            function(item)


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _symmetric_uniform(key: np.ndarray, start: int, out: np.ndarray) -> None:
    """Draws `start` and following on the grid (2 k + 1) / 2**24 in (-1, 1).

    Symmetric about zero, never zero, never +-1: nothing to guard against in
    what follows. Every step is exact in float32.
    """
    first = start // _BLOCK
    blocks = -(-(start + len(out)) // _BLOCK) - first
    generator = np.random.Philox(key=key, counter=first)
    words = generator.random_raw(blocks * (_BLOCK // 2)).astype("<u8", copy=False)
    signed = words.view("<i4")[start - first * _BLOCK :][: len(out)]
    signed >>= 8
    out[:] = signed
    out += np.float32(0.5)
    out *= np.float32(2.0**-23)


def _identity(x: np.ndarray, scratch: np.ndarray) -> None:
    pass


def _normal(x: np.ndarray, scratch: np.ndarray) -> None:
    """Turns uniforms in (-1, 1) into unit normals, sqrt(2) erfinv(x), in place."""
    log, values, rest = scratch[0], scratch[1], scratch[2:]
    np.subtract(np.float32(1), x, out=values)
    np.add(np.float32(1), x, out=log)
    values *= log
    _log(values, log, rest)
    np.subtract(np.float32(-2.5), log, out=rest[0])
    _polynomial(_ERFINV_CENTER, rest[0], values)
    tail = np.flatnonzero(log <= -5)
    if tail.size:
        root = np.sqrt(-log[tail]) - np.float32(3)
        values[tail] = _polynomial(_ERFINV_TAIL, root, np.empty_like(root))
    x *= values
    x *= np.float32(math.sqrt(2))


def _truncated_normal(x: np.ndarray, scratch: np.ndarray) -> None:
    """The same, with |value| <= 2: the inverse of the middle of the range."""
    x *= np.float32(TRUNCATED_MASS)
    _normal(x, scratch)
    # The approximation's last bits may reach past the cut.
    np.clip(x, np.float32(-2), np.float32(2), out=x)


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Horner's rule, in float32 throughout, highest power first."""
    np.multiply(x, np.float32(coefficients[0]), out=out)
    out += np.float32(coefficients[1])
    for coefficient in coefficients[2:]:
        out *= x
        out += np.float32(coefficient)
    return out


def _log(x: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    """log(x) for float32 x in (0, 1], which is lost, without a library's logarithm.

    `numpy.log` differs in the last bit from one processor to another. Here
    x = m * 2**k with m in [sqrt(1/2), sqrt(2)), read off the bits, and
    log(m) = 2 atanh(s), s = (m - 1) / (m + 1), by its series up to s**9.
    """
    s, log_m = scratch
    sqrt_half = np.int32(0x3F3504F3)
    bits, exponent = x.view(np.int32), s.view(np.int32)
    bits -= sqrt_half
    np.right_shift(bits, 23, out=exponent)
    out[:] = exponent
    bits &= np.int32(0x7FFFFF)
    bits += sqrt_half
    m = x
    np.subtract(m, np.float32(1), out=s)
    m += np.float32(1)
    s /= m
    square = np.multiply(s, s, out=x)
    _polynomial((2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0), square, log_m)
    log_m *= s
    out *= np.float32(math.log(2))
    out += log_m


# How uniforms in (-1, 1) become a distribution, in place, and its standard deviation.
_TRANSFORMS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], None], float]] = {
    "uniform": (_identity, 1 / math.sqrt(3)),
    "truncated_normal": (_truncated_normal, TRUNCATED_STD),
    "untruncated_normal": (_normal, 1.0),
}
DISTRIBUTIONS = tuple(_TRANSFORMS)
