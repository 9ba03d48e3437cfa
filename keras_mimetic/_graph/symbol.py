"""The symbolic tensors that flow through a model while it is traced."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

# Tensors in nested tuples, lists and dicts, or anything else that `call` takes or returns.
Nested = Any
Args = tuple[Nested, ...]
Kwargs = dict[str, Nested]
Function = Callable[..., Nested]
Shape = tuple[int | None, ...]


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        shape: Its shape; `None` for unknown sizes.
        dtype: Name of its dtype.
        producer: The call that returns it, or `None` for inputs and constants.
        constant: The tensor, if its values are known.
    """

    shape: Shape
    dtype: str
    producer: Any = None
    constant: Any = None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape, or `None` if a size is unknown."""
        sizes = tuple(size for size in self.shape if size is not None)
        return sizes if len(sizes) == len(self.shape) else None


class Foreign:
    """A backend function that a model calls, named like its equivalent in `keras.ops`."""

    def __init__(self, name: str) -> None:
        self.name = name


# A layer, an operation of `keras.ops`, or the equivalent of one of them.
Operation = keras.Operation | Foreign


class _Listening(threading.local):
    """State of the thread that is tracing, which may pause its recorder."""

    recorder: Any = None
    is_tracing = False


listening = _Listening()


class Symbol(keras.KerasTensor):
    """A `KerasTensor` with a `Value`.

    It handles operators whose left operand is an array, a variable or a NumPy scalar.
    Functions of torch are recorded, too. Nothing is computed.
    """

    # NumPy and JAX then defer to the right operand.
    __array_ufunc__ = None

    def __init__(self, value: Value, shape: Shape | None = None) -> None:
        # Automatic names would advance Keras's counters.
        super().__init__(value.shape if shape is None else shape, value.dtype, name="tensor")
        self.value = value

    @property
    def __jax_array__(self) -> Any:
        raise AttributeError("a symbolic tensor cannot be converted to a JAX array")

    def __getitem__(self, key: Nested) -> Nested:
        # Keras takes integers, tuples and lists alone, and lists are what is saved of tuples.
        keys = tuple(key) if isinstance(key, (tuple, list)) else (key,)
        return super().__getitem__(tuple(int(x) if isinstance(x, np.integer) else x for x in keys))

    def __len__(self) -> int:
        if not self.shape or self.shape[0] is None:
            raise TypeError("a tensor whose first axis has an unknown size has no length")
        return self.shape[0]

    def __iter__(self) -> Any:
        return iter([self[number] for number in range(len(self))])

    @classmethod
    def __torch_function__(
        cls,
        function: Function,
        types: tuple[type, ...],
        args: Args = (),
        kwargs: Kwargs | None = None,
    ) -> Nested:
        if listening.recorder is None:
            return NotImplemented
        return listening.recorder.foreign(function, args, kwargs or {})


def any_symbol(structure: Nested) -> bool:
    """Return whether a symbol is among the leaves of a structure."""
    return any(isinstance(x, Symbol) for x in keras.tree.flatten(structure))
