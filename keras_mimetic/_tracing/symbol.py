"""The symbolic tensor of a trace: what flows through a model while it is followed."""

import dataclasses
import threading
from typing import Any

import keras


@dataclasses.dataclass(eq=False)
class Value:
    """What flows along an edge: a tensor's shape and dtype, and the call that makes it.

    `constant` is the tensor itself where it is known; `after` are values that a
    tensor without a known producer comes later than.
    """

    shape: tuple[int | None, ...]
    dtype: str
    producer: Any = None
    constant: Any = None
    after: tuple["Value", ...] = ()


class Foreign:
    """A function of the backend's own that a model calls, named like one of `keras.ops`."""

    def __init__(self, name: str) -> None:
        self.name = name


# The recorder of the thread that is tracing, as its attribute `recorder`.
listening = threading.local()


def recorder() -> Any:
    """The recorder of this thread, or `None`."""
    return getattr(listening, "recorder", None)


def is_tracing() -> bool:
    """Whether this thread traces, also while its recorder is paused."""
    return getattr(listening, "is_tracing", False)


class Symbol(keras.KerasTensor):
    """A `KerasTensor` that knows its `Value`, and wins over whatever stands left of it.

    An array, a variable or a NumPy scalar on the left of an operator gives way
    to it. Torch's own functions are recorded, too; nothing is computed.
    """

    # NumPy and JAX leave the operator to the right operand.
    __array_ufunc__ = None

    def __init__(self, value: Value, shape: Any = None) -> None:
        # A name of its own would count up.
        super().__init__(value.shape if shape is None else shape, value.dtype, name="tensor")
        self.value = value

    @property
    def __jax_array__(self) -> Any:
        raise AttributeError("a symbolic tensor is no JAX array")

    def __len__(self) -> int:
        if not self.shape or self.shape[0] is None:
            raise TypeError("a tensor without a known first axis has no length")
        return self.shape[0]

    def __iter__(self) -> Any:
        return iter([self[number] for number in range(len(self))])

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if recorder() is None:
            return NotImplemented
        return recorder().foreign(function, args, kwargs or {})
