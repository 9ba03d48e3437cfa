"""A model as one flat graph of layer calls and operations.

Functional, sequential, subclassed and nested models all have the same form: the calls
of plain layers and of `keras.ops`, in order, and the tensors between them. The model
is called once, on symbolic tensors without values (see
`keras_mimetic._graph.recorder`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from keras_mimetic._graph.symbol import Args, Kwargs, Value


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer or operation.

    Attributes:
        operation: The layer or operation.
        args: Positional arguments, with a `Value` for each tensor.
        kwargs: Keyword arguments, with a `Value` for each tensor.
        inputs: The values among the arguments, in order.
        outputs: The values that the call returns.
    """

    operation: Any
    args: Args
    kwargs: Kwargs
    inputs: list[Value]
    outputs: list[Value]


@dataclasses.dataclass
class Graph:
    """The calls of a model.

    Attributes:
        calls: All calls, each after the calls that it depends on.
        outputs: The values that the model returns.
        opaque: Layers that could not be traced, with the reason.
        assumed: Layers that were traced under an assumption, with the assumption.
    """

    calls: list[Call] = dataclasses.field(default_factory=list)
    outputs: list[Value] = dataclasses.field(default_factory=list)
    opaque: list[tuple[keras.Layer, str]] = dataclasses.field(default_factory=list)
    assumed: list[tuple[keras.Layer, str]] = dataclasses.field(default_factory=list)


def walk_back(
    value: Value, follow: Callable[[Call], Iterable[Value]], limit: int = 64
) -> Iterator[Value]:
    """Yield a value and those that it is computed from, nearest first, each once.

    `follow` returns the inputs of a call to go on with, up to `limit` values.
    """
    waiting, known = [value], {value}
    while waiting and limit:
        value, limit = waiting.pop(0), limit - 1
        yield value
        new = () if value.producer is None else follow(value.producer)
        waiting += (new := [x for x in dict.fromkeys(new) if x not in known])
        known.update(new)
