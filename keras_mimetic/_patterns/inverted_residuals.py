"""Inverted residuals in a graph: expand, depthwise convolution, contract."""

import math
from typing import Any

from keras_mimetic._tracing.graph import Call, Graph, walk_back
from keras_mimetic._tracing.operations import (
    POINTWISE,
    does,
    is_depthwise,
    is_pointwise_function,
    is_projection,
    own_activation,
)
from keras_mimetic._tracing.symbol import Value

# Limit of operations that are followed back from the end of an inverted residual.
_STEPS = 24


def inverted_residuals(graph: Graph) -> list[tuple[Any, Any]]:
    """Return the first and last projection of each inverted residual."""
    found = []
    for call in graph.calls:
        if is_projection(call.operation):
            start = _expansion(call)
            if start is not None:
                found.append((start, call.operation))
    return found


def _expansion(end: Call) -> Any:
    """Return the first projection of an inverted residual that ends here, or `None`."""
    depthwise = activations = 0
    starts: set[Any] = set()
    for value in walk_back(end.inputs[0], _main_inputs, limit=_STEPS):
        call = value.producer
        if call is None:
            return None
        operation = call.operation
        is_start = is_projection(operation)
        if is_start or is_depthwise(operation):
            activations += is_pointwise_function(own_activation(operation))
            depthwise += not is_start
        elif not _main_inputs(call):
            return None
        if is_start:
            starts.add(operation)
        activations += does(operation, "activate")
    if len(starts) != 1 or not depthwise or not activations:
        return None
    (start,) = starts
    (inputs, hidden), width = start.kernel.shape[-2:], end.operation.kernel.shape[-1]
    return start if hidden > max(inputs, width) else None


def _main_inputs(call: Call) -> list[Value]:
    """Return the inputs to follow: all summands, or the larger factor of a gate of channels."""
    values = [x for x in call.inputs if x.constant is None]
    if not values or not (is_depthwise(call.operation) or does(call.operation, *POINTWISE, "pad")):
        return []
    if does(call.operation, "add"):
        return values
    return [max(values, key=lambda x: math.prod(size or 1 for size in x.shape))]
