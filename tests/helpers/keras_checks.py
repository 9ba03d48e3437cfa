"""What tests of Keras objects share; the one place that reaches into Keras's internals."""

import keras
import pytest
from keras.src import testing


class _Case(testing.TestCase):
    def runTest(self):  # so that unittest can make an instance
        raise NotImplementedError


def run_layer_test(layer_class, init_kwargs, **kwargs):
    """Keras's checks of a layer: config, build, call, dtypes, training, saving."""
    _Case().run_layer_test(layer_class, init_kwargs, **kwargs)


def run_class_serialization_test(instance):
    """Keras's checks that config and serialized form give the same object again."""
    return _Case().run_class_serialization_test(instance)


def traced(function):
    """Runs `function` inside a trace, where the backend has one."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function)()
    pytest.skip("torch runs eagerly")
