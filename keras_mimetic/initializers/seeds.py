"""Conversion of the seeds of Keras's initializers to integers."""

import random
from typing import Any

import keras

from keras_mimetic._numerics.random import check_seed, fold_in


def resolve_seed(seed: Any) -> Any:
    """Return the `seed` argument of an initializer as an `int` or `SeedGenerator`, or raise.

    As in Keras's own initializers, `None` takes an integer from Python's `random`, which
    `keras.utils.set_random_seed` sets. A `SeedGenerator` may be in its serialized form.
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
            "Argument `seed` must be None, an integer >= 0 or a `keras.random.SeedGenerator`. "
            f"Received: seed={seed!r} (of type {type(seed).__name__})"
        ) from error


def read_seed(seed: Any) -> int:
    """Return the integer seed of the next sample; a generator gives a new one each time.

    The state of a generator cannot be read inside a trace (`jax.jit`, `tf.function`): it raises a
    `ValueError`.
    """
    if not isinstance(seed, keras.random.SeedGenerator):
        return seed
    if is_tracing():
        raise ValueError(
            "A weight cannot be sampled with a `SeedGenerator` while a function is being traced "
            "(as by `jax.jit`, `tf.function`, or Keras's jitted initialization of large sharded "
            "weights), since the state of the generator has no value there. Use an integer "
            f"seed. Received: seed={seed!r}"
        )
    # Some backends store the unsigned words in a signed type.
    first, second = (int(word) & 0xFFFFFFFF for word in seed.next())
    return fold_in(first, second)


def is_tracing() -> bool:
    """Return whether operations currently return symbols instead of values."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

        return not tf.executing_eagerly()
    if keras.backend.backend() == "jax":
        import jax

        # Use an operation: constants have values even inside a trace.
        return isinstance(keras.ops.add(keras.ops.zeros(()), 1.0), jax.core.Tracer)
    return False
