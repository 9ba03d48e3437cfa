"""Streams of channels: the tensors whose sum, position by position, another tensor is."""

import math
from collections.abc import Iterator

from keras_mimetic._graph.graph import Call, Graph, walk_back
from keras_mimetic._graph.operations import (
    CONVOLUTIONS,
    SEPARABLE,
    does,
    is_depthwise,
    is_projection,
    name_of,
)
from keras_mimetic._graph.symbol import Operation, Value

_SCALES = ("scale", "normalize")
_REARRANGES = ("copy", "move", "slice", "pad", "pool")

# The streams that are summed in each value, for each part that was joined with others.
Streams = dict[Value, frozenset[frozenset[Value]]]
# Maximum number of operations that are followed back from a tensor.
_STEPS = 16
# Maximum number of parts that are considered separately.
_PARTS = 4


def streams(graph: Graph) -> Streams:
    """Return the streams that are summed in each value.

    A stream is identified by its first value. Operations that normalize, that
    move, select or average positions, or that scale channels preserve a stream. A matrix or
    an activation begins a new one. Constants and weights have no stream. Positions of several
    tensors that are joined keep their streams apart.
    """
    found: Streams = {}
    for call in graph.calls:
        own = [x for value in call.inputs if (x := _of(value, found))]
        kept: frozenset[frozenset[Value]] | None = None
        if _joins_positions(call):
            kept = frozenset().union(*own)
        elif does(call.operation, "add", "join") or (
            does(call.operation, *_SCALES) and len(call.inputs) <= 2
        ):
            kept = _summed(own)
        elif call.inputs and (does(call.operation, *_REARRANGES) or _by_channel(call.operation)):
            kept = _of(call.inputs[0], found)
        for value in call.outputs:
            found[value] = _new(value) if kept is None else kept
    return found


def one_stream(value: Value, found: Streams) -> frozenset[Value]:
    """Return all streams of a value."""
    return frozenset().union(*found.get(value, ()))


def is_in(streams_of: frozenset[Value], value: Value, found: Streams) -> bool:
    """Return whether each part of a value shares a stream."""
    parts = found.get(value, frozenset())
    return bool(parts) and not any(streams_of.isdisjoint(part) for part in parts)


def _new(value: Value) -> frozenset[frozenset[Value]]:
    return frozenset([frozenset([value])])


def _summed(parts: list[frozenset[frozenset[Value]]]) -> frozenset[frozenset[Value]]:
    if not parts:
        return frozenset()
    first, *others = sorted(parts, key=len, reverse=True)
    # Added to parts, a tensor of one part is added to each.
    if any(len(other) > 1 and other != first for other in others) or len(first) > _PARTS:
        return frozenset([frozenset().union(*first, *(x for other in others for x in other))])
    more = frozenset().union(*(x for other in others if len(other) == 1 for x in other))
    return frozenset(part | more for part in first)


def _joins_positions(call: Call) -> bool:
    axis = getattr(call.operation, "axis", None)
    if name_of(call.operation) != "Concatenate" or not isinstance(axis, int):
        return False
    rank = len(call.outputs[0].shape)
    return axis % rank not in (0, rank - 1)


def free_values(graph: Graph) -> set[Value]:
    """Return the values that no input of the model reaches."""
    found: set[Value] = set()
    for call in graph.calls:
        found.update(x for x in call.inputs if x.producer is None and x.constant is not None)
        if call.inputs and found.issuperset(call.inputs):
            found.update(call.outputs)
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
        if does(call.operation, "scale") and inputs:
            inputs = [max(inputs, key=lambda x: math.prod(size or 1 for size in x.shape))]
        is_matrix = is_projection(call.operation) or isinstance(call.operation, CONVOLUTIONS)
        if is_matrix:
            matrices.append(call)
        is_known = is_matrix or does(call.operation, *_SCALES, *_REARRANGES, "activate")
        return inputs if is_known and len(inputs) == 1 else []

    for start in walk_back(value, follow, limit=_STEPS):
        yield one_stream(start, found), list(matrices)


def _of(value: Value, found: Streams) -> frozenset[frozenset[Value]]:
    if value.producer is None and value.constant is not None:
        return frozenset()
    return found.setdefault(value, _new(value))


def _by_channel(operation: Operation) -> bool:
    return is_depthwise(operation) and not isinstance(operation, SEPARABLE)
