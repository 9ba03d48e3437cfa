"""Everything that tracing needs of Keras's private records and classes.

No other file of `_tracing`, `_patterns` and `_structures` touches them.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.layers import layer as keras_layer

from keras_mimetic._tracing import control_flow
from keras_mimetic._tracing.symbol import Symbol, is_tracing, recorder


def sublayers(layer: Any) -> list[Any]:
    """Return `layer` and all layers within, each once."""
    return list(layer._flatten_layers())


def direct_sublayers(layer: Any) -> list[Any]:
    """Return the layers that a layer holds itself."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def own_variables(layer: Any) -> list[Any]:
    """Return the variables that a layer holds itself, not in a sublayer."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def is_keras_class(operation: Any) -> bool:
    """Return whether Keras defines the class of a layer or operation."""
    return type(operation).__module__.startswith("keras.src.layers.")


def output_spec(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Return shapes and dtypes of what a function of the backend's gives."""
    return keras.src.backend.compute_output_spec(function, *args, **kwargs)


def is_tensor(x: Any) -> bool:
    """Return whether something is a tensor of the backend."""
    return bool(keras.src.backend.is_tensor(x))


@contextlib.contextmanager
def preserve_model_state(model: Any) -> Iterator[None]:
    """Put back what symbolic calls of the model's layers change.

    That is losses, the values of variables, and attributes that `call` sets; not
    what `call` does to an object that an attribute holds.
    """
    layers = sublayers(model)
    records = [
        (record, list(record))
        for layer in layers
        for record in (layer._inbound_nodes, layer._outbound_nodes, layer._losses)
    ]
    attributes = [(vars(layer), dict(vars(layer))) for layer in layers]
    try:
        # What is assigned to variables is dropped with the scope.
        with keras.StatelessScope():
            yield
    finally:
        for current, before in attributes:
            # Past the layers' own bookkeeping of attributes.
            for name in [name for name in current if name not in before]:
                del current[name]
            current.update(before)
        for record, items in records:
            record[:] = items


@contextlib.contextmanager
def recording_calls() -> Iterator[None]:
    """Let the recorder of this thread hear of Keras's calls; other threads go on as before.

    Nothing is built meanwhile: calling a layer that is not raises `ValueError`.
    """
    operation, layer, variable = keras.Operation, keras.layers.Layer, keras.Variable
    patches: list[tuple[Any, str, Any]] = [
        (operation, "symbolic_call", _symbolic_call),
        (layer, "symbolic_call", _symbolic_call),
        (layer, "__call__", _layer_call),
        (layer, "_maybe_build", _build_alone),
        (layer, "add_loss", _unless_listening),
        (layer, "add_weight", _refuse_weights),
        (variable, "assign", _unless_symbolic),
        (keras_layer, "Node", _unless_symbolic),
        (keras.src.backend.random, "dropout", _first_if_symbolic),
        (keras.src.backend.random, "shuffle", _first_if_symbolic),
        *((keras.src.backend.core, name, _followed(f)) for name, f in _CONTROL_FLOW.items()),
        (keras.src.backend.core, "remat", _remat),
        *((variable, name, _give_way) for name in _OPERATORS if hasattr(variable, name)),
    ]
    _listen_to_tensorflow()
    before = [
        (owner, name, vars(owner).get(name), getattr(owner, name)) for owner, name, _ in patches
    ]
    try:
        for (owner, name, wrapper), (_, _, _, original) in zip(patches, before, strict=True):
            setattr(owner, name, _wrapped(wrapper, original))
        yield
    finally:
        for owner, name, own, _ in reversed(before):
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def inherits_output_spec(layer: Any) -> bool:
    """Whether a layer derived from Keras's attention takes other arguments than it.

    Keras's declares its output's shape for its own arguments. A layer with
    others (such as a cache) is asked for its shape by running its `call` instead.
    """
    own = keras.layers.MultiHeadAttention
    return (
        isinstance(layer, own)
        and type(layer).call is not own.call
        and type(layer).compute_output_spec is own.compute_output_spec
    )


_CONTROL_FLOW = {
    "scan": control_flow.scan,
    "map": control_flow.map,
    "vectorized_map": control_flow.map,
    "associative_scan": control_flow.associative_scan,
    "while_loop": control_flow.while_loop,
    "fori_loop": control_flow.fori_loop,
    "cond": control_flow.cond,
    "switch": control_flow.switch,
}

_OPERATORS = tuple(
    f"__{name}__"
    for name in (
        *("add", "sub", "mul", "truediv", "floordiv", "matmul", "pow", "mod"),
        *("lt", "le", "gt", "ge", "ne", "and", "or", "xor"),
    )
)


def _wrapped(wrapper: Any, original: Any) -> Any:
    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        # A build that is listened to no more must not add weights either.
        if recorder() is None and not (wrapper is _refuse_weights and is_tracing()):
            return original(*args, **kwargs)
        return wrapper(original, *args, **kwargs)

    return function


def _symbolic_call(original: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
    if not _any_symbol((args, kwargs)):
        # A functional model that is made while another runs.
        return original(operation, *args, **kwargs)
    return recorder().call(operation, args, kwargs)


def _layer_call(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = recorder().known(layer, args, kwargs)
    return original(layer, *args, **kwargs)


def _build_alone(original: Any, layer: Any, call_spec: Any) -> None:
    """Builds a layer without weights; one of layers is left to these."""
    if layer.built or (len(layer._layers) and hasattr(layer.build, "_is_default")):
        return
    with recorder().paused():
        original(layer, call_spec)


def _unless_listening(original: Any, *args: Any, **kwargs: Any) -> None:
    return None


def _refuse_weights(original: Any, layer: Any, *args: Any, **kwargs: Any) -> None:
    raise ValueError(f"its layer {layer.name!r} is not built")


def _any_symbol(structure: Any) -> bool:
    return any(isinstance(x, Symbol) for x in keras.tree.flatten(structure))


def _unless_symbolic(original: Any, *args: Any, **kwargs: Any) -> Any:
    return None if _any_symbol((args, kwargs)) else original(*args, **kwargs)


def _first_if_symbolic(original: Any, *args: Any, **kwargs: Any) -> Any:
    return args[0] if args and isinstance(args[0], Symbol) else original(*args, **kwargs)


def _followed(body_once: Any) -> Any:
    """A loop or branch whose body runs once on symbols; as it is where none is in it."""

    def wrapper(original: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = body_once(*args, **kwargs)
        return outputs if _any_symbol(outputs) else original(*args, **kwargs)

    return wrapper


def _remat(original: Any, function: Any) -> Any:
    """`keras.remat`, which leaves symbols to the function itself."""
    rematerialized = original(function)
    return lambda *args, **kwargs: (function if _any_symbol((args, kwargs)) else rematerialized)(
        *args, **kwargs
    )


def _give_way(original: Any, variable: Any, other: Any) -> Any:
    """A variable's operator, which leaves a symbol to the symbol's own."""
    return NotImplemented if isinstance(other, Symbol) else original(variable, other)


@functools.cache
def _listen_to_tensorflow() -> None:
    """TensorFlow's own functions ask dispatchers for arguments that they do not know."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

    base: Any = tf.__internal__.dispatch.GlobalOpDispatcher

    class Dispatcher(base):
        def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
            if recorder() is None or not _any_symbol((args, kwargs)):
                return self.NOT_SUPPORTED
            return recorder().foreign(op, args, kwargs)

    Dispatcher().register()
