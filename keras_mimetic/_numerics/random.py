"""Reproducible random numbers: a seed gives the same arrays on every backend.

Guarantee. Value `i` of a sample depends only on the distribution, the seed and
`i`. Its random bits are the raw output of NumPy's `Philox` bit generator, keyed
by `SeedSequence(seed)`. NumPy guarantees that both streams stay the same across
versions, unlike the distributions of `numpy.random.Generator`. The conversion from
bits to numbers is ours. It uses only float32 operations that IEEE 754 rounds exactly (+, -, x, /,
square root), so the same seed gives the same bits on every backend, on every
processor and for any number of threads. Philox is counter-based, so blocks of
a large tensor are sampled side by side.

Limits. Uniforms lie on a grid of 2**24 values, like NumPy's own float32
uniforms. Each normal is the inverse distribution function of one uniform, with
a relative error of about 1e-6, and |z| is at most 5.42.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_mimetic._checks import check_choice, check_integer, check_shape
from keras_mimetic._numerics.normal import to_normals, to_truncated_normals
from keras_mimetic._numerics.threads import in_threads

# Standard deviation of a unit normal truncated at two standard deviations.
TRUNCATED_STD = 0.87962566103423978

# Philox makes four 64-bit words, which are eight values, per count of its counter.
_PER_COUNT = 8
# Number of values that go through all steps together, in a processor's own cache, and per task of
# a thread. Neither changes the result.
_BLOCK = 1 << 16
_CHUNK = 8 * _BLOCK

# The transformation from uniforms in (-1, 1) to each distribution, and its standard deviation.
_TRANSFORMS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "uniform": (np.positive, 1 / math.sqrt(3)),
    "truncated_normal": (to_truncated_normals, TRUNCATED_STD),
    "untruncated_normal": (to_normals, 1.0),
}
DISTRIBUTIONS = tuple(_TRANSFORMS)


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
) -> np.ndarray:
    """Sample a float32 array, filled in C order, from a distribution of the given mean and std.

    A `"truncated_normal"` is cut at two standard deviations of the normal distribution; `std`
    is that after the cut. The number of threads does not change the values.

    Reference for the generator:

    - [Salmon et al., 2011](https://doi.org/10.1145/2063384.2063405), "Parallel
      random numbers: as easy as 1, 2, 3".
    """
    check_choice("distribution", distribution, DISTRIBUTIONS)
    transform, own_std = _TRANSFORMS[distribution]
    key = np.random.SeedSequence(check_seed(seed)).generate_state(2, np.uint64)
    scale, shift = np.float32(std / own_std), np.float32(mean)
    out = np.empty(check_shape(shape), np.float32)
    flat = out.reshape(-1)

    def fill(start: int) -> None:
        generator = np.random.Philox(key=key, counter=start // _PER_COUNT)
        for first in range(start, min(start + _CHUNK, out.size), _BLOCK):
            block = flat[first : first + _BLOCK]
            np.multiply(transform(_uniforms(generator, len(block))), scale, block)
            block += shift

    in_threads(fill, range(0, out.size, _CHUNK))
    return out


def _uniforms(generator: np.random.Philox, count: int) -> np.ndarray:
    """Return the next float32 uniforms on the grid (2 k + 1) / 2**24 in (-1, 1).

    They are symmetric about zero and never 0 or +-1, so later steps need no guards. Every step is
    exact in float32.
    """
    words = generator.random_raw((count + 1) // 2).astype("<u8", copy=False)
    # The bits of a word that float32 can hold, and half of the range of the others.
    values = (words.view("<i4")[:count] & ~0xFF).astype(np.float32)
    values += 128
    values *= 2.0**-31
    return values
