"""Replacements for operations of Keras on torch that ONNX cannot export."""

from typing import Any

import keras


def layer_normalization(norm: Any, x: Any) -> Any:
    """Call a LayerNormalization, by operations that ONNX supports during an export."""
    if not _is_exported():
        return norm(x)
    dtype = x.dtype
    x = keras.ops.cast(x, keras.backend.result_type(dtype, "float32"))
    x = x - keras.ops.mean(x, axis=-1, keepdims=True)
    square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
    gamma, beta = (keras.ops.cast(w, x.dtype) for w in (norm.gamma, norm.beta))
    x = x * keras.ops.rsqrt(square + norm.epsilon) * gamma + beta
    return keras.ops.cast(x, dtype)


def _is_exported() -> bool:
    """Return whether PyTorch is exporting to ONNX."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.onnx.is_in_onnx_export()
