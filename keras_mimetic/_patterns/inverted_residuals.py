"""Inverted residuals in a graph: expand, depthwise convolution, contract."""

import math
from typing import Any

from keras_mimetic._tracing.graph import Call, Graph
from keras_mimetic._tracing.operations import (
    is_activation,
    is_depthwise,
    is_pointwise,
    is_pointwise_function,
    is_projection,
    name_of,
    own_activation,
)

# Limit of operations that are followed back from the end of an inverted residual.
_STEPS = 24
_PADS = {"ZeroPadding1D", "ZeroPadding2D", "Pad"}


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
    value, depthwise, activations = end.inputs[0], 0, 0
    for _ in range(_STEPS):
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
        activations += is_activation(operation)
        # Follow the larger factor of a product with channel gates.
        values = [x for x in call.inputs if x.constant is None]
        sizes = [math.prod(size or 1 for size in x.shape) for x in values]
        known = is_depthwise(operation) or is_pointwise(operation) or name_of(operation) in _PADS
        if not values or not known:
            return None
        value = values[sizes.index(max(sizes))]
    return None
