"""Arguments of layers that name an object of Keras's."""

from typing import Any

import keras


def serialize_initializer(initializer: Any) -> Any:
    """Return the config of an initializer as it was given: a name stays a name."""
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
        # A config, of a saved layer: Keras's own error says what is not registered.
        return find(identifier)
    try:
        return find(identifier)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Argument `{name}` must be the name of a Keras {kind}, a callable or None. "
            f"Received: {name}={identifier!r}"
        ) from error
