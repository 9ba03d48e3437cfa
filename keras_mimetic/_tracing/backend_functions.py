"""Functions of the backends that rearrange or multiply, as calls of `keras.ops`.

The patterns read the arguments of these operations, such as the axes of a transpose.
"""

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def function_name(function: Any) -> str:
    """Return the name of a backend function, without affixes such as those of TensorFlow."""
    name = getattr(function, "__name__", type(function).__name__).strip("_")
    return re.sub("_(v2|dispatch)$|^reduce_", "", name)


def as_keras_operation(function: Any, args: Any, kwargs: Any) -> Any:
    """Call the equivalent in `keras.ops` of a backend function; `NotImplemented` if unknown."""
    table = {"torch": _TORCH, "tensorflow": _TENSORFLOW}.get(keras.backend.backend(), {})
    equivalent = table.get(function_name(function))
    kwargs = {key: x for key, x in kwargs.items() if key != "name"}
    try:
        return NotImplemented if equivalent is None else equivalent(*args, **kwargs)
    except TypeError:  # other arguments
        return NotImplemented


def _sizes(shape: Any) -> list[int]:
    return [int(size) for size in shape]


def _torch_split(x: Any, size: Any, dim: int = 0) -> Any:
    if isinstance(size, int):
        return ops.split(x, list(range(size, x.shape[dim], size)), dim)
    return ops.split(x, np.cumsum(size)[:-1].tolist(), dim)


def _torch_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    query, key, value = (ops.swapaxes(x, 1, 2) for x in (query, key, value))
    y = ops.dot_product_attention(
        query, key, value, mask=attn_mask, is_causal=is_causal, scale=scale
    )
    return ops.swapaxes(y, 1, 2)


def _torch_softmax(x: Any, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Any:
    return ops.softmax(x, dim)


def _tf_split(value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    if isinstance(num_or_size_splits, int):
        return ops.split(value, num_or_size_splits, axis)
    return ops.split(value, np.cumsum(num_or_size_splits)[:-1].tolist(), axis)


def _tf_matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _tf_shape(input: Any, name: Any = None, out_type: Any = None) -> Any:
    return NotImplemented if None in input.shape else np.asarray(input.shape)


_SWAP: Callable[..., Any] = lambda input, dim0, dim1: ops.swapaxes(input, dim0, dim1)  # noqa: E731
_JOIN: Callable[..., Any] = lambda tensors, dim=0: ops.concatenate(tensors, dim)  # noqa: E731
_TORCH: dict[str, Callable[..., Any]] = {
    "permute": lambda input, dims: ops.transpose(input, dims),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _SWAP),
    "reshape": lambda input, shape: ops.reshape(input, _sizes(shape)),
    "unsqueeze": lambda input, dim: ops.expand_dims(input, dim),
    "squeeze": lambda input, dim=None: ops.squeeze(input, dim),
    **dict.fromkeys(("cat", "concat", "concatenate"), _JOIN),
    "stack": lambda tensors, dim=0: ops.stack(tensors, dim),
    "chunk": lambda input, chunks, dim=0: ops.split(input, chunks, dim),
    "split": _torch_split,
    "unbind": lambda input, dim=0: ops.unstack(input, axis=dim),
    "einsum": lambda equation, *operands: ops.einsum(equation, *operands),
    **dict.fromkeys(("matmul", "bmm", "mm"), lambda a, b: ops.matmul(a, b)),
    "softmax": _torch_softmax,
    "scaled_dot_product_attention": _torch_attention,
    "tril": lambda input, diagonal=0: ops.tril(input, diagonal),
    "triu": lambda input, diagonal=0: ops.triu(input, diagonal),
    "masked_fill": lambda input, mask, value: ops.where(mask, value, input),
}
_TENSORFLOW: dict[str, Callable[..., Any]] = {
    "shape": _tf_shape,
    "transpose": lambda a, perm=None, conjugate=False: ops.transpose(a, perm),
    "reshape": lambda tensor, shape: ops.reshape(tensor, _sizes(shape)),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "squeeze": lambda input, axis=None, name=None: ops.squeeze(input, axis),
    "concat": lambda values, axis: ops.concatenate(values, axis),
    "stack": lambda values, axis=0: ops.stack(values, axis),
    "split": _tf_split,
    "unstack": lambda value, num=None, axis=0: ops.unstack(value, num, axis),
    "einsum": lambda equation, *inputs: ops.einsum(equation, *inputs),
    "matmul": _tf_matmul,
    "softmax": lambda logits, axis=-1: ops.softmax(logits, axis),
}
