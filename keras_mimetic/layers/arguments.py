"""Arguments of layers that identify Keras objects."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

_GET = {
    "activation": keras.activations.get,
    "regularizer": keras.regularizers.get,
    "constraint": keras.constraints.get,
}


def get(name: str, identifier: str | dict[str, Any] | Callable | None) -> Any:
    """Return an activation, regularizer or constraint; errors name the argument."""
    kind = name.rpartition("_")[2]
    if isinstance(identifier, dict):
        # The config of a saved layer: Keras's error names a class that is not registered.
        return _GET[kind](identifier)
    try:
        return _GET[kind](identifier)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Argument `{name}` must be the name of a Keras {kind}, a callable or None. "
            f"Received: {name}={identifier!r}"
        ) from error


def serialize_initializer(initializer: Any) -> str | dict[str, Any]:
    """Return the config of an initializer, or its name if it was given by name."""
    if isinstance(initializer, str):
        return initializer
    return keras.initializers.serialize(keras.initializers.get(initializer))


def is_zeros(initializer: keras.initializers.Initializer) -> bool:
    """Return whether an initializer gives zeros."""
    if isinstance(initializer, keras.initializers.Constant):
        return bool(np.all(np.asarray(initializer.value) == 0))
    return isinstance(initializer, keras.initializers.Zeros)
