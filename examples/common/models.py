"""The small image models of the examples: ViT, MLP-Mixer, ConvMixer and a ConvNeXt-like net.

Arguments of all models:

- their size (`width`, `depth`, `patch`, ...);
- `kernel_initializer`, which returns an initializer for a seed (a class with a `seed` argument
  does) for every kernel but the first of an MLP, which `MimeticMLPBlock` samples;
- `block`, the class of their MLPs (the ConvMixer has none);
- `seed`: each weight has a random stream of its own, so that two models with equal seeds differ
  only where their initializers do.

They take images of integers in [0, 255] and return logits. None of them has mimetic structure:
`keras_mimetic.initialize` writes it.
"""

import functools
import itertools

import keras

from common.blocks import ClassToken, LayerScale, LearnedPositions, SinCosPositions, residual
from keras_mimetic._numerics.random import fold_in
from keras_mimetic.initializers import MimeticMean
from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention

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
    positions="sin_cos",
    stem_norm=True,
    pool="average",
    drop_path=0.0,
    kernel_initializer=glorot,
    block=MimeticMLPBlock,
    seed=0,
):
    """Return a Vision Transformer.

    `positions` is `"sin_cos"` (fixed) or the name of a Keras initializer of a learned table, `pool`
    is `"average"`, `"class_token"` or `"flatten"`. `stem_norm` adds a LayerNorm after the stem,
    where patch embeddings are small beside sines and cosines. `drop_path` is the last layer's
    probability of stochastic depth, which rises from 0.
    """
    seeds = sub_streams(seed)
    inputs, x = stem(image_shape, patch, width, kernel_initializer(seed=next(seeds)))
    if stem_norm:
        x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    if positions == "sin_cos":
        x = SinCosPositions()(x)
    x = keras.layers.Reshape((-1, width))(x)
    if pool == "class_token":
        x = ClassToken()(x)
    if positions != "sin_cos":
        x = LearnedPositions(_seeded(positions, fold_in(seed, 1)))(x)
    for number in range(depth):
        dropped = drop_path * number / max(1, depth - 1)
        y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        y = attention(heads, width // heads, kernel_initializer, seed=next(seeds))(y, y)
        x = residual(x, y, dropped, fold_in(seed, 0, number, 0))
        y = mlp(x, 4 * width, kernel_initializer, seeds, block)
        x = residual(x, y, dropped, fold_in(seed, 0, number, 1))
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    if pool == "class_token":
        x = x[:, 0]
    else:
        pooling = keras.layers.GlobalAveragePooling1D if pool == "average" else keras.layers.Flatten
        x = pooling()(x)
    return keras.Model(inputs, head(x, classes, kernel_initializer(seed=next(seeds))), name="vit")


def _seeded(initializer, seed):
    """Return a Keras initializer by its name, or its configuration, with a seed."""
    config = keras.initializers.get(initializer).get_config()
    make = type(keras.initializers.get(initializer))
    return make(**{**config, "seed": seed % 2**31})


def mixer(
    image_shape,
    classes,
    *,
    patch=4,
    width=64,
    depth=4,
    kernel_initializer=glorot,
    block=MimeticMLPBlock,
    seed=0,
):
    """Return an MLP-Mixer: an MLP over the patches, then one over the channels."""
    seeds = sub_streams(seed)
    inputs, x = stem(image_shape, patch, width, kernel_initializer(seed=next(seeds)))
    x = keras.layers.Reshape((-1, width))(x)
    tokens = x.shape[1]
    mixing = functools.partial(mlp, kernel_initializer=kernel_initializer, seeds=seeds, block=block)
    for number in range(depth):
        y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        y = keras.layers.Permute((2, 1))(y)
        y = mixing(y, 2 * tokens, norm=None, name=f"token_mlp_{number}")
        x = keras.layers.Add()([x, keras.layers.Permute((2, 1))(y)])
        x = keras.layers.Add()([x, mixing(x, 4 * width, name=f"channel_mlp_{number}")])
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    outputs = head(x, classes, kernel_initializer(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="mixer")


def convmixer(
    image_shape,
    classes,
    *,
    patch=4,
    width=96,
    depth=4,
    kernel_size=5,
    kernel_initializer=glorot,
    seed=0,
):
    """Return a ConvMixer."""
    seeds = sub_streams(seed)
    inputs, x = stem(image_shape, patch, width, kernel_initializer(seed=next(seeds)))
    x = _activate_and_normalize(x)
    for block in range(depth):
        y = depthwise(x, kernel_size, kernel_initializer, seeds)
        x = keras.layers.Add()([x, _activate_and_normalize(y)])
        initializer = kernel_initializer(seed=next(seeds))
        x = keras.layers.Conv2D(
            width, 1, kernel_initializer=initializer, name=f"pointwise_{block}"
        )(x)
        x = _activate_and_normalize(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = head(x, classes, kernel_initializer(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="convmixer")


def convnext(
    image_shape,
    classes,
    *,
    patch=4,
    width=64,
    depth=4,
    kernel_size=5,
    norm="layer_norm",
    layer_scale=None,
    kernel_initializer=glorot,
    block=MimeticMLPBlock,
    seed=0,
):
    """Return a ConvNeXt of one stage: depthwise convolution, norm, MLP, residual.

    `norm` is `"layer_norm"`, as in the original, `"batch_norm"` or `None`. `layer_scale` is the
    initial value of a trainable factor per channel of each branch, 1e-6 in the original.
    """
    seeds = sub_streams(seed)
    inputs, x = stem(image_shape, patch, width, kernel_initializer(seed=next(seeds)))
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    for _ in range(depth):
        y = depthwise(x, kernel_size, kernel_initializer, seeds)
        if norm == "batch_norm":
            y = _batch_norm(y)
        before = norm if norm == "layer_norm" else None
        y = mlp(y, 4 * width, kernel_initializer, seeds, block, norm=before)
        if layer_scale is not None:
            y = LayerScale(layer_scale)(y)
        x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    outputs = head(x, classes, kernel_initializer(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="convnext")


MODELS = {"convnext": convnext, "vit": vit, "convmixer": convmixer, "mixer": mixer}


def attention(heads, key_dim, kernel_initializer=glorot, *, seed):
    """Return Keras's attention layer with a random stream for each projection."""
    return MimeticMultiHeadAttention(
        heads,
        key_dim,
        query_key=None,
        value_output=None,
        kernel_initializer=kernel_initializer(),
        seed=seed,
    )


def mlp(
    x, hidden, kernel_initializer, seeds, block=MimeticMLPBlock, *, norm="layer_norm", name=None
):
    """Apply a norm and an MLP without structure, whose output is as wide as its input."""
    layer = block(
        hidden,
        mean=0,
        hidden_bias=0,
        norm=norm,
        fc2_initializer=kernel_initializer(),
        seed=next(seeds),
        name=name,
    )
    return layer(x)


def depthwise(x, kernel_size, kernel_initializer, seeds):
    """Apply a depthwise convolution that keeps the size of the image."""
    initializer = kernel_initializer(seed=next(seeds))
    convolution = keras.layers.DepthwiseConv2D(
        kernel_size, padding="same", depthwise_initializer=initializer
    )
    return convolution(x)


def sub_streams(seed):
    """Yield independent seeds."""
    return (fold_in(seed, number) for number in itertools.count())


def stem(image_shape, patch, width, initializer):
    """Return the input of a model and its grid of patch embeddings."""
    inputs = keras.Input(image_shape, dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(width, patch, strides=patch, kernel_initializer=initializer)(x)
    return inputs, x


def _activate_and_normalize(x):
    return _batch_norm(keras.layers.Activation("gelu")(x))


def _batch_norm(x):
    # ConvMixer's own constants. Keras's defaults (0.99, 1e-3) follow too slowly in short training
    # and damp the small outputs of untrained convolutions.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def head(x, classes, initializer):
    # Logits in float32 also under mixed precision.
    return keras.layers.Dense(classes, kernel_initializer=initializer, dtype="float32")(x)
