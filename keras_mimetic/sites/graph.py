"""A model as one flat graph of layer calls and operations.

Functional, sequential, subclassed and nested models all become the same thing:
the calls of plain layers and of `keras.ops`, in order, and what flows between
them. A functional model's own graph is read as it is; a subclassed layer's `call`
is run once on symbolic tensors, which computes nothing.

This is the one file that reaches into Keras's records of symbolic calls.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras


@dataclasses.dataclass(eq=False)
class Value:
    """What flows along an edge: a tensor's shape and dtype, and who makes and takes it."""

    shape: tuple[int | None, ...]
    dtype: str
    producer: "Call | None" = None
    consumers: list["Call"] = dataclasses.field(default_factory=list)


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

    `opaque` tells the layers that could not be looked into, and why.
    """

    calls: list[Call] = dataclasses.field(default_factory=list)
    opaque: list[tuple[Any, str]] = dataclasses.field(default_factory=list)


def trace(model: Any) -> Graph:
    """The flat graph of a built model (or layer); it is left as it was."""
    graph = Graph()
    # Whatever `call` assigns to variables is dropped with the scope.
    with _records_restored(model), _shapes_inferred(model), keras.StatelessScope():
        if _is_functional(model):
            _follow(graph, model.outputs, {id(t): _value(t) for t in model.inputs})
            return graph
        reason = ""
        # What the model was built for tells shapes alone.
        for dtype in (model.compute_dtype, "int32"):
            try:
                args, kwargs = _inputs(model, dtype)
            except Exception as error:
                reason = _reason(error)
                break
            if _look_inside(graph, model, args, kwargs) is not None:
                return graph
            # The first attempt's reason is about the likelier dtype.
            reason = reason or graph.opaque[-1][1]
            graph.opaque.clear()
        graph.opaque.append((model, reason))
    return graph


def sublayers(layer: Any) -> list[Any]:
    """`layer` and all layers within, each once."""
    return list(layer._flatten_layers())


def _follow(graph: Graph, outputs: Any, known: dict[int, Value]) -> None:
    """Adds the calls between the tensors in `known` and `outputs`; fills `known`."""
    for node in _nodes_in_order(outputs, known):
        args, kwargs = keras.tree.map_structure(
            lambda x: _known(x, known), (node.arguments.args, node.arguments.kwargs)
        )
        operation = node.operation
        values = _look_inside(graph, operation, args, kwargs)
        if values is None or len(values) != len(node.outputs):
            values = [_value(tensor) for tensor in node.outputs]
            inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, Value)]
            call = Call(operation, args, kwargs, inputs, values)
            graph.calls.append(call)
            for value in inputs:
                value.consumers.append(call)
            for value in values:
                value.producer = call
        known.update((id(t), value) for t, value in zip(node.outputs, values, strict=True))


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
                values = [x for x in keras.tree.flatten(args[0]) if isinstance(x, Value)]
                known = dict(zip((id(t) for t in layer.inputs), values, strict=True))
            else:
                symbols = _Symbols(*sizes)
                symbolic = keras.tree.map_structure(symbols.of, (args, kwargs))
                outputs = _tensors(layer.call(*symbolic[0], **symbolic[1]))
                known = symbols.known
            _follow(graph, outputs, known)
            return [known[id(tensor)] for tensor in outputs]
        except Exception as error:
            _drop(graph, *mark)
            reason = reason or _reason(error)
    graph.opaque.append((layer, reason))
    return None


def _drop(graph: Graph, calls: int, opaque: int) -> None:
    for call in graph.calls[calls:]:
        for value in call.inputs:
            value.consumers.remove(call)
    del graph.calls[calls:], graph.opaque[opaque:]


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
)


def in_call_order(layers: list[Any], graph: Graph) -> list[Any]:
    """`layers` in the order of their first calls; as they are if one was not seen."""
    order: dict[int, int] = {}
    for number, call in enumerate(graph.calls):
        order.setdefault(id(call.operation), number)
    if not all(id(layer) in order for layer in layers):
        return layers
    return sorted(layers, key=lambda layer: order[id(layer)])


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


def _inputs(model: Any, dtype: str) -> tuple[list[Any], dict[str, Any]]:
    """Values of the shapes that the model was built for, as arguments of its call."""

    def values(shapes: Any) -> Any:
        if isinstance(shapes, dict):
            return {key: values(shape) for key, shape in shapes.items()}
        shapes = tuple(shapes)
        if all(size is None or isinstance(size, int) for size in shapes):
            return Value((None, *shapes[1:]), dtype)
        return [values(shape) for shape in shapes]

    config = model.get_build_config() or {}
    if "shapes_dict" in config:
        shapes = config["shapes_dict"]
        return [], {key.removesuffix("_shape"): values(shapes[key]) for key in shapes}
    if config.get("input_shape") is None:
        raise ValueError("the shape of its input is not known")
    return [values(config["input_shape"])], {}


@contextlib.contextmanager
def _records_restored(model: Any) -> Iterator[None]:
    """Forgets the symbolic calls made meanwhile, of which each layer keeps a list.

    A layer with more than one of them has no `output` any more, for instance.
    """
    records = [
        (record, list(record))
        for layer in sublayers(model)
        # Losses are those of the last call.
        for record in (layer._inbound_nodes, layer._outbound_nodes, layer._losses)
    ]
    try:
        yield
    finally:
        for record, before in records:
            record[:] = before


@contextlib.contextmanager
def _shapes_inferred(model: Any) -> Iterator[None]:
    """Lets layers derived from Keras's attention be called on symbolic tensors.

    Keras's declares its output's shape for its own arguments. A derived layer with
    others (such as a cache) is asked for its shape by running its `call` instead.
    """
    own = keras.layers.MultiHeadAttention
    derived = [
        layer
        for layer in sublayers(model)
        if isinstance(layer, own)
        and type(layer).call is not own.call
        and type(layer).compute_output_spec is own.compute_output_spec
    ]
    for layer in derived:
        infer = functools.partial(keras.Operation.compute_output_spec, layer)
        # Past the layer's own bookkeeping of attributes.
        vars(layer)["compute_output_spec"] = infer
    try:
        yield
    finally:
        for layer in derived:
            del vars(layer)["compute_output_spec"]


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


def _value(tensor: Any) -> Value:
    return Value(tuple(tensor.shape), str(tensor.dtype))


def _tensors(structure: Any) -> list[Any]:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
