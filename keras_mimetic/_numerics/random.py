"""Reproducible random numbers: a seed gives the same arrays on every backend.

Guarantee. Value `i` of a sample depends only on the distribution, the seed and
`i`. Its random bits are the raw output of NumPy's `Philox` bit generator, keyed
by `SeedSequence(seed)`. NumPy guarantees that both streams stay the same across
versions, unlike the distributions of `numpy.random.Generator`. The conversion from
bits to numbers is ours. It uses only float32 operations that IEEE 754 rounds exactly (+, -, x, /,
square root), so the same seed gives the same bits on every backend, on every
processor and for any number of threads. Philox is counter-based, so any range of
a large tensor can be sampled alone (`sample_range`), such as the shard of one of
many hosts.

Limits. Uniforms lie on a grid of 2**24 values, like NumPy's own float32
uniforms. Each normal is the inverse distribution function of one uniform, with
a relative error of about 1e-6, and |z| is at most 5.42.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
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
from keras_mimetic._numerics.threads import in_threads

# Standard deviation of a unit normal truncated at two standard deviations.
TRUNCATED_STD = 0.87962566103423978

# Philox makes four 64-bit words, which are eight values, per count of its counter.
_PER_COUNT = 8
# Number of values that go through all steps together. Their memory fits a processor's own
# cache (usually 1 MiB, of which a step touches three quarters), and the overhead of the
# NumPy calls is small.
_BLOCK = 1 << 16
# Number of values per task of a thread. Neither size changes the result.
_CHUNK = 8 * _BLOCK
# Mask for the bits of a word that float32 can hold, and half of the range of the others.
_LOW_BITS, _HALF = np.array(~0xFF, np.int32), np.array(128, np.float32)
_UNIT = np.array(1 / SCALE, np.float32)


def check_seed(seed: Any) -> int:
    """Return `seed` as a Python `int` of any size, or raise."""
    return check_integer("seed", seed, minimum=0)


def fold_in(seed: int, *path: int) -> int:
    """Return the 128-bit seed of the sub-stream that the integers in `path` identify.

    Sub-streams of one seed, and of neighboring seeds, are independent (see
    `numpy.random.SeedSequence`).
    """
    words = np.random.SeedSequence(seed, spawn_key=path).generate_state(4, np.uint32)
    return sum(int(word) << (32 * position) for position, word in enumerate(words))


def split_seed(seed: int, names: Sequence[str]) -> dict[str, int]:
    """Return a seed for each name, derived from its index in `names`."""
    return {name: fold_in(seed, number) for number, name in enumerate(names)}


def sample(
    distribution: str,
    shape: Sequence[int],
    seed: int,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    threads: int | None = None,
) -> np.ndarray:
    """Sample a float32 array, filled in C order, from a distribution of the given mean and std.

    A `"truncated_normal"` is cut at two standard deviations of the normal distribution; `std`
    is that after the cut. The number of threads, by default one per processor, does not change
    the values.

    Reference for the generator:

    - [Salmon et al., 2011](https://doi.org/10.1145/2063384.2063405), "Parallel
      random numbers: as easy as 1, 2, 3".
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
    """Return `sample(...).ravel()[start:stop]` of any shape that is large enough, sampled alone."""
    check_choice("distribution", distribution, DISTRIBUTIONS)
    start = check_integer("start", start, minimum=0)
    stop = check_integer("stop", stop, minimum=start)
    transform, own_std = _TRANSFORMS[distribution]
    key = np.random.SeedSequence(check_seed(seed)).generate_state(2, np.uint64)
    # Overflow gives inf, which the caller reports.
    with np.errstate(over="ignore"):
        scale, shift = np.float32(std / own_std), np.float32(mean)
    out = _aligned(stop - start)
    # Scratch memory is reused by each thread: allocating it would cost more than the steps.
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
                tails.append(tail._replace(positions=tail.positions + first))
        if tails:
            tail = Tail(*(np.concatenate(arrays) for arrays in zip(*tails, strict=True)))
            values[tail.positions] = _scale_and_shift(tail_normals(tail), scale, shift)

    in_threads(fill, range(start, stop, _CHUNK), threads)
    return out


def _aligned(size: int) -> np.ndarray:
    """Return an empty float32 array whose memory begins at a multiple of 64 bytes.

    It fills whole cache lines, and JAX and TensorFlow use it without a copy.
    """
    array = np.empty(size + 16, np.float32)
    begin = -array.ctypes.data % 64 // array.itemsize
    return array[begin : begin + size]


def _symmetric_uniforms(
    key: np.ndarray, start: int, out: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Fill an array with `SCALE` times uniforms from index `start` on; yield positions and blocks.

    The uniforms lie on the grid (2 k + 1) / 2**24 in (-1, 1). They are symmetric about
    zero and never 0 or +-1, so later steps need no guards. Every step is exact in float32.
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
        # Products that underflow may be -0, which a shift by 0 turns into 0.
        if shift != 0 or abs(scale) < 1e-30:
            x += shift
    return x


def _to_uniforms(x: np.ndarray, scratch: list[np.ndarray]) -> None:
    x *= _UNIT


# The in-place transformation from `SCALE` times uniforms in (-1, 1) to each distribution
# (except for a tail), and the standard deviation of the result.
_TRANSFORMS: dict[str, tuple[Callable[[np.ndarray, list[np.ndarray]], Tail | None], float]] = {
    "uniform": (_to_uniforms, 1 / math.sqrt(3)),
    "truncated_normal": (to_truncated_normals, TRUNCATED_STD),
    "untruncated_normal": (to_normals, 1.0),
}
DISTRIBUTIONS = tuple(_TRANSFORMS)
