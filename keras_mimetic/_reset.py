"""Give a model the weights of a new one."""

import random
import types
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import Variable
from keras.layers import Layer
from keras.optimizers import Optimizer

from keras_mimetic._assign import assign_all
from keras_mimetic._find import check_model, check_not_traced, path_of
from keras_mimetic._graph.keras_internals import (
    direct_sublayers,
    generator_states,
    learning_rate_of,
    own_variables,
    preserve_global_state,
    sublayers,
    trained_variables,
)
from keras_mimetic._graph.recorder import reason
from keras_mimetic._numerics.random import check_seed, fold_in
from keras_mimetic._trained import steps_of
from keras_mimetic.initializers.seeds import resolve_seed

# A variable, and a value that it gets or a variable that has it.
Pair = tuple[Variable, float | Variable]
# Learning rates at the last reset.
_rates: weakref.WeakKeyDictionary[Optimizer, float] = weakref.WeakKeyDictionary()
_CLASS = "keras_mimetic_reset"


def reset(model: Layer, seed: int | None = None) -> None:
    """Give a model the weights of a newly built one with the same configuration, in place.

    Draws all weights again with their initializers, and resets the statistics of
    normalizations, the states of random generators, and optimizers. The model stays compiled,
    so runs from several initial weights need only one compilation.

    Layers and initializers with seeds of their own draw the same values as when the model was
    built; all others follow `seed`. What `initialize` wrote is lost: call it again.

    A learning rate that a callback has lowered returns to that of the previous `reset`.
    `reset` needs memory for another copy of the weights and of the optimizer's variables.

    Examples:

    >>> for seed in range(3):
    ...     keras_mimetic.reset(model, seed)
    ...     report = keras_mimetic.initialize(model, seed=seed)
    ...     history = model.fit(x, y, verbose=0)

    Args:
        model: A built Keras model or layer, trained or not: functional, sequential or
            subclassed, whatever it is compiled with. Each layer is made again from its
            `get_config`; one that has none and no weights of its own, from its sublayers.
        seed: Integer >= 0. `None` takes one from Python's `random`, which
            `keras.utils.set_random_seed` controls. Keras's own initializers draw different
            weights on different backends.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the seed is negative; if the model is not built, is quantized, or has a
            layer or optimizer that cannot be made again; if a callback changed the
            learning rate before the first `reset`. The model is unchanged after any error.
        RuntimeError: If a function is being traced, as by `jax.jit`.
    """
    check_model(model)
    check_not_traced("reset")
    seed = check_seed(resolve_seed(None) if seed is None else seed)
    with preserve_global_state(), warnings.catch_warnings():
        # Of Keras, such as those of lambdas in configs.
        warnings.simplefilter("ignore")
        # Where Keras takes the seeds from that nobody gave, and other people's initializers draw.
        random.seed(seed)
        np.random.seed(fold_in(seed) % 2**32)
        pairs = list({id(old): (old, new) for old, new in _renewed(model, set())}.values())
        new_of = {id(old): new for old, new in pairs}
        optimizers = _optimizers(model)
        for optimizer, owner in optimizers.items():
            pairs += _renewed_optimizer(optimizer, new_of) if optimizer.built else []
            pairs += _first_rate(optimizer, owner)
    assign_all(pairs)
    for optimizer in optimizers:
        if (rate := _rate(optimizer)) is not None:
            _rates[optimizer] = float(rate.value)


def _renewed(layer: Layer, done: set[Layer]) -> Iterator[Pair]:
    """Yield each variable of a layer, with one that has been initialized again."""
    before = _state(layer)
    if layer in done or not before:
        return
    owns = bool(own_variables(layer) or generator_states(layer))
    # A functional model is its layers.
    if owns or not hasattr(layer, "operations"):
        try:
            new = _made_again(layer)
            after = _state(new)
            same = [_kinds(layer), _shapes(before)] == [_kinds(new), _shapes(after)]
            why = f"its {len(before)} variables become {len(after)}, or of another shape or layer"
        except Exception as error:
            same, why = False, reason(error)
        if same:
            done.update(sublayers(layer))
            yield from zip(before, after, strict=True)
            return
        if owns:
            raise ValueError(
                "Argument `model` must have layers that Keras can make again from their "
                f"configuration, and build. Received: the layer {path_of(layer)!r}, for which that "
                f"fails ({why}). Write its class as for saving (`get_config`, `**kwargs` of the "
                "base class, sublayers built in `build`), or build the model again"
            )
    for sublayer in direct_sublayers(layer):
        yield from _renewed(sublayer, done)


def _state(layer: Layer) -> list[Variable]:
    """Return the weights, and the states of random generators."""
    generators = [x for inner in sublayers(layer) for x in generator_states(inner)]
    return [*layer.weights, *generators]


def _kinds(layer: Layer) -> list[type]:
    return [type(inner) for inner in sublayers(layer)]


def _shapes(variables: list[Variable]) -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in variables]


def _made_again(layer: Layer) -> Layer:
    """Return a new layer of the same class and configuration."""
    functions = {
        name: value
        for name, value in vars(layer).items()
        if isinstance(value, types.FunctionType) and not hasattr(type(layer), name)
    }
    # A configuration has names of functions, which need not be known to Keras.
    unnamed = _copy_with(layer, **dict.fromkeys(functions, keras.activations.linear))
    config = keras.saving.serialize_keras_object(unnamed.get_config())
    config |= {name: value for name, value in functions.items() if name in config}
    known: list[Any] = [*map(type, vars(layer).values()), *_kinds(layer)]
    own = {x.__name__: x for x in known if not x.__module__.startswith(("keras.", "builtins"))}
    # Nothing of it is from a file, so what it holds is safe.
    new = keras.saving.deserialize_keras_object(
        {"class_name": "", "registered_name": _CLASS, "config": config},
        custom_objects={**own, _CLASS: type(layer)},
        safe_mode=False,
    )
    if not new.built:
        new.build_from_config(layer.get_build_config() or {})
    return new


def _copy_with(original: Any, **attributes: Any) -> Any:
    """Return a shallow copy of an object with other values of some attributes."""
    new = object.__new__(type(original))
    vars(new).update(vars(original), **attributes)
    return new


def _optimizers(model: Layer) -> dict[Optimizer, Layer]:
    """Return the optimizers of a model, and the layer that has each."""
    return {
        value: layer
        for layer in sublayers(model)
        for value in vars(layer).values()
        if isinstance(value, Optimizer)
    }


def _renewed_optimizer(optimizer: Optimizer, new_of: dict[int, Variable]) -> list[Pair]:
    """Return each variable of an optimizer but its learning rate, with a new one."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    try:
        with keras.saving.custom_object_scope({type(inner).__name__: type(inner)}):
            new = type(optimizer).from_config(_without_rate(optimizer).get_config())
        new.build([new_of.get(id(v), v) for v in trained_variables(inner)])
    except Exception as error:
        raise ValueError(
            "Argument `model` must have an optimizer that Keras can make again from its "
            f"configuration. Received: a {type(optimizer).__name__}, for which that fails "
            f"({reason(error)})"
        ) from error
    before, after = (
        [v for v in each.variables if v.name != "learning_rate"] for each in (optimizer, new)
    )
    return list(zip(before, after, strict=True))


def _without_rate(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer without its schedule, which need not have a configuration."""
    new = _copy_with(optimizer, _learning_rate=None)
    if hasattr(optimizer, "inner_optimizer"):
        vars(new)["inner_optimizer"] = _without_rate(optimizer.inner_optimizer)
    return new


def _rate(optimizer: Optimizer) -> Variable | None:
    """Return the variable that holds a learning rate, or `None` for schedules and callables."""
    rate = learning_rate_of(getattr(optimizer, "inner_optimizer", optimizer))
    return rate if isinstance(rate, Variable) else None


def _first_rate(optimizer: Optimizer, owner: Layer) -> list[Pair]:
    """Return the learning rate of the last reset, if a callback has changed it since."""
    rate = _rate(optimizer)
    # Keras's callbacks log the rates that they set. A higher one has been set after them.
    logged = getattr(getattr(owner, "history", None), "history", {}).get("learning_rate")
    if rate is None or not logged or not steps_of(owner):
        return []
    if float(rate.value) > logged[-1] * 1.000001:
        return []
    if optimizer not in _rates:
        raise ValueError(
            "Argument `model` must have the learning rate of a new start. Received: an optimizer "
            f"whose rate a callback has changed to {float(rate.value):g} before the first `reset`, "
            "so that the original one is unknown. Compile the model again, and call `reset` "
            "before `fit`."
        )
    return [(rate, _rates[optimizer])]
