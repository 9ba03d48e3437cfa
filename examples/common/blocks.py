"""Layers that the examples' models share and Keras does not have."""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class SinCosPositions(keras.layers.Layer):
    """Adds fixed two-dimensional sin-cos position embeddings to a feature map.

    A quarter of the channels each for sin and cos of row and column, at
    wavelengths from 2 pi to 20,000 pi, as in MoCo v3's ViT (arXiv:2104.02057).
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
    """Adds a trainable embedding of its place to each element of a sequence of known length."""

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
    """Puts a trainable token, zero at first, before each sequence."""

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
    """Multiplies each channel by a trainable number that starts small (arXiv:2103.17239)."""

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


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class ImageBank(keras.layers.Layer):
    """Images by number, from a few random ones that stay on the device.

    Input: integers (batch,); output: images (batch, height, width, 3), integers in
    [0, 255]. A number stands for the same image whenever it comes.
    """

    def __init__(self, image_size, count=64, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.image_size, self.count, self.seed = image_size, count, seed

    def build(self, input_shape):
        shape = (self.count, self.image_size, self.image_size, 3)
        images = np.random.default_rng(self.seed).integers(0, 256, shape)
        self.images = self.add_weight(
            shape=shape,
            dtype="uint8",
            initializer=lambda shape, dtype: keras.ops.convert_to_tensor(images, dtype),
            trainable=False,
            name="images",
        )
        self.built = True

    def call(self, inputs):
        return keras.ops.take(self.images, inputs % self.count, axis=0)

    def compute_output_spec(self, inputs):
        shape = (*inputs.shape, self.image_size, self.image_size, 3)
        return keras.KerasTensor(shape, dtype="uint8")

    def get_config(self):
        own = {name: getattr(self, name) for name in ("image_size", "count", "seed")}
        return {**super().get_config(), **own}


def residual(x, y, drop_path, seed):
    """The sum x + y, where training leaves y out of each example with probability `drop_path`."""
    if drop_path:
        # One draw an example, as stochastic depth wants it (arXiv:1603.09382).
        shape = (None,) + (1,) * (len(y.shape) - 1)
        y = keras.layers.Dropout(drop_path, noise_shape=shape, seed=seed % 2**31)(y)
    return keras.layers.Add()([x, y])
