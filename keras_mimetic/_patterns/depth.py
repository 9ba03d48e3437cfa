"""How deep in the network layers are."""

from typing import Any

from keras_mimetic._tracing.graph import Graph
from keras_mimetic._tracing.symbol import Value


def depths(layers: list[Any], graph: Graph) -> dict[Any, float]:
    """Return the depth of each layer among `layers`, from 0 to 1.

    A layer's rank is the number of others on the longest path that leads to its
    first call, so that parallel branches are side by side; the last ranks have
    depth 1. Layers without any call are put after all others, in their own order.
    """
    wanted = set(layers)
    ranks: dict[Any, int] = {}
    reached: dict[int, int] = {}

    def rank_of(value: Value) -> int:
        known = reached.get(id(value), 0)
        return max([known, *(rank_of(other) for other in value.after)])

    for call in graph.calls:
        rank = max((rank_of(value) for value in call.inputs), default=0)
        if call.operation in wanted:
            ranks.setdefault(call.operation, rank)
            rank += 1
        for value in call.outputs:
            reached[id(value)] = rank
    last = max(ranks.values(), default=-1)
    for layer in layers:
        if layer not in ranks:
            last += 1
            ranks[layer] = last
    return {layer: rank / max(1, last) for layer, rank in ranks.items()}
