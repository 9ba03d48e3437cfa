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
        if call.seen and is_projection(call.operation):
            start = _expansion(call)
            if start is not None:
                found.append((start, call.operation))
    return found


def _expansion(end: Call) -> Any:
    """Return the first projection of an inverted residual that ends here, or `None`."""
    depthwise = activations = 0
    for value in walk_back(end.inputs[0], _main_input, limit=_STEPS):
        call = value.producer
        if call is None or not call.seen:
            return None
        operation = call.operation
        if is_projection(operation):
            activations += is_pointwise_function(own_activation(operation))
            (inputs, hidden), width = operation.kernel.shape[-2:], end.operation.kernel.shape[-1]
            return operation if depthwise and activations and hidden > max(inputs, width) else None
        if is_depthwise(operation):
            depthwise += 1
            activations += is_pointwise_function(own_activation(operation))
        activations += does(operation, "activate")
    return None


def _main_input(call: Call) -> list[Value]:
    """Return the input to follow: the larger factor of a product with channel gates."""
    values = [x for x in call.inputs if x.constant is None]
    if not values or not (is_depthwise(call.operation) or does(call.operation, *POINTWISE, "pad")):
        return []
    return [max(values, key=lambda x: math.prod(size or 1 for size in x.shape))]
