"""Tracing of a model: one call on symbolic tensors gives its graph."""

import keras

from keras_mimetic._tracing.graph import Graph
from keras_mimetic._tracing.held_weights import set_biases
from keras_mimetic._tracing.keras_internals import (
    own_variables,
    preserve_global_state,
    preserve_model_state,
    recording_calls,
    sublayers,
)
from keras_mimetic._tracing.recorder import Recorder, is_composite
from keras_mimetic._tracing.symbol import Nested, Symbol


def trace(model: keras.Layer, inputs: Nested = None) -> Graph:
    """Return the flat graph of a built model or layer, without changing it."""
    graph = Graph()
    if not is_composite(model):
        return graph
    layers = sublayers(model)
    owners = {id(weight): layer for layer in layers for weight in own_variables(layer)}
    recorder = Recorder(graph, owners)
    with preserve_global_state(), preserve_model_state(model), recording_calls(), recorder.on():
        outputs = recorder.model(model, inputs)
        flat = keras.tree.flatten(outputs)
        set_biases(graph, owners)
        graph.outputs = [x.value for x in flat if isinstance(x, Symbol)]
    return graph
