"""Streams of channels: the tensors whose sum, position by position, another tensor is."""

from collections.abc import Iterator

import keras

from keras_mimetic._tracing.graph import Call, Graph, walk_back
from keras_mimetic._tracing.operations import (
    CONVOLUTIONS,
    does,
    is_depthwise,
    is_projection,
)
from keras_mimetic._tracing.symbol import Value

_SCALES = ("scale", "normalize")
_REARRANGES = ("copy", "move", "slice", "pad", "pool")

Streams = dict[Value, frozenset[Value]]
# Maximum number of operations that are followed back from a tensor.
_STEPS = 16


def streams(graph: Graph) -> Streams:
    """Return the streams that are summed in each value.

    A stream is identified by its first value. Operations that normalize, that
    move, select or average positions, or that scale channels preserve a stream. A matrix or
    an activation begins a new one. Constants and weights have no stream.
    """
    found: Streams = {}
    for call in graph.calls:
        own = [_of(value, found) for value in call.inputs]
        kept: frozenset[Value] | None = None
        if does(call.operation, "add", "join") or (
            does(call.operation, *_SCALES) and len(call.inputs) <= 2
        ):
            kept = frozenset().union(*own)
        elif own and (does(call.operation, *_REARRANGES) or _by_channel(call.operation)):
            kept = own[0]
        for value in call.outputs:
            found[value] = frozenset([value]) if kept is None else kept
    return found


def ways_from_one_stream(
    a: Value, b: Value, found: Streams
) -> tuple[list[Call], list[Call]] | None:
    """Return the matrices on the shortest paths from a common stream to two tensors.

    The paths lead through convolutions, projections and activations with a single input.
    Return `None` if no common stream is found.
    """
    ways = [
        (first, second)
        for streams_of_a, first in _ancestry(a, found)
        for streams_of_b, second in _ancestry(b, found)
        if streams_of_a & streams_of_b
    ]
    return min(ways, key=lambda way: sum(map(len, way)), default=None)


def _ancestry(value: Value, found: Streams) -> Iterator[tuple[frozenset[Value], list[Call]]]:
    """Yield the streams from which a tensor is computed, with the matrices in between."""
    matrices: list[Call] = []

    def follow(call: Call) -> list[Value]:
        inputs = [x for x in call.inputs if x.constant is None]
        is_matrix = is_projection(call.operation) or isinstance(call.operation, CONVOLUTIONS)
        if is_matrix:
            matrices.append(call)
        is_known = is_matrix or does(call.operation, *_SCALES, *_REARRANGES, "activate")
        return inputs if call.seen and is_known and len(inputs) == 1 else []

    for start in walk_back(value, follow, limit=_STEPS):
        yield found.get(start, frozenset()), list(matrices)


def _of(value: Value, found: Streams) -> frozenset[Value]:
    if value.producer is None and value.constant is not None:
        return frozenset()
    return found.setdefault(value, frozenset([value]))


def _by_channel(operation: object) -> bool:
    separable = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
    if isinstance(operation, separable) or is_projection(operation):
        return False
    return is_depthwise(operation)
