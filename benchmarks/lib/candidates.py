"""A structure that was tried and is not part of the package, and a model that has only it.

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
    for layer in model.layers:
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


MODELS = {"resnet": resnet}
