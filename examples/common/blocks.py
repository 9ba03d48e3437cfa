"""Layers of the examples' models that Keras does not have."""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class SinCosPositions(keras.layers.Layer):
    """Add fixed two-dimensional sin-cos position embeddings to a feature map.

    Sine and cosine of row and column have a quarter of the channels each, at wavelengths from 2 pi
    to 20,000 pi, as in MoCo v3's ViT (arXiv:2104.02057).
    """

    def build(self, input_shape):
        _, rows, columns, width = input_shape
        frequencies = 1e-4 ** np.linspace(0, 1, width // 4, endpoint=False)
        row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        angles = [np.multiply.outer(axis, frequencies) for axis in (row, column)]
        table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=-1)
        self.table = table.astype("float32")
        self.built = True

    def call(self, inputs):
        return inputs + keras.ops.cast(self.table, inputs.dtype)


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class LearnedPositions(keras.layers.Layer):
    """Add a trainable position embedding to a sequence of known length."""

    def __init__(self, initializer="uniform", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        self.embeddings = self.add_weight(
            shape=input_shape[1:], initializer=self.initializer, name="embeddings"
        )
        self.built = True

    def call(self, inputs):
        return inputs + self.embeddings

    def get_config(self):
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "initializer": initializer}


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class ClassToken(keras.layers.Layer):
    """Prepend a trainable token, initially zero, to each sequence."""

    def build(self, input_shape):
        self.token = self.add_weight(
            shape=(1, 1, input_shape[-1]), initializer="zeros", name="token"
        )
        self.built = True

    def call(self, inputs):
        shape = (keras.ops.shape(inputs)[0], 1, inputs.shape[-1])
        return keras.ops.concatenate([keras.ops.broadcast_to(self.token, shape), inputs], axis=1)


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class LayerScale(keras.layers.Layer):
    """Multiply each channel by a trainable number that starts small (arXiv:2103.17239)."""

    def __init__(self, start=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        self.gamma = self.add_weight(
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.start),
            name="gamma",
        )
        self.built = True

    def call(self, inputs):
        return inputs * self.gamma

    def get_config(self):
        return {**super().get_config(), "start": self.start}


def residual(x, y, drop_path, seed):
    """Return x + y. In training each example drops y with probability `drop_path`."""
    if drop_path:
        # One draw per example, as in stochastic depth (arXiv:1603.09382).
        shape = (None,) + (1,) * (len(y.shape) - 1)
        y = keras.layers.Dropout(drop_path, noise_shape=shape, seed=seed % 2**31)(y)
    return keras.layers.Add()([x, y])
