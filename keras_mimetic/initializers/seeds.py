"""What Keras's initializers take as a seed, as an integer."""

import random
from typing import Any

import keras
import numpy as np

from keras_mimetic._numerics.random import check_seed, fold_in

# What a user may pass as `seed`, in words.
ALLOWED = "None, an integer >= 0 or a `keras.random.SeedGenerator`"


def resolve_seed(seed: Any) -> Any:
    """Return what an initializer keeps of its `seed` argument.

    `None` is drawn from Python's `random`, which `keras.utils.set_random_seed`
    sets, as in Keras's own initializers.

    Args:
        seed: `None`, an integer >= 0, a `keras.random.SeedGenerator`, or the
            serialized form of one.

    Returns:
        A Python `int` or a `SeedGenerator`, for `read_seed`.

    Raises:
        TypeError, ValueError: for anything else.
    """
    if seed is None:
        return random.randint(1, 10**9)
    if isinstance(seed, dict):
        seed = keras.saving.deserialize_keras_object(seed)
    if isinstance(seed, keras.random.SeedGenerator):
        return seed
    try:
        return check_seed(seed)
    except TypeError as error:
        raise TypeError(
            f"Argument `seed` must be {ALLOWED}. "
            f"Received: seed={seed!r} (of type {type(seed).__name__})"
        ) from error


def read_seed(seed: Any) -> int:
    """Return the integer for the next sample: a new one each time from a generator.

    Args:
        seed: An `int` or a `SeedGenerator`, from `resolve_seed`.

    Raises:
        ValueError: for a `SeedGenerator` inside a trace (`jax.jit`,
            `tf.function`), where its state cannot be read.
    """
    if not isinstance(seed, keras.random.SeedGenerator):
        return seed
    if _is_tracing():
        raise ValueError(
            "A weight cannot be drawn from a `SeedGenerator` while a function is being traced "
            "(as under `jax.jit`, `tf.function`, or Keras's jitted initialization of large "
            "sharded weights): its state has no value there. Use an integer seed. "
            f"Received: seed={seed!r}"
        )
    # Some backends keep the unsigned words in a signed type.
    state = np.asarray(keras.ops.convert_to_numpy(seed.next())).astype(np.int64) & 0xFFFFFFFF
    return fold_in(int(state[0]), int(state[1]))


def _is_tracing() -> bool:
    """Return whether operations yield symbols here instead of values."""
    try:
        # An operation on two constants: backends give a bare constant its
        # value even where they trace.
        keras.ops.convert_to_numpy(keras.ops.add(keras.ops.zeros(()), 1.0))
    except Exception:  # each backend has its own error
        return True
    return False
