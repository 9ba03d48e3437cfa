"""Running a model's code on symbolic tensors without leaving a trace in it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras


def sublayers(layer: Any) -> list[Any]:
    """`layer` and all layers within, each once."""
    return list(layer._flatten_layers())


@contextlib.contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Puts back what symbolic calls of the model's layers change.

    That is Keras's records of calls (a layer with more than one has no `output`
    any more), losses, the values of variables, and attributes that `call` sets;
    not what `call` does to an object that an attribute holds. No layer is built
    meanwhile: calling one that is not raises `ValueError`.

    This file is the one that reaches into Keras's records.
    """
    layers = sublayers(model)
    records = [
        (record, list(record))
        for layer in layers
        for record in (layer._inbound_nodes, layer._outbound_nodes, layer._losses)
    ]
    attributes = [(vars(layer), dict(vars(layer))) for layer in layers]
    for layer in layers:
        # Past the layer's own bookkeeping of attributes.
        infer = layer.compute_output_spec
        if _declares_its_base_class_output(layer):
            infer = functools.partial(keras.Operation.compute_output_spec, layer)
        if not type(layer).__module__.startswith("keras.src."):
            vars(layer)["compute_output_spec"] = functools.partial(_tensors_for_none, infer)
        if not layer.built:
            vars(layer)["add_weight"] = functools.partial(_refuse_weights, layer)
    try:
        # What is assigned to variables is dropped with the scope.
        with keras.StatelessScope():
            yield
    finally:
        for current, before in attributes:
            for name in [name for name in current if name not in before]:
                del current[name]
            current.update(before)
        for record, items in records:
            record[:] = items


def _tensors_for_none(infer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Symbolic calls may give nothing but tensors; layers may give `None` for some."""
    outputs = infer(*args, **kwargs)
    return keras.tree.map_structure(lambda x: keras.KerasTensor(()) if x is None else x, outputs)


def _declares_its_base_class_output(layer: Any) -> bool:
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


def _refuse_weights(layer: Any, *args: Any, **kwargs: Any) -> None:
    raise ValueError(f"its layer {layer.name!r} is not built")
