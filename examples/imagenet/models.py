"""The published sizes of ViT, ConvNeXt and ConvMixer for training on ImageNet.

Unlike the published ViT, ours has average pooling in place of a class token, fixed sin-cos
positions (as in the plain ViT baselines of arXiv:2205.01580), and a LayerNorm after the patches.
"""

import functools

import keras

from common.blocks import LayerScale, residual
from common.models import convmixer, depthwise, glorot, head, mlp, sub_streams, vit
from keras_mimetic._numerics.random import fold_in


def convnext(image_shape, classes, *, depths, widths, drop_path=0.0, seed=0):
    """Return a ConvNeXt (arXiv:2201.03545): stages of blocks, each with half the resolution.

    Args:
        depths: Blocks of each stage.
        widths: Channels of each stage.
    """
    seeds = sub_streams(seed)
    inputs = keras.Input(image_shape, dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    number, last = 0, max(1, sum(depths) - 1)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        x = _downsample(x, stage, width, glorot(seed=next(seeds)))
        for _ in range(depth):
            y = depthwise(x, 7, glorot, seeds)
            y = mlp(y, 4 * width, glorot, seeds)
            y = LayerScale()(y)
            x = residual(x, y, drop_path * number / last, fold_in(seed, 0, number))
            number += 1
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    outputs = head(x, classes, glorot(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="convnext")


def _downsample(x, stage, width, initializer):
    """Project patches of 4 pixels in the first stage, of 2 after a norm in the others."""
    size = 2 if stage else 4
    if stage:
        x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.Conv2D(width, size, strides=size, kernel_initializer=initializer)(x)
    return x if stage else keras.layers.LayerNormalization(epsilon=1e-6)(x)


# The sizes as published: DeiT's ViTs (arXiv:2012.12877), timm's ConvNeXt-Atto, the ConvNeXt
# paper's Tiny, and a ConvMixer of width 512 and depth 12. The last two are for trials.
MODELS = {
    "vit_ti16": functools.partial(vit, patch=16, width=192, depth=12, heads=3),
    "vit_s16": functools.partial(vit, patch=16, width=384, depth=12, heads=6),
    "convnext_atto": functools.partial(convnext, depths=(2, 2, 6, 2), widths=(40, 80, 160, 320)),
    "convnext_tiny": functools.partial(convnext, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
    "convmixer_512_12": functools.partial(convmixer, patch=14, width=512, depth=12, kernel_size=9),
    "vit_trial": functools.partial(vit, patch=16, width=32, depth=2, heads=2),
    "convnext_trial": functools.partial(convnext, depths=(1, 1), widths=(16, 32)),
}
