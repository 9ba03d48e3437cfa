"""A model as one flat graph of layer calls and operations.

Functional, sequential, subclassed and nested models all become the same thing:
the calls of plain layers and of `keras.ops`, in order, and what flows between
them. A functional model's own graph is read as it is; a subclassed layer's `call`
is run once on symbolic tensors, which computes nothing.
"""

import dataclasses
from typing import Any

import keras

from keras_mimetic.layers.mimetic_state_space import MimeticStateSpace
from keras_mimetic.sites.arguments import arguments_of
from keras_mimetic.sites.untouched import sublayers, untouched


@dataclasses.dataclass(eq=False)
class Value:
    """What flows along an edge: a tensor's shape and dtype, and the call that makes it."""

    shape: tuple[int | None, ...]
    dtype: str
    producer: "Call | None" = None


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer or operation.

    `args` and `kwargs` are those of the call with a `Value` for each tensor;
    `inputs` are these values in order.
    """

    operation: Any
    args: Any
    kwargs: Any
    inputs: list[Value]
    outputs: list[Value]


@dataclasses.dataclass
class Graph:
    """All calls, each after those that it depends on.

    `outputs` is what the model gives; `opaque` tells the layers that could not be
    looked into, and why.
    """

    calls: list[Call] = dataclasses.field(default_factory=list)
    outputs: list[Value] = dataclasses.field(default_factory=list)
    opaque: list[tuple[Any, str]] = dataclasses.field(default_factory=list)


def trace(model: Any, inputs: Any = None) -> Graph:
    """The flat graph of a built model (or layer); it is left as it was.

    Args:
        model: A built Keras model or layer.
        inputs: What it is called with, if that is not known from how it was
            built (see `keras_mimetic.initialize`).
    """
    graph = Graph()
    if not _is_composite(model):
        return graph
    with untouched(model):
        if _is_functional(model):
            known = {id(tensor): _value(tensor) for tensor in model.inputs}
            _follow(graph, model.outputs, known)
            graph.outputs = [known[id(tensor)] for tensor in model.outputs]
            return graph
        reason = ""
        for make_inputs in arguments_of(model, inputs):
            try:
                args, kwargs = keras.tree.map_structure(_value_of_spec, make_inputs())
            except ValueError as error:
                reason = reason or str(error)
                continue
            outputs = _look_inside(graph, model, args, kwargs)
            if outputs is not None:
                graph.outputs = outputs
                return graph
            # The first attempt's reason is about the likelier dtype.
            reason = reason or graph.opaque[-1][1]
            graph.opaque.clear()
        graph.opaque.append((model, reason))
    return graph


def _follow(graph: Graph, outputs: Any, known: dict[int, Value]) -> None:
    """Adds the calls between the tensors in `known` and `outputs`; fills `known`."""
    for node in _nodes_in_order(outputs, known):
        args, kwargs = keras.tree.map_structure(
            lambda x: _known(x, known), (node.arguments.args, node.arguments.kwargs)
        )
        operation = node.operation
        values = _look_inside(graph, operation, args, kwargs)
        if values is not None and len(values) > len(node.outputs):
            values = [value for value in values if value.dtype]
        if values is None or len(values) != len(node.outputs):
            values = [_value(tensor) for tensor in node.outputs]
            inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, Value)]
            call = Call(operation, args, kwargs, inputs, values)
            graph.calls.append(call)
            _report_wrapper(graph, operation)
            for value in values:
                value.producer = call
        known.update((id(t), value) for t, value in zip(node.outputs, values, strict=True))


def _report_wrapper(graph: Graph, operation: Any) -> None:
    """A layer of Keras's around others, such as `TimeDistributed`, is not looked into."""
    if isinstance(operation, keras.layers.Layer) and not isinstance(operation, _PLAIN):
        is_known = any(operation is layer for layer, _ in graph.opaque)
        if len(sublayers(operation)) > 1 and not is_known:
            graph.opaque.append(
                (operation, f"{type(operation).__name__} hides what stands around its layers")
            )


def _known(x: Any, known: dict[int, Value]) -> Any:
    if not isinstance(x, keras.KerasTensor):
        return x
    # A tensor that no call made is an input of its own.
    return known.setdefault(id(x), _value(x))


def _nodes_in_order(outputs: Any, known: dict[int, Value]) -> list[Any]:
    """Keras's records of the calls that lead to `outputs`, depth first, inputs first."""
    order: list[Any] = []
    seen: set[int] = set()
    stack = [(tensor, False) for tensor in reversed(_tensors(outputs))]
    while stack:
        tensor, is_ready = stack.pop()
        history = getattr(tensor, "_keras_history", None)
        if id(tensor) in known or history is None or history.operation is None:
            continue
        node = history.operation._inbound_nodes[history.node_index]
        if node.is_input or id(node) in seen:
            continue
        if is_ready:
            seen.add(id(node))
            order.append(node)
        else:
            stack.append((tensor, True))
            stack.extend((t, False) for t in reversed(node.input_tensors))
    return order


def _look_inside(graph: Graph, layer: Any, args: Any, kwargs: Any) -> list[Value] | None:
    """Adds the calls inside a composite layer; its outputs, or `None` for a plain one."""
    if not _is_composite(layer):
        return None
    reason = ""
    # Some code needs the size of the batch or of every axis, some needs it unknown.
    for sizes in ((None, None), (2, None), (2, 16)):
        mark = len(graph.calls), len(graph.opaque)
        try:
            if _is_functional(layer):
                outputs = list(layer.outputs)
                known = _inputs_by_tensor(layer, args[0] if args else kwargs["inputs"])
            else:
                symbols = _Symbols(*sizes)
                symbolic = keras.tree.map_structure(symbols.of, (args, kwargs))
                outputs = _outputs(layer.call(*symbolic[0], **symbolic[1]))
                known = symbols.known
            _follow(graph, outputs, known)
            # What is no symbolic tensor comes from nowhere.
            return [Value((), "") if x is None else known[id(x)] for x in outputs]
        except Exception as error:
            del graph.calls[mark[0] :], graph.opaque[mark[1] :]
            reason = reason or _reason(error)
    graph.opaque.append((layer, reason))
    return None


def _inputs_by_tensor(model: Any, given: Any) -> dict[int, Value]:
    """What a functional model is called with, by the `id` of its own input tensors."""
    names = [tensor.name for tensor in model.inputs]
    if isinstance(given, dict) and set(names) <= set(given):
        given = [given[name] for name in names]
    values = [x for x in keras.tree.flatten(given) if isinstance(x, Value)]
    return dict(zip((id(tensor) for tensor in model.inputs), values, strict=True))


# What is understood as a whole, also where a subclass of it is used.
_PLAIN = (
    keras.layers.MultiHeadAttention,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Embedding,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.LayerNormalization,
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.Dropout,
    keras.layers.InputLayer,
    MimeticStateSpace,
)


def in_call_order(layers: list[Any], graph: Graph) -> list[Any]:
    """`layers` in the order of their first calls; those without a call last."""
    order: dict[int, int] = {}
    for number, call in enumerate(graph.calls):
        order.setdefault(id(call.operation), number)
    return sorted(layers, key=lambda layer: order.get(id(layer), len(graph.calls)))


def _is_composite(operation: Any) -> bool:
    """Whether a layer is written in terms of others, or by the user."""
    if not isinstance(operation, keras.layers.Layer) or isinstance(operation, _PLAIN):
        return False
    if isinstance(operation, (keras.Model, keras.layers.Lambda)):
        return True
    return not type(operation).__module__.startswith("keras.src.layers.")


def _is_functional(layer: Any) -> bool:
    """Whether it has a graph of its own that its calls follow."""
    if not isinstance(layer, keras.Model):
        return False
    outputs = getattr(layer, "outputs", None) or []
    follows = type(layer).call.__module__.startswith("keras.")
    return follows and bool(outputs) and all(isinstance(t, keras.KerasTensor) for t in outputs)


def _outputs(structure: Any) -> list[Any]:
    """What a call gave, with `None` for all but symbolic tensors."""
    outputs = keras.tree.flatten(structure)
    if not _tensors(outputs):
        raise ValueError("it gives no tensors")
    return [x if isinstance(x, keras.KerasTensor) else None for x in outputs]


class _Symbols:
    """Fresh symbolic tensors for values, one each: what is one tensor stays one."""

    def __init__(self, batch: int | None, other: int | None) -> None:
        self._batch, self._other = batch, other
        self._tensors: dict[int, Any] = {}
        self.known: dict[int, Value] = {}

    def of(self, x: Any) -> Any:
        if not isinstance(x, Value):
            return x
        if id(x) not in self._tensors:
            sizes = (self._batch, *[self._other] * len(x.shape))
            # Where the shape is known it stays.
            shape = tuple(a or b for a, b in zip(x.shape, sizes, strict=False))
            tensor = keras.KerasTensor(shape, x.dtype)
            self._tensors[id(x)] = tensor
            self.known[id(tensor)] = x
        return self._tensors[id(x)]


def _value_of_spec(x: Any) -> Any:
    return _value(x) if isinstance(x, keras.KerasTensor) else x


def _value(tensor: Any) -> Value:
    return Value(tuple(tensor.shape), str(tensor.dtype))


def _tensors(structure: Any) -> list[Any]:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
