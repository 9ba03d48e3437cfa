"""A model as one flat graph of layer calls and operations.

Functional, sequential, subclassed and nested models all become the same thing:
the calls of plain layers and of `keras.ops`, in order, and what flows between
them. The model is called once, as Keras calls it, on symbolic tensors that
compute nothing (see `keras_mimetic._tracing.recorder`).
"""

import dataclasses
from typing import Any

from keras_mimetic._tracing.symbol import Value


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer or operation.

    `args` and `kwargs` are those of the call with a `Value` for each tensor;
    `inputs` are these values in order. Of a layer that could only be placed, and
    not followed, no call is `seen`.
    """

    operation: Any
    args: Any
    kwargs: Any
    inputs: list[Value]
    outputs: list[Value]
    seen: bool = True


@dataclasses.dataclass
class Graph:
    """All calls, each after those that it depends on.

    `outputs` is what the model gives; `opaque` tells the layers that could not be
    looked into, and why; `assumed` says what was taken for granted.
    """

    calls: list[Call] = dataclasses.field(default_factory=list)
    outputs: list[Value] = dataclasses.field(default_factory=list)
    opaque: list[tuple[Any, str]] = dataclasses.field(default_factory=list)
    assumed: list[tuple[Any, str]] = dataclasses.field(default_factory=list)


def in_call_order(layers: list[Any], graph: Graph) -> list[Any]:
    """`layers` in the order of their first calls; those without a call last."""
    order: dict[Any, int] = {}
    for number, call in enumerate(graph.calls):
        order.setdefault(call.operation, number)
    return sorted(layers, key=lambda layer: order.get(layer, len(graph.calls)))
