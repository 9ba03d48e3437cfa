"""A structure that is not part of the package, and models that have only it.

See "candidates" in PROTOCOL.md.
"""

import keras
import numpy as np
from keras import layers

from lib.real_models import classifier


def partial_identity(model):
    """Make the first filters of each square convolution pass its inputs on.

    Of a convolution with n inputs and at least n filters, the first n become identities and the
    others stay, as in the CIFAR-10 speed records of Jordan (2024, arXiv:2404.00498). The first
    convolution, on three colors, stays as it is.
    """
    for layer in model._flatten_layers():
        if not isinstance(layer, layers.Conv2D) or layer.kernel_size == (1, 1):
            continue
        kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
        height, width, inputs, filters = kernel.shape
        if height % 2 and width % 2 and 3 < inputs <= filters:
            kernel[..., :inputs] = 0
            kernel[height // 2, width // 2, :, :inputs] = np.eye(inputs)
            layer.kernel.assign(kernel)


def resnet(image_shape, classes):
    """Return a ResNet-14 for CIFAR: three stages of two blocks with 16, 32 and 64 channels.

    He et al. (2016), with a projection where the width changes, and Keras's default kernels, as in
    keras.applications. Batch norms have a momentum of 0.9, as in `mobilenet`.
    """

    def convolve(x, width, strides=1, size=3):
        x = layers.Conv2D(width, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    def body(x):
        x = layers.ReLU()(convolve(x, 16))
        for width, strides in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
            y = layers.ReLU()(convolve(x, width, strides))
            y = convolve(y, width)
            same = x.shape[-1] == width
            x = layers.ReLU()(layers.Add()([x if same else convolve(x, width, strides, 1), y]))
        return layers.GlobalAveragePooling2D()(x)

    return classifier(image_shape, body, classes)


def hub_resnet(image_shape, classes):
    """Return KerasHub's ResNet with four bottleneck blocks, at 8 x 8 and 4 x 4 pixels."""
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2],
        block_type="bottleneck_block",
        image_shape=image_shape,
    )
    pool = layers.GlobalAveragePooling2D()
    return classifier(image_shape, lambda x: pool(backbone(x)), classes)


def vgg(image_shape, classes):
    """Return a network of six convolutions without residual connections, with batch norms."""

    def body(x):
        for width in (16, 32, 64):
            for _ in range(2):
                x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
                x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
                x = layers.ReLU()(x)
            x = layers.MaxPooling2D()(x)
        return layers.GlobalAveragePooling2D()(x)

    return classifier(image_shape, body, classes)


MODELS = {"resnet": resnet, "hub_resnet": hub_resnet, "vgg": vgg}
