"""Give a model the weights of a new one."""

import random
from typing import Any

import keras
import numpy as np

from keras_mimetic._assign import assign_all
from keras_mimetic._find import check_model, check_not_traced
from keras_mimetic._numerics.random import check_seed, fold_in
from keras_mimetic._tracing.keras_internals import sublayers
from keras_mimetic.initializers.seeds import resolve_seed


def reset(model: Any, seed: int | None = None) -> None:
    """Give a model the weights of a newly built one with the same configuration, in place.

    Draws all weights again with their initializers, and resets the statistics of
    normalizations, the states of random generators, and the optimizer of a compiled model. The
    model stays compiled, so runs from several initial weights need only one compilation.

    Layers and initializers with seeds of their own draw the same values as when the model was
    built; all others follow `seed`. What `initialize` wrote is lost: call it again.

    Examples:

    >>> for seed in range(3):
    ...     keras_mimetic.reset(model, seed)
    ...     report = keras_mimetic.initialize(model, seed=seed)
    ...     history = model.fit(x, y, verbose=0)

    Args:
        model: A built Keras model or layer, trained or not, that Keras can rebuild from its
            configuration: any functional or sequential model, and subclassed ones whose
            `get_config` (and `build`) allow it.
        seed: Integer >= 0. `None` takes one from Python's `random`, which
            `keras.utils.set_random_seed` controls. Keras's own initializers draw different
            weights on different backends.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the seed is negative; if the model is not built, is quantized, or cannot
            be rebuilt from its configuration. The model is unchanged after any error.
        RuntimeError: If a function is being traced, as by `jax.jit`.
    """
    check_model("model", model)
    check_not_traced("reset")
    seed = resolve_seed(None if seed is None else check_seed(seed))
    new_model = _new(model, seed)
    pairs = list(zip(_state(model), _state(new_model), strict=True))
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and optimizer.built:
        new = type(optimizer).from_config(optimizer.get_config())
        new.build(new_model.trainable_variables)
        if [tuple(v.shape) for v in new.variables] != [tuple(v.shape) for v in optimizer.variables]:
            # Layers were frozen since, or thawed.
            new = type(optimizer).from_config(optimizer.get_config())
            new.build(optimizer._trainable_variables)
        pairs += zip(optimizer.variables, new.variables, strict=True)
    assign_all([(old, np.array(keras.ops.convert_to_numpy(new))) for old, new in pairs])


def _new(model: Any, seed: int) -> Any:
    """Return a new model of the same configuration, whose unseeded parts follow `seed`."""
    classes = {type(layer).__name__: type(layer) for layer in sublayers(model)}
    states = random.getstate(), np.random.get_state()
    # Where Keras takes the seeds from that nobody gave, and other people's initializers draw.
    random.seed(seed)
    np.random.seed(fold_in(seed) % 2**32)
    try:
        config = keras.saving.serialize_keras_object(model)
        # Nothing of it is from a file: its own functions may be among it.
        new_model = keras.saving.deserialize_keras_object(
            config, custom_objects=classes, safe_mode=False
        )
    except Exception as error:
        raise ValueError(
            "Argument `model` must be one that Keras can make again from its configuration. "
            f"Received: {model.name!r}, for which that fails ({type(error).__name__}: {error})"
        ) from error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    shapes, found = ([tuple(v.shape) for v in _state(each)] for each in (model, new_model))
    if shapes != found:
        raise ValueError(
            "Argument `model` must be one that Keras can make again from its configuration, and "
            f"build. Received: {model.name!r}, whose {len(shapes)} variables become "
            f"{len(found)}, or ones of other shapes"
        )
    return new_model


def _state(model: Any) -> list[Any]:
    """Return the weights, and the states of random generators."""
    generators = [g.state for layer in sublayers(model) for g in layer._seed_generators]
    return [*model.weights, *generators]
