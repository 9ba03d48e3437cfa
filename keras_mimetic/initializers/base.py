"""From what Keras calls a seed to the integer that `draws` takes."""

import random
from typing import Any

import keras
import numpy as np

from keras_mimetic._numerics.random import check_seed, fold_in

# What a user may pass as `seed`, in words.
ALLOWED = "None, an integer >= 0 or a `keras.random.SeedGenerator`"


def resolve_seed(seed: Any) -> Any:
    """What an initializer keeps of its `seed` argument.

    `None` is drawn from Python's `random`, which `keras.utils.set_random_seed`
    sets: what Keras's own initializers do.

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
    """The integer for the next draw: a new one each time from a generator.

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
    """Whether operations yield symbols here instead of values."""
    try:
        # An operation on two constants: backends give a bare constant its
        # value even where they trace.
        keras.ops.convert_to_numpy(keras.ops.add(keras.ops.zeros(()), 1.0))
    except Exception:  # each backend has its own error
        return True
    return False


def check_float_dtype(dtype: Any) -> str:
    """Name of a floating dtype; of `None` that of `keras.config.floatx()`."""
    dtype = keras.backend.standardize_dtype(dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            "Argument `dtype` must be a floating type, such as 'float32' or 'bfloat16'. "
            f"Received: dtype={dtype!r}"
        )
    return dtype


# The largest number of each type, and the smallest that is not 0.
_RANGES = {
    "float64": (1.8e308, 5e-324),
    "float32": (3.4028235e38, 1.4e-45),
    "bfloat16": (3.3895314e38, 9.2e-41),
    "float16": (65504.0, 6e-8),
    "float8_e5m2": (57344.0, 1.6e-5),
    "float8_e4m3fn": (448.0, 2e-3),
}


def check_fits(values: Any, dtype: str, source: str, may_be_zero: bool = False) -> None:
    """Raises unless a dtype can hold computed values.

    Args:
        values: Array or number.
        dtype: Name of the dtype of the weight.
        source: What they come from, arguments and values, for the error.
        may_be_zero: Whether values that are all zero are meant.

    Raises:
        ValueError: for values of which one is too large or NaN, or that all become zero.
    """
    values = np.asarray(values)
    if not values.size:
        return
    # Not of absolute values, which would be an array more.
    largest = max(float(values.max()), -float(values.min()))
    limit, smallest = _RANGES.get(dtype, _RANGES["float32"])
    if not largest <= limit:
        what = f"the largest is {largest:.3g}" if largest == largest else "some are no numbers"
        raise ValueError(
            f"A weight of dtype {dtype} can't hold the values that these arguments give: {what}, "
            f"where {limit:.3g} is allowed. Received: {source}"
        )
    if not may_be_zero and largest < smallest / 2:
        raise ValueError(
            f"A weight of dtype {dtype} can't hold the values that these arguments give: all "
            f"become 0, where {smallest:.1g} is the smallest other. Received: {source}"
        )


def described(**arguments: Any) -> str:
    """Arguments and their values, as errors show them."""
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def as_tensor(
    values: np.ndarray, dtype: str, arguments: dict[str, Any], may_be_zero: bool = False
) -> Any:
    """Fresh float32 values, whose memory the tensor may keep, rounded to `dtype` last.

    `arguments` are what gave the values, for the error where the dtype can't hold them.
    """
    check_fits(values, dtype, described(**arguments), may_be_zero)
    tensor: Any = values
    if keras.backend.backend() == "torch":
        import torch

        # Keras would copy them: a second array as large as the weight.
        tensor = torch.from_numpy(values)
    return keras.ops.cast(keras.ops.convert_to_tensor(tensor, dtype="float32"), dtype)
