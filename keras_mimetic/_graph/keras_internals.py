"""Access to Keras's private attributes and classes.

No other file of the package uses them, except that layers use what they inherit.
"""

import contextlib
import functools
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.layers import layer as keras_layer

from keras_mimetic._graph.symbol import (
    Args,
    Function,
    Kwargs,
    Nested,
    Symbol,
    any_symbol,
    listening,
)


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Return `layer` and all its nested sublayers, each once."""
    return list(layer._flatten_layers())


def direct_sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Return the direct sublayers of a layer."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Return the variables of a layer without those of its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def input_structure(model: keras.Model) -> Nested:
    """Return the input tensors of a functional or sequential model, nested as `call` takes them."""
    functional = getattr(model, "_functional", None) or model
    return getattr(functional, "_inputs_struct", model.inputs)


def generator_states(layer: keras.Layer) -> list[keras.Variable]:
    """Return the states of a layer's random generators, without those of its sublayers."""
    return [generator.state for generator in layer._seed_generators]


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables that an optimizer was built for."""
    return list(optimizer._trainable_variables)


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the learning rate of an optimizer: a variable, a schedule or a function."""
    return optimizer._learning_rate


def attention_projection(layer: keras.Layer, role: str) -> Any:
    """Return a projection of an attention layer; `None` if it has none of this role."""
    return getattr(layer, f"_{role}_dense", None)


def is_keras_class(operation: keras.Operation) -> bool:
    """Return whether Keras defines the class of a layer or operation."""
    return type(operation).__module__.startswith("keras.src.layers.")


def output_spec(function: Function, *args: Nested, **kwargs: Nested) -> Nested:
    """Return shapes and dtypes of the outputs of a backend function."""
    return keras.src.backend.compute_output_spec(function, *args, **kwargs)


def is_tensor(x: object) -> bool:
    """Return whether an object is a tensor of the backend."""
    return bool(keras.src.backend.is_tensor(x))


# One thread at a time changes the state of the process, or writes a model.
lock = threading.RLock()


@contextlib.contextmanager
def preserve_global_state() -> Iterator[None]:
    """Restore Python's and NumPy's random states, and Keras's counters of names and generator."""
    names = global_state.get_global_attribute("object_name_uids")
    before = {
        "object_name_uids": None if names is None else names.copy(),
        "global_seed_generator": global_state.get_global_attribute("global_seed_generator"),
    }
    with lock:
        states = random.getstate(), np.random.get_state()
        limit = sys.getrecursionlimit()
        # A recorded call takes twice the frames of the call.
        sys.setrecursionlimit(2 * limit)
        # A new one follows Python's random state.
        global_state.set_global_attribute("global_seed_generator", None)
        try:
            yield
        finally:
            sys.setrecursionlimit(limit)
            random.setstate(states[0])
            np.random.set_state(states[1])
            for name, value in before.items():
                global_state.set_global_attribute(name, value)


@contextlib.contextmanager
def preserve_state(model: keras.Layer) -> Iterator[None]:
    """Restore the state that calls of a model's layers change, and the global one.

    It includes values of variables, and attributes that `call` sets. Changes inside an object
    that an attribute holds are not undone, nor what other threads do meanwhile.
    """
    with preserve_global_state():
        listening.layers, listening.changes = set(map(id, sublayers(model))), []
        try:
            # The scope discards assignments to variables.
            with keras.StatelessScope():
                yield
        finally:
            for attributes, name, before in reversed(listening.changes):
                # Bypass `__setattr__`, which tracks attributes.
                attributes.pop(name, None)
                attributes.update(before)


@contextlib.contextmanager
def recording_calls(to: Any) -> Iterator[None]:
    """Send Keras's calls in this thread to a recorder; other threads are not affected.

    No layer gets weights while this context is active: calling an unbuilt layer that needs
    weights raises a `ValueError`.
    """
    operation, layer, variable = keras.Operation, keras.layers.Layer, keras.Variable
    patches: list[tuple[Any, str, Function]] = [
        (operation, "symbolic_call", _symbolic_call),
        (layer, "symbolic_call", _symbolic_call),
        (layer, "__call__", _layer_call),
        (layer, "__setattr__", _set_attribute),
        (layer, "_maybe_build", _build_alone),
        (layer, "add_loss", _unless_listening),
        (layer, "_clear_losses", _unless_listening),
        (layer, "add_weight", _refuse_weights),
        (variable, "assign", _unless_symbolic),
        (keras_layer, "Node", _unless_listening),
        (keras.src.backend.random, "dropout", _first_if_symbolic),
        (keras.src.backend.core, "remat", _remat),
        *((variable, name, _give_way) for name in _OPERATORS if hasattr(variable, name)),
    ]
    _listen_to_tensorflow()
    before = []
    try:
        for owner, name, wrapper in patches:
            before.append((owner, name, vars(owner).get(name)))
            setattr(owner, name, _wrapped(wrapper, getattr(owner, name)))
        listening.recorder, listening.is_tracing = to, True
        yield
    finally:
        listening.recorder, listening.is_tracing = None, False
        for owner, name, own in reversed(before):
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def inherits_output_spec(layer: keras.Layer) -> bool:
    """Return whether a subclass of Keras's attention overrides `call` but not its output spec.

    The inherited spec is for the arguments of Keras's layer. If the subclass takes others,
    such as a cache, its output shape is computed by running its `call`.
    """
    own = keras.layers.MultiHeadAttention
    return (
        isinstance(layer, own)
        and type(layer).call is not own.call
        and type(layer).compute_output_spec is own.compute_output_spec
    )


_OPERATORS = tuple(
    f"__{name}__"
    for name in (
        *("add", "sub", "mul", "truediv", "floordiv", "matmul", "pow", "mod"),
        *("lt", "le", "gt", "ge", "ne", "and", "or", "xor"),
    )
)


def _wrapped(wrapper: Function, original: Function) -> Function:
    @functools.wraps(original)
    def function(*args: Nested, **kwargs: Nested) -> Nested:
        # Also while the recorder is paused, weights are refused and attributes restored.
        if listening.recorder is None and not (wrapper in _ALWAYS and listening.is_tracing):
            return original(*args, **kwargs)
        return wrapper(original, *args, **kwargs)

    return function


def _symbolic_call(
    original: Function, operation: keras.Operation, *args: Nested, **kwargs: Nested
) -> Nested:
    return listening.recorder.call(operation, args, kwargs)


def _layer_call(original: Function, layer: keras.Layer, *args: Nested, **kwargs: Nested) -> Nested:
    args, kwargs = listening.recorder.known(layer, args, kwargs)
    return original(layer, *args, **kwargs)


def _build_alone(original: Function, layer: keras.Layer, call_spec: object) -> None:
    """Build a layer without weights.

    A layer that has sublayers but no `build` method does not need to be built.
    """
    if layer.built or (len(layer._layers) and hasattr(layer.build, "_is_default")):
        return
    with listening.recorder.paused():
        original(layer, call_spec)


def _unless_listening(original: Function, *args: Nested, **kwargs: Nested) -> None:
    return None


def _refuse_weights(
    original: Function, layer: keras.Layer, *args: Nested, **kwargs: Nested
) -> None:
    raise ValueError(f"its layer {layer.name!r} is not built")


def _set_attribute(original: Function, layer: keras.Layer, name: str, value: object) -> None:
    if id(layer) in listening.layers:
        attributes = vars(layer)
        before = {name: attributes[name]} if name in attributes else {}
        listening.changes.append((attributes, name, before))
    original(layer, name, value)


_ALWAYS = (_refuse_weights, _set_attribute)


def _unless_symbolic(original: Function, *args: Nested, **kwargs: Nested) -> Nested:
    return None if any_symbol((args, kwargs)) else original(*args, **kwargs)


def _first_if_symbolic(original: Function, *args: Nested, **kwargs: Nested) -> Nested:
    return args[0] if args and isinstance(args[0], Symbol) else original(*args, **kwargs)


def _remat(original: Function, function: Function) -> Function:
    """Return a rematerialized function that calls the original one on symbols."""
    rematerialized = original(function)
    return lambda *args, **kwargs: (function if any_symbol((args, kwargs)) else rematerialized)(
        *args, **kwargs
    )


def _give_way(original: Function, variable: keras.Variable, other: object) -> Any:
    """Apply an operator of a variable, or defer to the operator of a symbol."""
    return NotImplemented if isinstance(other, Symbol) else original(variable, other)


@functools.cache
def _listen_to_tensorflow() -> None:
    """Register a dispatcher, which TensorFlow's functions call for symbols."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

    base: Any = tf.__internal__.dispatch.GlobalOpDispatcher

    class Dispatcher(base):
        def handle(self, op: Function, args: Args, kwargs: Kwargs) -> Nested:
            if listening.recorder is None or not any_symbol((args, kwargs)):
                return self.NOT_SUPPORTED
            return listening.recorder.foreign(op, args, kwargs)

    Dispatcher().register()
