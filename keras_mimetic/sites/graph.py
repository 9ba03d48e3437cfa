"""A model as one flat graph of layer calls and operations.

Functional, sequential, subclassed and nested models all become the same thing:
the calls of plain layers and of `keras.ops`, in order, and what flows between
them. A functional model's own graph is read as it is; a subclassed layer's `call`
is run once on symbolic tensors, which computes nothing.

This is the one file that reaches into Keras's records of symbolic calls.
"""

import contextlib
import dataclasses
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
    with _records_restored(model), keras.StatelessScope():
        outputs = getattr(model, "outputs", None)
        if _is_functional(model):
            _follow(graph, outputs, {id(t): _value(t) for t in model.inputs})
            return graph
        reason = ""
        for dtype in (model.compute_dtype, "int32"):
            try:
                args, kwargs = _symbolic_inputs(model, dtype)
                outputs = model.call(*args, **kwargs)
            except Exception as error:
                # The first attempt's error is about the likelier dtype.
                reason = reason or f"{type(error).__name__}: {_first_line(error)}"
                continue
            tensors = _tensors((args, kwargs))
            _follow(graph, _tensors(outputs), {id(t): _value(t) for t in tensors})
            return graph
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
    mark = len(graph.calls), len(graph.opaque)
    try:
        if _is_functional(layer):
            inputs, outputs = list(layer.inputs), list(layer.outputs)
            values = [x for x in keras.tree.flatten(args[0]) if isinstance(x, Value)]
            known = dict(zip((id(t) for t in inputs), values, strict=True))
        else:
            symbols = _Symbols()
            args, kwargs = keras.tree.map_structure(symbols.of, (args, kwargs))
            outputs = _tensors(layer.call(*args, **kwargs))
            known = symbols.known
        _follow(graph, outputs, known)
        return [known[id(tensor)] for tensor in outputs]
    except Exception as error:
        _drop(graph, *mark)
        graph.opaque.append((layer, f"{type(error).__name__}: {_first_line(error)}"))
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
    outputs = getattr(layer, "outputs", None)
    follows = type(layer).call.__module__.startswith("keras.")
    return follows and bool(outputs) and all(isinstance(t, keras.KerasTensor) for t in outputs)


def _symbolic_inputs(model: Any, dtype: str) -> tuple[list[Any], dict[str, Any]]:
    """Symbolic tensors of the shapes that the model was built for."""

    def symbols(shapes: Any) -> Any:
        if isinstance(shapes, dict):
            return {key: symbols(shape) for key, shape in shapes.items()}
        shapes = tuple(shapes)
        if all(size is None or isinstance(size, int) for size in shapes):
            return keras.KerasTensor((None, *shapes[1:]), dtype)
        return [symbols(shape) for shape in shapes]

    config = model.get_build_config() or {}
    if "shapes_dict" in config:
        shapes = config["shapes_dict"]
        return [], {key.removesuffix("_shape"): symbols(shapes[key]) for key in shapes}
    if config.get("input_shape") is None:
        raise ValueError("its input shape is not known")
    return [symbols(config["input_shape"])], {}


@contextlib.contextmanager
def _records_restored(model: Any) -> Iterator[None]:
    """Forgets the symbolic calls made meanwhile, of which each layer keeps a list.

    A layer with more than one of them has no `output` any more, for instance.
    """
    records = [
        (record, len(record))
        for layer in sublayers(model)
        for record in (layer._inbound_nodes, layer._outbound_nodes)
    ]
    try:
        yield
    finally:
        for record, length in records:
            del record[length:]


class _Symbols:
    """Fresh symbolic tensors for values, one each: what is one tensor stays one."""

    def __init__(self) -> None:
        self._tensors: dict[int, Any] = {}
        self.known: dict[int, Value] = {}

    def of(self, x: Any) -> Any:
        if not isinstance(x, Value):
            return x
        if id(x) not in self._tensors:
            tensor = keras.KerasTensor(x.shape, x.dtype)
            self._tensors[id(x)] = tensor
            self.known[id(tensor)] = x
        return self._tensors[id(x)]


def _value(tensor: Any) -> Value:
    return Value(tuple(tensor.shape), str(tensor.dtype))


def _tensors(structure: Any) -> list[Any]:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""
