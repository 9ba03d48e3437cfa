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
    """Fresh float32 values, whose memory the tensor may keep, rounded to `dtype` last."""
    tensor: Any = values
    if keras.backend.backend() == "torch":
        import torch

        # Keras would copy them: a second array as large as the weight.
        tensor = torch.from_numpy(values)
    return keras.ops.cast(keras.ops.convert_to_tensor(tensor, dtype="float32"), dtype)
