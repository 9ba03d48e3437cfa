"""A recorder of the calls that Keras makes while a model runs on symbolic tensors.

Keras's own `Layer.__call__` runs: it converts inputs, drops a `training` argument that a
layer does not take, and fills in masks. Instead of computing the output spec of a
layer, the recorder runs the `call` of a composite layer, and records the call of a
plain layer or an operation of `keras.ops`.
"""

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_mimetic._tracing.arguments import arguments_of
from keras_mimetic._tracing.graph import Call, Graph
from keras_mimetic._tracing.held_weights import Held, held_projection
from keras_mimetic._tracing.keras_internals import (
    direct_sublayers,
    inherits_output_spec,
    is_keras_class,
    is_tensor,
    output_spec,
    sublayers,
)
from keras_mimetic._tracing.operations import does, name_of
from keras_mimetic._tracing.symbol import Foreign, Symbol, Value, listening
from keras_mimetic.layers.state_space import MimeticStateSpace

# Layers that are recorded as one call, including their subclasses.
PLAIN = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
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

# Size for axes of unknown length if the code of a model needs one.
_SIZE = 16
# Maximum number of calls of one layer with weights.
_MAX_CALLS = 100
# Backend functions whose names differ from those of `keras.ops`.
_ALIASES = {"Mul": "Multiply", "Sub": "Subtract", "Div": "TrueDivide", "Truediv": "TrueDivide"}


def is_composite(operation: Any) -> bool:
    """Return whether a layer consists of other layers or is user-defined."""
    if not isinstance(operation, keras.layers.Layer) or isinstance(operation, PLAIN):
        return False
    if isinstance(operation, (keras.Model, keras.layers.Lambda)):
        return True
    return not is_keras_class(operation)


class LongLoopError(Exception):
    """A loop that is too long to be traced step by step."""


class Recorder:
    """The calls of a model, recorded into a `Graph` while it runs.

    Args:
        graph: The graph to record into.
        owners: The layer that owns each weight, by the `id` of the weight.
    """

    def __init__(self, graph: Graph, owners: Mapping[int, Any]) -> None:
        self.graph, self._owners = graph, owners
        self._calls: Counter[Any] = Counter()
        self._held: Held = {}
        self._constants: dict[int, Symbol] = {}

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        listening.recorder, listening.is_tracing = self, True
        try:
            yield
        finally:
            listening.recorder, listening.is_tracing = None, False

    def model(self, model: Any, inputs: Any = None) -> Any:
        """Call a model on symbolic arguments and return its outputs, or `None` if it fails.

        Of several attempts, the one with the fewest opaque layers is kept.
        """
        best: tuple[tuple[int, int], Any, Any, str] | None = None
        why = NO_CALL
        mark = self._mark()
        for make in () if _has_no_call(model) else arguments_of(model, inputs):
            outputs, assumed = None, ""
            self._calls.clear()
            try:
                args, kwargs, assumed = make()
                args, kwargs = keras.tree.map_structure(self._symbol, (args, kwargs))
                outputs = model(*args, **kwargs)
                rank = len(self.graph.opaque) - mark[1], mark[0] - len(self.graph.calls)
            except Exception as error:
                why = reason(error) if best is None else why
                # Rank a failure after every success.
                rank = len(sublayers(model)), mark[0] - len(self.graph.calls)
            if best is None or rank < best[0]:
                best = rank, self._since(mark), outputs, assumed
            self._reset(mark)
            if rank[0] == 0 or why.startswith("RecursionError"):
                break
        if best is not None:
            self._restore(best[1])
            if best[3]:
                self.graph.assumed.append((model, best[3]))
        outputs = None if best is None else best[2]
        if outputs is None and not self._is_opaque(model):
            self.graph.opaque.append((model, why))
            self._one_by_one(model)
        return outputs

    def _is_opaque(self, layer: Any) -> bool:
        return any(known is layer for known, _ in self.graph.opaque)

    def _one_by_one(self, layer: Any) -> None:
        """Trace the composite layers inside a layer that could not be traced, each by itself."""
        for sub in direct_sublayers(layer):
            called = {call.operation for call in self.graph.calls}
            if self._is_opaque(sub) or not called.isdisjoint(sublayers(sub)):
                continue
            if is_composite(sub) and sub.weights:
                self.model(sub)
            else:
                self._one_by_one(sub)

    # Methods that Keras's patched functions call.

    def call(self, operation: Any, args: Any, kwargs: Any) -> Any:
        """Replace `symbolic_call` of a layer or operation."""
        if is_composite(operation):
            return self._enter(operation, args, kwargs)
        if isinstance(operation, keras.layers.TimeDistributed):
            return self._time_distributed(operation, args, kwargs)
        if name_of(operation) == "Ndim":
            return len(args[0].shape)  # Keras returns a tensor.
        with self.paused():
            spec = _spec(operation, args, kwargs)
        self._enter_wrapped(operation)
        return self._record(operation, args, kwargs, spec)

    def foreign(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Record a call of a backend function."""
        with self.paused():
            spec = output_spec(function, *args, **kwargs)
        return self._record(Foreign(_name_of_function(function)), args, kwargs, spec)

    def known(self, layer: Any, args: Any, kwargs: Any) -> Any:
        """Return the arguments of a plain layer with a symbol for each concrete tensor."""
        if is_composite(layer):
            return args, kwargs
        if not layer.weights and not _values((args, kwargs)):
            return args, kwargs
        return keras.tree.map_structure(self._constant, (args, kwargs))

    def _constant(self, x: Any) -> Any:
        is_variable = isinstance(x, keras.Variable)
        if not is_variable and not is_tensor(x):
            return x
        if id(x) not in self._constants:
            dtype = keras.backend.standardize_dtype(x.dtype)
            self._constants[id(x)] = Symbol(Value(tuple(x.shape), dtype, constant=x))
        return self._constants[id(x)]

    def _enter(self, layer: Any, args: Any, kwargs: Any) -> Any:
        """Run the `call` of a composite layer."""
        best: tuple[int, str, Any] | None = None
        for sized in (False, True):
            given = args, kwargs
            if sized:
                given = keras.tree.map_structure(_with_sizes, given)
                if not any(
                    isinstance(x, Symbol) and None in x.shape
                    for x in keras.tree.flatten((args, kwargs))
                ):
                    break
            mark = self._mark()
            try:
                outputs = layer.call(*given[0], **given[1])
                return keras.tree.map_structure(self._symbol, outputs)
            except (LongLoopError, RecursionError):
                # A second attempt at each level would take exponential time.
                raise
            except Exception as error:
                came = len(self.graph.calls) - mark[0]
                why = NO_CALL if _has_no_call(layer) else reason(error)
                if best is None or came > best[0]:
                    best = came, why, self._since(mark)
                self._reset(mark)
        assert best is not None
        self._restore(best[2])
        self.graph.opaque.append((layer, best[1]))
        ends = _ends(best[2][0])
        self._one_by_one(layer)
        with self.paused():
            spec = layer.compute_output_spec(*args, **kwargs)
        # Assume that its output depends on all values that nothing else has used.
        return self._record(layer, args, kwargs, spec, ends)

    def _time_distributed(self, wrapper: Any, args: Any, kwargs: Any) -> Any:
        """Call the inner layer on inputs whose first two axes are merged."""
        x = next(x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, Symbol))
        first = x.shape[:2]

        def reshape(y: Any, axes: tuple[int | None, ...], merged: int) -> Any:
            if not isinstance(y, Symbol):
                return y
            spec = keras.KerasTensor((*axes, *y.shape[merged:]), y.dtype)
            return self._record(Foreign("Reshape"), (y,), {}, spec)

        both = None if None in first else math.prod(first)
        outputs = wrapper.layer(reshape(x, (both,), 2))
        return keras.tree.map_structure(lambda y: reshape(y, first, 1), outputs)

    def _record(self, operation: Any, args: Any, kwargs: Any, spec: Any, more: Any = ()) -> Any:
        outputs = keras.tree.map_structure(self._symbol, spec)
        values = [x.value for x in keras.tree.flatten(outputs) if isinstance(x, Symbol)]
        args, kwargs = keras.tree.map_structure(self._value, (args, kwargs))
        inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, Value)]
        operation = held_projection(operation, args, self._owners, self._held) or operation
        self._check_repeats(operation)
        call = Call(operation, args, kwargs, [*inputs, *more], values)
        for value in values:
            value.producer = call
        self.graph.calls.append(call)
        return outputs

    def _check_repeats(self, operation: Any) -> None:
        """Raise if one layer is called again and again, as in a loop that samples."""
        if isinstance(operation, keras.layers.Layer) and operation.weights:
            self._calls[operation] += 1
            if self._calls[operation] > _MAX_CALLS:
                raise LongLoopError(f"a loop calls {operation.name!r} more than {_MAX_CALLS} times")

    def _symbol(self, x: Any) -> Any:
        if not isinstance(x, keras.KerasTensor) or isinstance(x, Symbol):
            return x
        return Symbol(Value(tuple(x.shape), x.dtype))

    def _value(self, x: Any) -> Any:
        if isinstance(x, Symbol):
            return x.value
        return self._symbol(x).value if isinstance(x, keras.KerasTensor) else x

    def _enter_wrapped(self, operation: Any) -> None:
        """Trace the layers inside a wrapper of Keras, such as `RNN`."""
        if not isinstance(operation, keras.layers.Layer) or isinstance(operation, PLAIN):
            return
        if len(sublayers(operation)) == 1 or self._is_opaque(operation):
            return
        what = f"{type(operation).__name__} hides the context of its layers"
        self.graph.opaque.append((operation, what))
        self._one_by_one(operation)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        listening.recorder = None
        try:
            yield
        finally:
            listening.recorder = self

    # A failed attempt is undone, or kept up to its failure.

    def _lists(self) -> tuple[list[Any], ...]:
        return self.graph.calls, self.graph.opaque

    def _mark(self) -> list[int]:
        return [len(items) for items in self._lists()]

    def _since(self, mark: list[int]) -> list[list[Any]]:
        return [items[start:] for items, start in zip(self._lists(), mark, strict=True)]

    def _reset(self, mark: list[int]) -> None:
        for items, start in zip(self._lists(), mark, strict=True):
            del items[start:]

    def _restore(self, kept: list[list[Any]]) -> None:
        for items, more in zip(self._lists(), kept, strict=True):
            items += more


NO_CALL = "it has no `call`; its layers were traced one by one"


def reason(error: Exception) -> str:
    """Return the cause of an error, without Keras's header, colors, counters and addresses."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = text.rsplit("Error encountered:", 1)[-1].split("\n\nArguments received by")[0]
    text = re.sub(r"keras_tensor(_\d+)?", "keras_tensor", text)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    lines = [line.strip() for line in text.splitlines()]
    lines = [x for x in lines if x and not x.startswith("Exception encountered when calling")]
    return ": ".join([type(error).__name__, *lines[:1]])


def _name_of_function(function: Any) -> str:
    """Return the name of a backend function, in the form of the classes of `keras.ops`."""
    name = getattr(function, "__name__", type(function).__name__).strip("_")
    name = re.sub("_(v2|dispatch)$|^reduce_", "", name)
    name = "".join(part.capitalize() for part in name.split("_"))
    return _ALIASES.get(name, name)


def _has_no_call(layer: Any) -> bool:
    return type(layer).call in (keras.Model.call, keras.layers.Layer.call, keras.Operation.call)


def _spec(operation: Any, args: Any, kwargs: Any) -> Any:
    if inherits_output_spec(operation):
        return keras.Operation.compute_output_spec(operation, *args, **kwargs)
    spec = operation.compute_output_spec(*args, **kwargs)
    if isinstance(operation, keras.layers.EinsumDense) and None in spec.shape:
        return keras.KerasTensor(_einsum_shape(operation, args[0].shape, spec.shape), spec.dtype)
    if isinstance(operation, keras.layers.Layer) and does(operation, "add", "product"):
        # Keras forgets the batch size if one of the tensors has a batch of 1.
        shapes = [tuple(x.shape) for x in keras.tree.flatten(args)]
        if not any(None in shape for shape in shapes) and len(set(map(len, shapes))) == 1:
            return keras.KerasTensor(np.broadcast_shapes(*shapes), spec.dtype)
    return spec


def _einsum_shape(layer: Any, given: Any, declared: Any) -> tuple[int | None, ...]:
    """Return the output shape of an `EinsumDense`, with declared unknown sizes filled in."""
    left, _, output = layer.equation.replace(" ", "").partition("->")
    term = left.partition(",")[0]
    if "." in term or len(term) != len(given) or len(output) != len(declared):
        return tuple(declared)
    sizes = dict(zip(term, given, strict=True))
    return tuple(size or sizes.get(x) for x, size in zip(output, declared, strict=True))


def _ends(calls: list[Call]) -> list[Value]:
    """Return the outputs of calls that none of the calls uses."""
    used = {value for call in calls for value in call.inputs}
    return [value for call in calls for value in call.outputs if value not in used]


def _values(structure: Any) -> list[Value]:
    return [x.value for x in keras.tree.flatten(structure) if isinstance(x, Symbol)]


def _with_sizes(x: Any) -> Any:
    if not isinstance(x, Symbol) or None not in x.shape:
        return x
    return Symbol(x.value, tuple(size or _SIZE for size in x.shape))
