"""The depth of layers in a network."""

import keras

from keras_mimetic._tracing.graph import Graph
from keras_mimetic._tracing.symbol import Value


def depths(layers: list[keras.Layer], graph: Graph) -> dict[keras.Layer, float]:
    """Return the depth of each layer among `layers`, from 0 to 1.

    It is proportional to the number of others on the longest path to its first call. Layers
    without a call follow all others.
    """
    wanted = set(layers)
    ranks: dict[keras.Layer, int] = {}
    reached: dict[Value, int] = {}

    for call in graph.calls:
        rank = max((reached.get(value, 0) for value in call.inputs), default=0)
        if call.operation in wanted:
            ranks.setdefault(call.operation, rank)
            rank += 1
        for value in call.outputs:
            reached[value] = rank
    last = max(ranks.values(), default=-1)
    for layer in layers:
        if layer not in ranks:
            last += 1
            ranks[layer] = last
    return {layer: rank / max(1, last) for layer, rank in ranks.items()}
