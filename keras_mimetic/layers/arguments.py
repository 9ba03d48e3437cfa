"""Arguments of layers that identify Keras objects."""

from typing import Any

import keras


def serialize_initializer(initializer: Any) -> Any:
    """Return the config of an initializer, or its name if it was given by name."""
    if isinstance(initializer, str):
        return initializer
    return keras.initializers.serialize(keras.initializers.get(initializer))


def get(name: str, identifier: Any) -> Any:
    """Return an activation, regularizer or constraint; errors name the argument."""
    kind = name.rpartition("_")[2]
    find = {
        "activation": keras.activations.get,
        "regularizer": keras.regularizers.get,
        "constraint": keras.constraints.get,
    }[kind]
    if isinstance(identifier, dict):
        # The config of a saved layer: Keras's error names a class that is not registered.
        return find(identifier)
    try:
        return find(identifier)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Argument `{name}` must be the name of a Keras {kind}, a callable or None. "
            f"Received: {name}={identifier!r}"
        ) from error
