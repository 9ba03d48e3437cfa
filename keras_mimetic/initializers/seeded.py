"""Initializers given by name, tied to a layer's one seed."""

from typing import Any

import keras

from keras_mimetic import draws
from keras_mimetic.initializers.mimetic_mean import MimeticMean


def seeded(identifier: Any, seed: int) -> Any:
    """`keras.initializers.get(identifier)`, drawing from `seed` if only named.

    A name says how to draw but not from which seed. Names of Keras's
    variance-scaling family (Glorot, He, LeCun) then draw from this package's
    own stream, which is equal on every backend; other random ones
    (`"orthogonal"`, `"random_normal"`, ...) take the seed for Keras's
    generator, whose numbers differ between backends. An initializer object is
    used as it is, with its own seed.

    Args:
        identifier: What Keras layers take as `kernel_initializer`.
        seed: Integer >= 0.

    Returns:
        A `keras.initializers.Initializer` or what Keras makes of `identifier`.
    """
    initializer = keras.initializers.get(identifier)
    if not isinstance(identifier, str):
        return initializer
    if isinstance(initializer, keras.initializers.VarianceScaling):
        return MimeticMean(
            mean=0.0,
            scale=initializer.scale,
            mode=initializer.mode,
            distribution=initializer.distribution,
            seed=seed,
        )
    config = initializer.get_config()
    if "seed" in config:
        return initializer.from_config({**config, "seed": keras_seed(seed)})
    return initializer


def keras_seed(seed: int) -> int:
    """A seed for Keras's own generators, which take 31 bits on every backend."""
    return draws.subseed(seed) % 2**31
