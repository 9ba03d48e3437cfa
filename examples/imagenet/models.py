"""The published sizes of ViT, ConvNeXt and ConvMixer for training on ImageNet.

They take and return what the models of common/models.py do. Unlike the published ViT, ours has
average pooling in place of a class token, fixed sin-cos positions (as in the plain ViT baselines of
arXiv:2205.01580), and a LayerNorm after the patches. Initial weights are Glorot's, or those of
--init.
"""

import functools

import keras
import numpy as np

from common.blocks import LayerScale, residual
from common.models import convmixer, depthwise, glorot, head, mlp, sub_streams, vit
from keras_mimetic._numerics.random import fold_in
from keras_mimetic.layers import MimeticMLPBlock


def convnext(
    image_shape,
    classes,
    *,
    depths,
    widths,
    kernel_size=7,
    layer_scale=1e-6,
    drop_path=0.0,
    kernel_initializer=glorot,
    block=MimeticMLPBlock,
    seed=0,
):
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
        x = _downsample(x, stage, width, kernel_initializer(seed=next(seeds)))
        for _ in range(depth):
            y = depthwise(x, kernel_size, kernel_initializer, seeds)
            y = mlp(y, 4 * width, kernel_initializer, seeds, block)
            y = LayerScale(layer_scale)(y)
            x = residual(x, y, drop_path * number / last, fold_in(seed, 0, number))
            number += 1
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    outputs = head(x, classes, kernel_initializer(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="convnext")


def _downsample(x, stage, width, initializer):
    """Project patches of 4 pixels in the first stage, of 2 after a norm in the others."""
    size = 2 if stage else 4
    if stage:
        x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.Conv2D(width, size, strides=size, kernel_initializer=initializer)(x)
    return x if stage else keras.layers.LayerNormalization(epsilon=1e-6)(x)


def _convmixer(image_shape, classes, *, drop_path=0.0, **size):
    return convmixer(image_shape, classes, **size)  # `recipe.check` has seen to the drop path.


# The sizes as published: DeiT's ViTs (arXiv:2012.12877), timm's ConvNeXt-Atto, the ConvNeXt
# paper's Tiny, and a ConvMixer of width 512 and depth 12. The last two are for trials.
MODELS = {
    "vit_ti16": functools.partial(vit, patch=16, width=192, depth=12, heads=3),
    "vit_s16": functools.partial(vit, patch=16, width=384, depth=12, heads=6),
    "convnext_atto": functools.partial(convnext, depths=(2, 2, 6, 2), widths=(40, 80, 160, 320)),
    "convnext_tiny": functools.partial(convnext, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
    "convmixer_512_12": functools.partial(_convmixer, patch=14, width=512, depth=12, kernel_size=9),
    "vit_trial": functools.partial(vit, patch=16, width=32, depth=2, heads=2),
    "convnext_trial": functools.partial(convnext, depths=(1, 1), widths=(16, 32)),
}


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class ImageBank(keras.layers.Layer):
    """Look up images by number, among a few random ones that stay on the device.

    Input: integers (batch,). Output: images (batch, height, width, 3), integers in [0, 255].
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
