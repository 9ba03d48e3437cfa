"""The base class of initializers that sample with NumPy."""

import abc
import math
from typing import Any

import keras
import numpy as np

from keras_mimetic._checks import check_shape
from keras_mimetic.initializers.seeds import read_seed, resolve_seed


class NumPyInitializer(keras.initializers.Initializer, abc.ABC):
    """Initializer whose values are float32 NumPy arrays, equal on every backend.

    A subclass implements `sample`, `get_config`, and `strengths`, which returns the
    arguments that an error shows if the dtype can't hold the values.

    Args:
        seed: An integer >= 0, `None` or a `keras.random.SeedGenerator`, as for Keras's own
            initializers.
    """

    # Whether all values may be zero.
    may_be_zero = False

    def __init__(self, seed: Any) -> None:
        self.seed = resolve_seed(seed)
        # The seed as passed: a clone of an initializer without a seed takes a new one.
        self._init_seed = None if seed is None else self.seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        dtype = check_float_dtype(dtype)
        shape = check_shape(shape)
        values = self.sample(shape, read_seed(self.seed))
        return as_tensor(values, dtype, self.strengths(), self.may_be_zero, self.bound(shape))

    @abc.abstractmethod
    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """Sample float32 values of a shape, as a function of the seed."""

    @abc.abstractmethod
    def strengths(self) -> dict[str, Any]:
        """Return the arguments that determine the size of the values."""

    def bound(self, shape: tuple[int, ...]) -> float:
        """Return an upper bound of the absolute values, or infinity if none is known."""
        return math.inf

    def serialized_seed(self) -> Any:
        """Return the seed as passed by the user, for the config."""
        return keras.saving.serialize_keras_object(self._init_seed)


def check_float_dtype(dtype: Any) -> str:
    """Return the name of a floating dtype; `None` means `keras.config.floatx()`.

    Raises:
        ValueError: for a dtype that is not floating.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            "Argument `dtype` must be a floating type, such as 'float32' or 'bfloat16'. "
            f"Received: dtype={dtype!r}"
        )
    return dtype


# The largest number of each type, and the smallest number > 0.
_RANGES = {
    "float64": (1.8e308, 5e-324),
    "float32": (3.4028235e38, 1.4e-45),
    "bfloat16": (3.3895314e38, 9.2e-41),
    "float16": (65504.0, 6e-8),
    "float8_e5m2": (57344.0, 1.6e-5),
    "float8_e4m3fn": (448.0, 2e-3),
}


def check_fits(
    values: Any,
    dtype: str,
    source: str,
    may_be_zero: bool = False,
    bound: float = math.inf,
) -> None:
    """Raise unless a dtype can hold computed values.

    Args:
        values: Array or number.
        dtype: Name of the dtype of the weight.
        source: The arguments that determine the values, for the error.
        may_be_zero: Whether all values may be zero.
        bound: Upper bound of the absolute values. If it is finite, most checks need not
            read the values.

    Raises:
        ValueError: if a value is too large or NaN, or if all values become zero.
    """
    values = np.asarray(values)
    if not values.size:
        return
    limit, smallest = _RANGES.get(dtype, _RANGES["float32"])
    # Allow for the rounding of the float32 values.
    if 1.001 * bound <= min(limit, _RANGES["float32"][0]) and (
        may_be_zero or abs(float(values.flat[0])) >= smallest
    ):
        return
    # The absolute values would take another array.
    largest = max(float(values.max()), -float(values.min()))
    if not largest <= limit:
        what = f"the largest is {largest:.3g}" if largest == largest else "some are NaN"
        raise ValueError(
            f"A weight of dtype {dtype} can't hold the values that these arguments give: {what}, "
            f"and the maximum is {limit:.3g}. Received: {source}"
        )
    if not may_be_zero and largest < smallest / 2:
        raise ValueError(
            f"A weight of dtype {dtype} can't hold the values that these arguments give: all "
            f"become 0, and the smallest number > 0 is {smallest:.1g}. Received: {source}"
        )


def described(**arguments: Any) -> str:
    """Format arguments and their values for errors."""
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def as_tensor(
    values: np.ndarray,
    dtype: str,
    arguments: dict[str, Any],
    may_be_zero: bool = False,
    bound: float = math.inf,
) -> Any:
    """Return float32 values as a tensor of another dtype.

    Args:
        values: float32 array, whose memory the tensor may share.
        dtype: Name of the dtype, to which the values are rounded at the end.
        arguments: Arguments that determine the values, for the error.
        may_be_zero: Whether all values may be zero.
        bound: Upper bound of the absolute values.

    Raises:
        ValueError: if the dtype can't hold the values.
    """
    check_fits(values, dtype, described(**arguments), may_be_zero, bound)
    tensor = keras.ops.convert_to_tensor(_without_copy(values), dtype="float32")
    return keras.ops.cast(tensor, dtype)


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
