"""Causal masks of attention layers, and tokens that flow into them."""

import inspect
from typing import Any

import keras
import numpy as np

from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._tracing.graph import Call, Graph
from keras_mimetic._tracing.operations import name_of
from keras_mimetic._tracing.symbol import Value

_TRIANGLES = {"Tril", "Triu"}
# Maximum number of operations that are followed back from a mask, and maximum number of
# rows and columns of a mask that are inspected.
_STEPS, _ENTRIES = 64, 64


def bound(call: Call) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    signature = inspect.signature(call.operation.call)
    return dict(signature.bind_partial(*call.args, **call.kwargs).arguments)


def is_causal(call: Call) -> bool:
    """Return whether a call of an attention layer hides later positions."""
    arguments = bound(call)
    if arguments.get("use_causal_mask") is True:
        return True
    masks = (x for name, x in arguments.items() if name.endswith("mask"))
    return any(is_causal_mask(mask) for mask in masks)


def is_causal_mask(mask: Any) -> bool:
    """Return whether a mask is triangular, or computed from a triangular one."""
    waiting, seen = [mask], 0
    known = set()
    while waiting and seen < _STEPS:
        x, seen = waiting.pop(0), seen + 1
        if id(x) in known:
            continue
        known.add(id(x))
        if not isinstance(x, Value):
            if is_triangular(x):
                return True
        elif x.constant is not None:
            waiting.append(x.constant)
        elif x.producer is not None:
            if name_of(x.producer.operation) in _TRIANGLES:
                return True
            waiting += keras.tree.flatten((x.producer.args, x.producer.kwargs))
    return False


def is_triangular(x: Any) -> bool:
    """Return whether an array has one value for all past positions and another for later ones."""
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2:
        return False
    corner = x[(0,) * (len(shape) - 2)][:_ENTRIES, :_ENTRIES]
    matrix = values_of(corner)
    before = matrix[np.tril_indices(len(matrix))]
    after = matrix[np.triu_indices(len(matrix), 1)]
    return bool((before == before[0]).all() and (after == after[0]).all() and before[0] != after[0])


def values_of_tokens(graph: Graph) -> set[int]:
    """Return the `id` of each value that depends on tokens, which an `Embedding` embeds."""
    found: set[int] = set()
    for call in graph.calls:
        embeds = isinstance(call.operation, keras.layers.Embedding) and any(
            value.constant is None for value in call.inputs
        )
        if embeds or any(id(value) in found for value in call.inputs):
            found.update(id(value) for value in call.outputs)
    return found
