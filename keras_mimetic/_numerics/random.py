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
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_mimetic._checks import check_choice, check_integer, check_shape
from keras_mimetic._numerics.normal import (
    SCALE,
    SCRATCH,
    Tail,
    tail_normals,
    to_normals,
    to_truncated_normals,
)

# Standard deviation of a unit normal truncated at two of its own.
TRUNCATED_STD = 0.87962566103423978
# The farthest that values of each distribution lie from the mean, in standard deviations,
# rounded up.
FARTHEST = {"uniform": 1.74, "truncated_normal": 2.28, "untruncated_normal": 5.43}

# Philox makes four 64-bit words per count of its counter: eight values.
_PER_COUNT = 8
# How many values go through all steps before the next ones. All that they need then
# lies in a processor's own cache (1 MiB is usual, of which a step touches three
# quarters), and the steps are long beside the calls of NumPy.
_BLOCK = 1 << 16
# How many values one thread makes at a time, so that threads end together. Neither shows in
# the result.
_CHUNK = 8 * _BLOCK
# The lower bits of a word, which float32 cannot hold, and the middle of their range.
_LOW_BITS, _HALF = np.array(~0xFF, np.int32), np.array(128, np.float32)
_UNIT = np.array(1 / SCALE, np.float32)


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
    out = _aligned(stop - start)
    # Each thread's own, kept from chunk to chunk: fresh memory would cost more than the steps.
    own = threading.local()

    def fill(begin: int) -> None:
        if not hasattr(own, "scratch"):
            size = min(_BLOCK, len(out))
            own.scratch = [_aligned(size) for _ in range(SCRATCH)]
        values = out[begin - start : min(begin + _CHUNK, stop) - start]
        tails = []
        for first, x in _symmetric_uniforms(key, begin, values):
            tail = transform(x, [array[: len(x)] for array in own.scratch])
            _scale_and_shift(x, scale, shift)
            if tail is not None:
                tails.append((tail[0] + first, *tail[1:]))
        if tails:
            where, *arguments = (np.concatenate(arrays) for arrays in zip(*tails, strict=True))
            values[where] = _scale_and_shift(tail_normals(*arguments), scale, shift)

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


def _aligned(size: int) -> np.ndarray:
    """Return an empty float32 array whose memory begins at a multiple of 64 bytes.

    Such memory is read and written in whole lines of the cache, and JAX and TensorFlow
    take it without a copy.
    """
    array = np.empty(size + 16, np.float32)
    begin = -array.ctypes.data % 64 // array.itemsize
    return array[begin : begin + size]


def _symmetric_uniforms(
    key: np.ndarray, start: int, out: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Fill an array, block by block, with values `start` and following, times `SCALE`.

    They lie on the grid (2 k + 1) / 2**24 in (-1, 1): symmetric about zero, never
    zero, never +-1, so that there is nothing to guard against in what follows. Every step is
    exact in float32.

    Yields:
        The position of each block in `out`, and the block.
    """
    count = start // _PER_COUNT
    generator = np.random.Philox(key=key, counter=count)
    stop = start + len(out)
    for low in range(count * _PER_COUNT, stop, _BLOCK):
        high = min(low + _BLOCK, stop)
        words = generator.random_raw((high - low + 1) // 2).astype("<u8", copy=False)
        first = max(low, start)
        signed = words.view("<i4")[first - low : high - low]
        signed &= _LOW_BITS
        block = out[first - start : high - start]
        block[:] = signed
        block += _HALF
        yield first - start, block


def _scale_and_shift(x: np.ndarray, scale: np.float32, shift: np.float32) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        if scale != 1:
            x *= scale
        # Products that underflow may be -0, of which a shift by 0 makes 0.
        if shift != 0 or abs(scale) < 1e-30:
            x += shift
    return x


def _to_uniforms(x: np.ndarray, scratch: list[np.ndarray]) -> None:
    x *= _UNIT


# How `SCALE` times uniforms in (-1, 1) become a distribution, in place, up to a tail; and its
# standard deviation.
_TRANSFORMS: dict[str, tuple[Callable[[np.ndarray, list[np.ndarray]], Tail | None], float]] = {
    "uniform": (_to_uniforms, 1 / math.sqrt(3)),
    "truncated_normal": (to_truncated_normals, TRUNCATED_STD),
    "untruncated_normal": (to_normals, 1.0),
}
DISTRIBUTIONS = tuple(_TRANSFORMS)
