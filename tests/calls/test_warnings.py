"""What the calls do where warnings are errors, as in many companies' tests."""

import warnings

import keras
import numpy as np
from keras import layers

import keras_mimetic
from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention, MimeticStateSpace


def make():
    inputs = keras.Input((6, 16))
    x = layers.LayerNormalization()(inputs)
    x = inputs + layers.MultiHeadAttention(2, 8)(x, x)
    x = layers.Dense(16)(layers.Dense(32, "gelu")(layers.BatchNormalization()(x)))
    x = layers.DepthwiseConv1D(3, padding="same")(x)
    x = MimeticMLPBlock(32, norm="layer_norm")(MimeticStateSpace(4, 16)(x))
    return keras.Model(inputs, MimeticMultiHeadAttention(2, 8)(x, x))


def test_no_call_warns():
    with warnings.catch_warnings():
        # Also what pyproject.toml ignores.
        warnings.simplefilter("error")
        model = make()
        model.compile("adam", "mse")
        for control in (False, True):
            assert keras_mimetic.initialize(model, seed=0, control=control).written
        measured = keras_mimetic.measure(model)
        assert str(measured)
        data = np.ones((4, 6, 16), "float32")
        logger = keras_mimetic.callbacks.StructureLogger()
        model.fit(data, data, verbose=0, callbacks=[logger])
        keras_mimetic.reset(model, 0)
