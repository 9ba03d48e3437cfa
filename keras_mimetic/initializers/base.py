"""The base class of initializers that sample with NumPy."""

import abc
from typing import Any

import keras
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
        dtype = _check_float_dtype(dtype)
        values = self.sample(check_shape(shape), read_seed(self.seed))
        return keras.ops.cast(keras.ops.convert_to_tensor(values), dtype)

    @abc.abstractmethod
    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """Sample float32 values of a shape, as a function of the seed."""

    def serialized_seed(self) -> Any:
        """Return the seed as passed by the user, for the config."""
        return keras.saving.serialize_keras_object(self._init_seed)


def _check_float_dtype(dtype: Any) -> str:
    """Return the name of a floating dtype (`None` is `keras.config.floatx()`), or raise."""
    dtype = keras.backend.standardize_dtype(dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            "Argument `dtype` must be a floating type, such as 'float32' or 'bfloat16'. "
            f"Received: dtype={dtype!r}"
        )
    return dtype
