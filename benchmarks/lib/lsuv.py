"""Layer-sequential unit variance: scale each layer's output to variance 1 on some images.

Mishkin and Matas, 2016, "All you need is a good init" (arXiv:1511.06422). There is a package for
PyTorch modules and none for Keras 3.
"""

import keras

_LAYERS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
)


def unit_variance(model, images):
    """Scale the kernels of a model, in the order in which it calls their layers.

    Biases must be zero, as before training. Then outputs before the activation are linear in the
    kernel, so that dividing it by their standard deviation is exact, and one pass over the images
    is enough for all layers.

    Args:
        model: A Keras model with orthogonal kernels, as the method requires.
        images: A batch of its inputs.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, _LAYERS)]
    try:
        for layer in layers:
            layer.call = _scaled_first(layer)
        model(images, training=False)
    finally:
        for layer in layers:
            del layer.call


def _scaled_first(layer):
    """Return the layer's `call`, which first scales the kernel for its input."""
    call = layer.call

    def scale_and_call(inputs, *args, **kwargs):
        activation = layer.activation
        layer.activation = None
        deviation = keras.ops.std(call(inputs, *args, **kwargs))
        layer.activation = activation
        layer.kernel.assign(layer.kernel / deviation)
        return call(inputs, *args, **kwargs)

    return scale_and_call
