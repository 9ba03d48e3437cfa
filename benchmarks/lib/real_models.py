"""Small sizes of models that people train: those of KerasHub and Keras itself, and well-known ones.

They have their authors' initial weights, drawn from Keras's global seed, take images of integers in
[0, 255] (or bytes of text) and return logits. Dropout and stochastic depth are off, as in all
models compared here.
"""

import math

import keras
from keras import layers

from common.blocks import LayerScale, LearnedPositions


def hub_vit(image_shape, classes):
    """Return KerasHub's ViT: class token, learned positions (normal, 0.02), norm before each part.

    Width 64, 4 blocks, 64 patches of 4 pixels.
    """
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape, patch_size=4, num_layers=4, num_heads=2, hidden_dim=64, mlp_dim=256
    )
    return classifier(image_shape, lambda x: backbone(x)[:, 0], classes)


def hub_swin(image_shape, classes):
    """Return KerasHub's Swin Transformer: 16 x 16 and 8 x 8 patches, windows of 4 x 4."""
    import keras_hub

    backbone = keras_hub.models.SwinTransformerBackbone(
        image_shape,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(1, 2),
        window_size=4,
        patch_size=2,
        drop_path=0.0,
    )
    pool = layers.GlobalAveragePooling1D()
    return classifier(image_shape, lambda x: pool(backbone(x)), classes)


def distilbert(image_shape, classes):
    """Return KerasHub's DistilBERT on bytes: a norm after each part, learned positions.

    Width 64, 4 blocks; all kernels from a truncated normal of 0.02.
    """
    import keras_hub

    backbone = keras_hub.models.DistilBertBackbone(
        vocabulary_size=256,
        num_layers=4,
        num_heads=2,
        hidden_dim=64,
        intermediate_dim=256,
        dropout=0.0,
        max_sequence_length=math.prod(image_shape),
    )
    inputs = keras.Input(image_shape, dtype="uint8")
    tokens = keras.ops.cast(layers.Reshape((-1,))(inputs), "int32")
    x = backbone({"token_ids": tokens, "padding_mask": keras.ops.ones_like(tokens)})
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling1D()(x)))


def mobilenet(image_shape, classes):
    """Return keras.applications' MobileNet at half of its width: depthwise convolutions of 3.

    Its moving statistics have a momentum of 0.9. With Keras's 0.99, runs of a few hundred steps
    end at chance on test images.
    """
    backbone = keras.applications.MobileNet(
        image_shape, alpha=0.5, include_top=False, weights=None, pooling="avg"
    )
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    return classifier(image_shape, backbone, classes)


def convnext_stages(image_shape, classes):
    """Return a ConvNeXt of four stages with LayerScale 1e-6, at 16, 8, 4 and 2 pixels.

    Initial weights as published: kernels from a truncated normal of 0.02.
    """
    normal = keras.initializers.TruncatedNormal(stddev=0.02)

    def body(x):
        for stage, (width, depth) in enumerate(zip((32, 64, 128, 256), (2, 2, 4, 2), strict=True)):
            x = layers.LayerNormalization(epsilon=1e-6)(x) if stage else x
            x = layers.Conv2D(width, 2, strides=2, kernel_initializer=normal)(x)
            x = x if stage else layers.LayerNormalization(epsilon=1e-6)(x)
            for _ in range(depth):
                y = layers.DepthwiseConv2D(7, padding="same", depthwise_initializer=normal)(x)
                y = layers.LayerNormalization(epsilon=1e-6)(y)
                y = layers.Dense(4 * width, "gelu", kernel_initializer=normal)(y)
                y = layers.Dense(width, kernel_initializer=normal)(y)
                x = layers.Add()([x, LayerScale(1e-6)(y)])
        return layers.LayerNormalization(epsilon=1e-6)(layers.GlobalAveragePooling2D()(x))

    return classifier(image_shape, body, classes)


def cct(image_shape, classes):
    """Return a Compact Convolutional Transformer as in the Keras tutorial.

    Two convolutions with pooling make 64 tokens of width 64; learned positions (uniform in
    +-0.05), two blocks, and attention pooling.
    """

    def body(x):
        for width in (32, 64):
            x = layers.Conv2D(
                width,
                3,
                padding="same",
                use_bias=False,
                activation="relu",
                kernel_initializer="he_normal",
            )(x)
            x = layers.MaxPooling2D(3, 2, padding="same")(x)
        x = layers.Reshape((-1, 64))(x)
        x = LearnedPositions("uniform")(x)
        for _ in range(2):
            y = layers.LayerNormalization(epsilon=1e-5)(x)
            x = layers.Add()([x, layers.MultiHeadAttention(num_heads=2, key_dim=64)(y, y)])
            y = layers.LayerNormalization(epsilon=1e-5)(x)
            y = layers.Dense(64, keras.activations.gelu)(y)
            x = layers.Add()([x, layers.Dense(64, keras.activations.gelu)(y)])
        x = layers.LayerNormalization(epsilon=1e-5)(x)
        weights = layers.Softmax(axis=1)(layers.Dense(1)(x))
        return keras.ops.sum(weights * x, axis=1)

    return classifier(image_shape, body, classes)


def classifier(image_shape, body, classes):
    """Return a model of `body` on scaled images, with one linear layer after it."""
    inputs = keras.Input(image_shape, dtype="uint8")
    x = body(layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    return keras.Model(inputs, layers.Dense(classes)(x))


MODELS = {
    "hub_vit": hub_vit,
    "hub_swin": hub_swin,
    "distilbert": distilbert,
    "cct": cct,
    "convnext_stages": convnext_stages,
    "mobilenet": mobilenet,
}
