"""Initializers without a seed, which take theirs from the seed of a layer."""

from typing import Any

import keras

from keras_mimetic._numerics.random import fold_in
from keras_mimetic.initializers.mean import MimeticMean


def with_seed(name: str, identifier: Any, seed: int) -> Any:
    """Return `keras.initializers.get(identifier)`, with this seed if it has none, or raise.

    Variance-scaling initializers of Keras (Glorot, He, LeCun) then sample from this package's
    random numbers, others from Keras's, which differ between backends. Callables that are no
    `Initializer` stay as they are.
    """
    try:
        initializer = None if identifier is None else keras.initializers.get(identifier)
    except (ValueError, TypeError):
        initializer = None
    if initializer is None:
        raise ValueError(
            f"Argument `{name}` must be the name of a Keras initializer, an initializer or a "
            f"callable. Received: {name}={identifier!r}"
        )
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if config.get("seed", 0) is not None:  # has a seed, or is not random
        return initializer
    if isinstance(initializer, keras.initializers.VarianceScaling):
        own = ("scale", "mode", "distribution", "input_axes", "output_axes")
        # The configs of Glorot and similar initializers omit all of these.
        arguments: dict[str, Any] = {key: getattr(initializer, key, None) for key in own}
        return MimeticMean(mean=0.0, seed=seed, **arguments)
    own_stream = isinstance(initializer, MimeticMean)
    return initializer.from_config({**config, "seed": seed if own_stream else keras_seed(seed)})


def keras_seed(seed: int) -> int:
    """Return a seed of 31 bits for Keras's own generators, which every backend accepts."""
    return fold_in(seed) % 2**31
