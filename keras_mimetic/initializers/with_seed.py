"""Initializers without a seed of their own, tied to a layer's one seed."""

from typing import Any

import keras

from keras_mimetic._numerics.random import fold_in
from keras_mimetic.initializers.mean import MimeticMean


def with_seed(name: str, identifier: Any, seed: int) -> Any:
    """`keras.initializers.get(identifier)`, drawing from `seed` unless it has one.

    What says how to draw but not from which seed (`"glorot_uniform"`,
    `HeNormal`, `HeNormal()`) draws from this one. Members of Keras's
    variance-scaling family (Glorot, He, LeCun) then do so through this
    package's own stream, equal on every backend; other random ones
    (`"orthogonal"`, `"random_normal"`, ...) through Keras's generator, whose
    numbers differ between backends.

    Args:
        name: Name of the argument, for the error.
        identifier: What Keras layers take as `kernel_initializer`, except `None`.
        seed: Integer >= 0.

    Returns:
        A `keras.initializers.Initializer`, or a callable that was given.

    Raises:
        ValueError: if `identifier` is `None` or no initializer.
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
    if config.get("seed", 0) is not None:  # has its own, or draws nothing
        return initializer
    if isinstance(initializer, keras.initializers.VarianceScaling):
        own = ("scale", "mode", "distribution", "input_axes", "output_axes")
        # Glorot and its kin leave all of these out of their configs.
        arguments: dict[str, Any] = {key: getattr(initializer, key, None) for key in own}
        return MimeticMean(mean=0.0, seed=seed, **arguments)
    own_stream = isinstance(initializer, MimeticMean)
    return initializer.from_config({**config, "seed": seed if own_stream else keras_seed(seed)})


def keras_seed(seed: int) -> int:
    """A seed for Keras's own generators, which take 31 bits on every backend."""
    return fold_in(seed) % 2**31
