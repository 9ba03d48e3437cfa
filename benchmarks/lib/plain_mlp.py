"""Plain MLPs on flattened images, without normalization: there a mean acts at once."""

import functools

import keras

from common.models import glorot, head, sub_streams


def plain_mlp(
    image_shape,
    classes,
    *,
    activation,
    is_standardized,
    patch=None,
    width=512,
    depth=2,
    kernel_initializer=glorot,
    seed=0,
):
    """Return an MLP of `depth` hidden layers with `width` units.

    Pixels are in [0, 1], or standardized by CIFAR-10's mean gray and its standard deviation.
    `patch` is for other models and has no effect.
    """
    seeds = sub_streams(seed)
    inputs = keras.Input(image_shape, dtype="uint8")
    scale, offset = (1 / 64.1, -120.7 / 64.1) if is_standardized else (1 / 255, 0.0)
    x = keras.layers.Flatten()(keras.layers.Rescaling(scale, offset)(inputs))
    for number in range(depth):
        initializer = kernel_initializer(seed=next(seeds))
        x = keras.layers.Dense(
            width, activation, kernel_initializer=initializer, name=f"hidden_{number}"
        )(x)
    outputs = head(x, classes, kernel_initializer(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="plain_mlp")


PLAIN_MLPS = {
    f"mlp_{inputs}_{activation}": functools.partial(
        plain_mlp, activation=activation, is_standardized=inputs == "standardized"
    )
    for inputs in ("unit", "standardized")
    for activation in ("relu", "gelu")
}
