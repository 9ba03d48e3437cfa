"""A recorder of the calls that Keras makes while a model runs on symbolic tensors.

Keras's own `Layer.__call__` runs: it converts inputs, drops a `training` argument that a
layer does not take, and fills in masks. Instead of computing the output spec of a
layer, the recorder runs the `call` of a composite layer, and records the call of a
plain layer or an operation of `keras.ops`.
"""

import contextlib
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_mimetic._graph import keras_internals
from keras_mimetic._graph.arguments import arguments_of
from keras_mimetic._graph.graph import Call, Graph
from keras_mimetic._graph.held_weights import Held, Owners, held_projection, set_biases
from keras_mimetic._graph.operations import (
    ATTENTIONS,
    CENTERING,
    CONVOLUTIONS,
    DEPTHWISE,
    SEPARABLE,
    does,
    einsum_axes,
    name_of,
)
from keras_mimetic._graph.symbol import (
    Args,
    Foreign,
    Function,
    Kwargs,
    Nested,
    Operation,
    Shape,
    Symbol,
    Value,
    any_symbol,
    listening,
)

# Layers of Keras that are recorded as one call, including their subclasses.
_LEAVES = (
    *ATTENTIONS,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Embedding,
    *CONVOLUTIONS,
    *DEPTHWISE,
    *SEPARABLE,
    *CENTERING,
    keras.layers.Dropout,
    keras.layers.InputLayer,
)

# Size for axes of unknown length if the code of a model needs one.
_SIZE = 16
# Maximum number of calls of one layer with weights.
_MAX_CALLS = 100
# Backend functions whose names differ from those of `keras.ops`.
_ALIASES = {"Mul": "Multiply", "Sub": "Subtract", "Div": "TrueDivide", "Truediv": "TrueDivide"}


def is_composite(operation: Operation) -> bool:
    """Return whether a layer consists of other layers or is user-defined."""
    if not isinstance(operation, keras.layers.Layer) or _is_leaf(operation):
        return False
    if isinstance(operation, (keras.Model, keras.layers.Lambda)):
        return True
    return not keras_internals.is_keras_class(operation)


def _is_leaf(layer: keras.Layer) -> bool:
    """Return whether a layer is recorded as one call, which its class may ask for."""
    return isinstance(layer, _LEAVES) or getattr(layer, "_traced_as_one_call", False)


def trace(model: keras.Layer, inputs: Nested = None) -> Graph:
    """Return the flat graph of a built model or layer, without changing it."""
    graph = Graph()
    if not is_composite(model):
        return graph
    owners = {
        id(weight): layer
        for layer in keras_internals.sublayers(model)
        for weight in keras_internals.own_variables(layer)
    }
    recorder = Recorder(graph, owners)
    with keras_internals.preserve_state(model), keras_internals.recording_calls(recorder):
        outputs = keras.tree.flatten(recorder.model(model, inputs))
    set_biases(graph, owners)
    graph.outputs = [x.value for x in outputs if isinstance(x, Symbol)]
    return graph


class LongLoopError(Exception):
    """A loop that is too long to be traced step by step."""


@dataclasses.dataclass
class Attempt:
    """What one attempt to call a layer recorded, and why it failed, or "" if it did not."""

    calls: list[Call] = dataclasses.field(default_factory=list)
    opaque: list[tuple[keras.Layer, str]] = dataclasses.field(default_factory=list)
    outputs: Nested = None
    assumed: str = ""
    why: str = ""

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The best attempt has the lowest: it succeeds, and hides few layers."""
        return bool(self.why), 0 if self.why else len(self.opaque), -len(self.calls)


class Recorder:
    """The calls of a model, recorded into a `Graph` while it runs.

    Args:
        graph: The graph to record into.
        owners: The layer that owns each weight, by the `id` of the weight.
    """

    def __init__(self, graph: Graph, owners: Owners) -> None:
        self.graph, self._owners = graph, owners
        self._calls: Counter[keras.Layer] = Counter()
        self._held: Held = {}
        self._constants: dict[int, Symbol] = {}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        listening.recorder = None
        try:
            yield
        finally:
            listening.recorder = self

    @contextlib.contextmanager
    def _attempt(self, *fatal: type[Exception]) -> Iterator[Attempt]:
        """Move what is recorded from the graph to an `Attempt`; only `fatal` errors are raised."""
        attempt = Attempt()
        calls, opaque = self.graph.calls, self.graph.opaque
        start, start_opaque = len(calls), len(opaque)
        try:
            yield attempt
        except fatal:
            raise
        except Exception as error:
            attempt.why = reason(error)
        attempt.calls, calls[start:] = calls[start:], []
        attempt.opaque, opaque[start_opaque:] = opaque[start_opaque:], []

    def _keep(self, attempt: Attempt) -> None:
        self.graph.calls += attempt.calls
        self.graph.opaque += attempt.opaque

    def model(self, model: keras.Layer, inputs: Nested = None) -> Nested:
        """Call a model on symbolic arguments and return its outputs, or `None` if it fails."""
        attempts: list[Attempt] = []
        for make in () if _has_no_call(model) else arguments_of(model, inputs):
            self._calls.clear()
            with self._attempt() as attempt:
                args, kwargs, attempt.assumed = make()
                args, kwargs = keras.tree.map_structure(_symbol, (args, kwargs))
                attempt.outputs = model(*args, **kwargs)
            attempts.append(attempt)
            is_complete = not attempt.why and not attempt.opaque
            if is_complete or attempt.why.startswith("RecursionError"):
                break
        best = min(attempts, key=lambda attempt: attempt.rank, default=Attempt())
        self._keep(best)
        if best.assumed:
            self.graph.assumed.append((model, best.assumed))
        if best.outputs is None and not self._is_opaque(model):
            why = next((attempt.why for attempt in attempts if attempt.why), NO_CALL)
            self.graph.opaque.append((model, why))
            self._one_by_one(model)
        return best.outputs

    def _is_opaque(self, layer: keras.Layer) -> bool:
        return any(known is layer for known, _ in self.graph.opaque)

    def _one_by_one(self, layer: keras.Layer) -> None:
        """Trace the composite layers inside a layer that could not be traced, each by itself."""
        for sub in keras_internals.direct_sublayers(layer):
            called = {call.operation for call in self.graph.calls}
            if self._is_opaque(sub) or not called.isdisjoint(keras_internals.sublayers(sub)):
                continue
            if is_composite(sub) and sub.weights:
                self.model(sub)
            else:
                self._one_by_one(sub)

    # Methods that Keras's patched functions call.

    def call(self, operation: keras.Operation, args: Args, kwargs: Kwargs) -> Nested:
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

    def foreign(self, function: Function, args: Args, kwargs: Kwargs) -> Nested:
        """Record a call of a backend function."""
        with self.paused():
            spec = keras_internals.output_spec(function, *args, **kwargs)
        return self._record(Foreign(_name_of_function(function)), args, kwargs, spec)

    def known(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Return the arguments of a plain layer with a symbol for each concrete tensor."""
        if is_composite(layer) or not (layer.weights or any_symbol((args, kwargs))):
            return args, kwargs
        return keras.tree.map_structure(self._constant, (args, kwargs))

    def _constant(self, x: Nested) -> Nested:
        if not isinstance(x, keras.Variable) and not keras_internals.is_tensor(x):
            return x
        if id(x) not in self._constants:
            dtype = keras.backend.standardize_dtype(x.dtype)
            self._constants[id(x)] = Symbol(Value(tuple(x.shape), dtype, constant=x))
        return self._constants[id(x)]

    def _enter(self, layer: keras.Layer, args: Args, kwargs: Kwargs) -> Nested:
        """Run the `call` of a composite layer, with sizes for unknown ones if it fails without."""
        tries = [(args, kwargs)]
        if any(isinstance(x, Symbol) and None in x.shape for x in keras.tree.flatten(tries)):
            tries.append(keras.tree.map_structure(_with_sizes, (args, kwargs)))
        attempts: list[Attempt] = []
        for given, named in tries:
            # A second attempt at each level after these errors would take exponential time.
            with self._attempt(LongLoopError, RecursionError) as attempt:
                attempt.outputs = keras.tree.map_structure(_symbol, layer.call(*given, **named))
            if not attempt.why:
                self._keep(attempt)
                return attempt.outputs
            attempts.append(attempt)
        best = min(attempts, key=lambda attempt: attempt.rank)
        self._keep(best)
        self.graph.opaque.append((layer, NO_CALL if _has_no_call(layer) else best.why))
        self._one_by_one(layer)
        with self.paused():
            spec = layer.compute_output_spec(*args, **kwargs)
        # Assume that its output depends on all values that nothing else has used.
        return self._record(layer, args, kwargs, spec, _ends(best.calls))

    def _enter_wrapped(self, operation: keras.Operation) -> None:
        """Trace the layers inside a wrapper of Keras, such as `RNN`."""
        if not isinstance(operation, keras.layers.Layer) or _is_leaf(operation):
            return
        if len(keras_internals.sublayers(operation)) > 1 and not self._is_opaque(operation):
            what = f"{type(operation).__name__} hides the context of its layers"
            self.graph.opaque.append((operation, what))
            self._one_by_one(operation)

    def _time_distributed(
        self, wrapper: keras.layers.TimeDistributed, args: Args, kwargs: Kwargs
    ) -> Nested:
        """Call the inner layer on inputs whose first two axes are merged."""
        x = next(x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, Symbol))
        first = x.shape[:2]

        def reshape(y: Nested, axes: tuple[int | None, ...], merged: int) -> Nested:
            if not isinstance(y, Symbol):
                return y
            spec = keras.KerasTensor((*axes, *y.shape[merged:]), y.dtype)
            return self._record(Foreign("Reshape"), (y,), {}, spec)

        both = None if None in first else math.prod(first)
        outputs = wrapper.layer(reshape(x, (both,), 2))
        return keras.tree.map_structure(lambda y: reshape(y, first, 1), outputs)

    def _record(
        self,
        operation: Operation,
        args: Args,
        kwargs: Kwargs,
        spec: Nested,
        other_inputs: Sequence[Value] = (),
    ) -> Nested:
        """Record a call and return symbols for its outputs, which have the shapes of `spec`."""
        outputs = keras.tree.map_structure(_symbol, spec)
        values = [x.value for x in keras.tree.flatten(outputs) if isinstance(x, Symbol)]
        args, kwargs = keras.tree.map_structure(_value, (args, kwargs))
        inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, Value)]
        operation = held_projection(operation, args, self._owners, self._held) or operation
        if isinstance(operation, keras.layers.Layer) and operation.weights:
            # A loop that samples calls one layer again and again.
            self._calls[operation] += 1
            if self._calls[operation] > _MAX_CALLS:
                raise LongLoopError(f"a loop calls {operation.name!r} more than {_MAX_CALLS} times")
        call = Call(operation, args, kwargs, [*inputs, *other_inputs], values)
        for value in values:
            value.producer = call
        self.graph.calls.append(call)
        return outputs


NO_CALL = "it has no `call`; its layers were traced one by one"


def reason(error: Exception) -> str:
    """Return the cause of an error, without Keras's header, colors, counters and addresses."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = text.rsplit("Error encountered:", 1)[-1].split("\n\nArguments received by")[0]
    text = text.rsplit("Exception encountered: ", 1)[-1]
    text = re.sub(r"keras_tensor(_\d+)?", "keras_tensor", text)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    lines = [line.strip() for line in text.splitlines()]
    lines = [x for x in lines if x and not x.startswith("Exception encountered when calling")]
    return ": ".join([type(error).__name__, *lines[:1]])


def _name_of_function(function: Function) -> str:
    """Return the name of a backend function, in the form of the classes of `keras.ops`."""
    name = getattr(function, "__name__", type(function).__name__).strip("_")
    name = re.sub("_(v2|dispatch)$|^reduce_", "", name)
    name = "".join(part.capitalize() for part in name.split("_"))
    return _ALIASES.get(name, name)


def _has_no_call(layer: keras.Layer) -> bool:
    return type(layer).call in (keras.Model.call, keras.layers.Layer.call, keras.Operation.call)


def _spec(operation: keras.Operation, args: Args, kwargs: Kwargs) -> Nested:
    if keras_internals.inherits_output_spec(operation):
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


def _einsum_shape(layer: keras.layers.EinsumDense, given: Shape, declared: Shape) -> Shape:
    """Return the output shape of an `EinsumDense`, with declared unknown sizes filled in."""
    terms = einsum_axes(layer.equation, [len(given), len(layer.kernel.shape)])
    if terms is None:
        return declared
    sizes = dict(zip(terms[0], given, strict=True))
    return tuple(size or sizes.get(x) for x, size in zip(terms[2], declared, strict=True))


def _ends(calls: list[Call]) -> list[Value]:
    """Return the outputs of calls that none of the calls uses."""
    used = {value for call in calls for value in call.inputs}
    return [value for call in calls for value in call.outputs if value not in used]


def _symbol(x: Nested) -> Nested:
    if not isinstance(x, keras.KerasTensor) or isinstance(x, Symbol):
        return x
    return Symbol(Value(tuple(x.shape), x.dtype))


def _value(x: Nested) -> Nested:
    return _symbol(x).value if isinstance(x, keras.KerasTensor) else x


def _with_sizes(x: Nested) -> Nested:
    if not isinstance(x, Symbol) or None not in x.shape:
        return x
    return Symbol(x.value, tuple(size or _SIZE for size in x.shape))
