"""Traces a model: calls it once on symbolic tensors and hands back its graph."""

import threading
from typing import Any

import keras

from keras_mimetic._tracing.graph import Graph
from keras_mimetic._tracing.keras_internals import preserve_model_state, recording_calls
from keras_mimetic._tracing.recorder import Recorder, is_composite
from keras_mimetic._tracing.symbol import Symbol

# Keras's classes are listened to, and a model's attributes put back, by one at a time.
_lock = threading.RLock()


def trace(model: Any, inputs: Any = None) -> Graph:
    """The flat graph of a built model (or layer); it is left as it was.

    Args:
        model: A built Keras model or layer.
        inputs: What it is called with, if that is not known from how it was
            built (see `keras_mimetic.initialize`).
    """
    graph = Graph()
    if not is_composite(model):
        return graph
    recorder = Recorder(graph)
    with _lock, preserve_model_state(model), recording_calls(), recorder.on():
        outputs = recorder.model(model, inputs)
        flat = keras.tree.flatten(outputs)
        graph.outputs = [x.value for x in flat if isinstance(x, Symbol)]
    return graph
