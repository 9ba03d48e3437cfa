"""The small image models of the examples: ViT, ConvMixer and a ConvNeXt-like net.

Every model takes

- its size (`width`, `depth`, `patch`, ...);
- `mlp_mean`, the mean of each MLP's first matrix in standard deviations:
  0 for no structure, "auto" for the package's default where it stands;
- `kernel_initializer`, which makes an initializer from a seed (a class with a
  `seed` argument does) for every other kernel;
- `seed`: each weight draws from a sub-stream of its own, so that two models
  with equal seeds differ only where their initializers do.

They take images of integers in [0, 255] and give logits.
"""

import functools
import itertools

import keras
import numpy as np

from keras_mimetic.draws import subseed
from keras_mimetic.initializers import MimeticMean
from keras_mimetic.layers import MimeticMLPBlock

# Keras's own default, Glorot uniform, but equal on every backend.
glorot = functools.partial(MimeticMean, mean=0.0)


def vit(
    image_shape,
    classes,
    *,
    patch=4,
    width=64,
    depth=4,
    heads=2,
    mlp_mean="auto",
    kernel_initializer=glorot,
    seed=0,
):
    """A Vision Transformer with fixed sin-cos positions and average pooling."""
    seeds = _sub_streams(seed)
    inputs, x = _stem(image_shape, patch, width, kernel_initializer(seed=next(seeds)))
    # Without it the embeddings of patches would be small beside those of places.
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = SinCosPositions()(x)
    x = keras.layers.Reshape((-1, width))(x)
    for _ in range(depth):
        y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        attention = keras.layers.MultiHeadAttention(heads, width // heads)
        y = attention(y, y)
        _draw_projections(attention, kernel_initializer, seeds)
        x = keras.layers.Add()([x, y])
        x = MimeticMLPBlock(
            4 * width, mean=mlp_mean, norm="layer_norm", residual=True, seed=next(seeds)
        )(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, _head(x, classes, kernel_initializer(seed=next(seeds))), name="vit")


def convmixer(
    image_shape,
    classes,
    *,
    patch=4,
    width=96,
    depth=4,
    kernel_size=5,
    mlp_mean="auto",
    kernel_initializer=glorot,
    seed=0,
):
    """A ConvMixer; its 1x1 convolutions stand in for the first MLP matrix.

    It has BatchNormalization after each activation, so no LayerNorm hides the
    mean: "auto" is `MimeticMean`'s own default.
    """
    seeds = _sub_streams(seed)
    first = MimeticMean if mlp_mean == "auto" else functools.partial(MimeticMean, mlp_mean)
    inputs, x = _stem(image_shape, patch, width, kernel_initializer(seed=next(seeds)))
    x = _activate_and_normalize(x)
    for _ in range(depth):
        y = keras.layers.DepthwiseConv2D(
            kernel_size,
            padding="same",
            depthwise_initializer=kernel_initializer(seed=next(seeds)),
        )(x)
        x = keras.layers.Add()([x, _activate_and_normalize(y)])
        x = keras.layers.Conv2D(width, 1, kernel_initializer=first(seed=next(seeds)))(x)
        x = _activate_and_normalize(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = _head(x, classes, kernel_initializer(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="convmixer")


def convnext(
    image_shape,
    classes,
    *,
    patch=4,
    width=64,
    depth=4,
    kernel_size=5,
    mlp_mean="auto",
    kernel_initializer=glorot,
    seed=0,
):
    """A ConvNeXt of one stage: depthwise convolution, LayerNorm, MLP, residual."""
    seeds = _sub_streams(seed)
    inputs, x = _stem(image_shape, patch, width, kernel_initializer(seed=next(seeds)))
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    for _ in range(depth):
        y = keras.layers.DepthwiseConv2D(
            kernel_size,
            padding="same",
            depthwise_initializer=kernel_initializer(seed=next(seeds)),
        )(x)
        y = MimeticMLPBlock(4 * width, mean=mlp_mean, norm="layer_norm", seed=next(seeds))(y)
        x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    outputs = _head(x, classes, kernel_initializer(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="convnext")


MODELS = {"convnext": convnext, "vit": vit, "convmixer": convmixer}


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


def _sub_streams(seed):
    return (subseed(seed, number) for number in itertools.count())


def _stem(image_shape, patch, width, initializer):
    """Images to a grid of patch embeddings."""
    inputs = keras.Input(image_shape, dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(width, patch, strides=patch, kernel_initializer=initializer)(x)
    return inputs, x


def _activate_and_normalize(x):
    # ConvMixer's own constants; Keras's defaults (0.99, 1e-3) follow too slowly
    # in short training and damp the small outputs of fresh convolutions.
    normalization = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    return normalization(keras.layers.Activation("gelu")(x))


def _head(x, classes, initializer):
    # Logits in float32 also under mixed precision.
    return keras.layers.Dense(classes, kernel_initializer=initializer, dtype="float32")(x)


def _draw_projections(attention, kernel_initializer, seeds):
    """Draws the four projections of a built attention layer, each by itself.

    Through its one `kernel_initializer` argument an integer seed would give
    query and key the same weights.
    """
    inward = (attention.query_dense, attention.key_dense, attention.value_dense)
    for dense, inputs, outputs in (
        *((dense, (0,), (1, 2)) for dense in inward),
        (attention.output_dense, (0, 1), (2,)),
    ):
        initializer = kernel_initializer(seed=next(seeds), input_axes=inputs, output_axes=outputs)
        dense.kernel.assign(initializer(dense.kernel.shape, dense.kernel.dtype))
