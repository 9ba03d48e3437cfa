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


def as_tensor(values: np.ndarray, dtype: str) -> Any:
    """float32 values as a tensor, rounded to `dtype` last."""
    return keras.ops.cast(keras.ops.convert_to_tensor(values, dtype="float32"), dtype)
