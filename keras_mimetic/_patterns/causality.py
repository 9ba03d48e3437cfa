"""Causal masks of attention."""

import inspect
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_mimetic._graph.graph import Call, walk_back
from keras_mimetic._graph.operations import does, name_of
from keras_mimetic._graph.recorder import is_composite
from keras_mimetic._graph.symbol import Nested, Value
from keras_mimetic._patterns.kernels import values_of

# Maximum number of rows and columns of a mask that are inspected.
_ENTRIES = 64


def bound(call: Call) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    signature = inspect.signature(call.operation.call)
    return dict(signature.bind_partial(*call.args, **call.kwargs).arguments)


def is_causal(call: Call) -> bool | None:
    """Return whether attention hides later positions; `None` if a mask's maker is unknown."""
    arguments = bound(call)
    if arguments.get("use_causal_mask") is True:
        return True
    return any_causal(mask for name, mask in arguments.items() if name.endswith("mask"))


def any_causal(masks: Iterable[Any]) -> bool | None:
    """Return whether one of several masks is causal; `None` if this is unknown."""
    return most_causal(map(_is_causal_mask, masks))


def most_causal(answers: Iterable[bool | None]) -> bool | None:
    """Return `True` if an answer is, else `None` if an answer is, else `False`."""
    answers = set(answers)
    return True if True in answers else None if None in answers else False


def _is_causal_mask(mask: Nested) -> bool | None:
    """Return whether a mask is causal, or computed from a causal one."""
    if not isinstance(mask, Value):
        return hides_later(mask)
    answer: bool | None = False
    for value in walk_back(mask, _before_mask):
        call = value.producer
        if call is None:
            if value.constant is not None and hides_later(value.constant):
                return True
            # A mask for pairs of positions that the model is given.
            shape = value.shape
            if value.constant is None and len(shape) > 2 and shape[-1] == shape[-2]:
                answer = None
            continue
        name = name_of(call.operation)
        offset = getattr(call.operation, "k", 0)
        if (name == "Tril" and offset <= 0) or (name == "Triu" and offset >= 0):
            return True
        if any(map(hides_later, keras.tree.flatten((call.args, call.kwargs)))):
            return True
        # Positions may be compared.
        compares = does(call.operation, "compare") and len(call.inputs) > 1
        if compares or is_composite(call.operation):
            answer = None
    return answer


def _before_mask(call: Call) -> list[Value]:
    """Return the inputs of a call that could be masks: none of a layer with weights."""
    is_learned = isinstance(call.operation, keras.layers.Layer) and bool(call.operation.weights)
    return [] if is_learned or does(call.operation, "contract") else call.inputs


def hides_later(x: Nested) -> bool:
    """Return whether an array has one value for all later positions, and others before.

    It may be any mask of the positions before: all of them, a window, a decaying bias. If there
    are more columns than rows, the first columns are earlier positions.
    """
    shape: Any = () if isinstance(x, Value) else getattr(x, "shape", ())
    if len(shape) < 2 or not 2 <= shape[-2] <= shape[-1]:
        return False
    corner = x[(0,) * (len(shape) - 2)][:_ENTRIES, shape[-1] - shape[-2] :][:, :_ENTRIES]
    matrix = values_of(corner).astype(np.float64)
    later = matrix[np.triu_indices(len(matrix), 1)]
    differs = np.tril(matrix != later[0])
    return bool((later == later[0]).all() and differs.any(axis=1).all())
