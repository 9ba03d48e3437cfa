"""The base class of initializers that sample with NumPy."""

import abc
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_mimetic._checks import check_shape
from keras_mimetic.initializers.seeds import read_seed, resolve_seed


class NumPyInitializer(keras.initializers.Initializer, abc.ABC):
    """Initializer whose values are float32 NumPy arrays, equal on every backend.

    A subclass implements `sample` and `get_config`. Seeds are those of Keras's own initializers.
    """

    def __init__(self, seed: int | keras.random.SeedGenerator | None) -> None:
        self.seed = resolve_seed(seed)
        # The seed as passed: a clone of an initializer without a seed takes a new one.
        self._init_seed = None if seed is None else self.seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        dtype = check_float_dtype(dtype)
        values = self.sample(check_shape(shape), read_seed(self.seed))
        config = self.get_config().items()
        arguments = ", ".join(f"{name}={value!r}" for name, value in config if name != "seed")
        check_fits(values, dtype, f"{type(self).__name__}({arguments})")
        tensor = keras.ops.convert_to_tensor(_without_copy(values), dtype="float32")
        return keras.ops.cast(tensor, dtype)

    @abc.abstractmethod
    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """Sample float32 values of a shape, as a function of the seed."""

    def serialized_seed(self) -> Any:
        """Return the seed as passed by the user, for the config."""
        return keras.saving.serialize_keras_object(self._init_seed)


def check_float_dtype(dtype: Any) -> str:
    """Return the name of a floating dtype (`None` is `keras.config.floatx()`), or raise."""
    dtype = keras.backend.standardize_dtype(dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            "Argument `dtype` must be a floating type, such as 'float32' or 'bfloat16'. "
            f"Received: dtype={dtype!r}"
        )
    return dtype


def check_fits(values: np.ndarray | float, dtype: str, source: str) -> None:
    """Raise a `ValueError` unless values are finite in a dtype; the error shows their source."""
    values = np.asarray(values)
    # Without `abs` or a cast, which would take another array.
    largest = float(max(values.max(initial=0), -values.min(initial=0)))
    limit = float(ml_dtypes.finfo(dtype).max)
    if not largest <= limit:
        raise ValueError(
            f"Values of a weight of dtype {dtype} must not exceed {limit:.3g} in absolute value. "
            f"The largest would be {largest:.3g}. Received: {source}"
        )


def _without_copy(values: np.ndarray) -> Any:
    """Wrap an array so that Keras does not copy it, which would double the memory."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.from_numpy(values)
    if backend == "tensorflow":
        import tensorflow as tf

        # TensorFlow needs C order and alignment to 64 bytes, and has no values in graphs.
        suits = values.flags.c_contiguous and values.ctypes.data % 64 == 0 and values.size
        if suits and tf.executing_eagerly():
            return tf.experimental.dlpack.from_dlpack(values.__dlpack__())
    # JAX does not copy memory that is aligned to 64 bytes.
    return values
