"""From drawn NumPy values to a backend's tensor."""

from typing import Any

import keras
import numpy as np


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
