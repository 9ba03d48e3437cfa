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


def constant_of(initializer: Any) -> float | None:
    """Return the value that an initializer gives to all entries, or `None` if they differ."""
    if isinstance(initializer, keras.initializers.Constant):
        values = np.unique(keras.ops.convert_to_numpy(initializer.value))
        return float(values[0]) if len(values) == 1 else None
    if isinstance(initializer, keras.initializers.Zeros):
        return 0.0
    return 1.0 if isinstance(initializer, keras.initializers.Ones) else None
