"""Atomic assignment to the variables of a model."""

import collections
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_mimetic._patterns.kernels import Part, values_of


def assign_all(new: Iterable[tuple[Any, np.ndarray]]) -> list[tuple[Any, np.ndarray]]:
    """Write values to variables, or parts of them; if one fails, restore all.

    Args:
        new: Variables or `Part`s of variables, with their new values. With torch, arrays among
            them are overwritten.

    Returns:
        The whole variables with their previous values, in their own precision.
    """
    old: list[tuple[Any, np.ndarray]] = []
    whole = _whole(new)
    free = _free_after_use([values for _, values in whole])
    try:
        for variable, values in whole:
            previous = _previous(variable)
            old.append((variable, previous))
            variable.assign(values)
            if id(values) in free and values.dtype == previous.dtype:
                # To touch new memory would take longer than all else here.
                values[...] = previous
                old[-1] = (variable, values)
    except BaseException:
        for variable, values in old:
            variable.assign(values)
        raise
    return old


def _previous(variable: Any) -> np.ndarray:
    """Return the values of a variable in its own precision, as they stay if it changes."""
    values: np.ndarray = keras.ops.convert_to_numpy(variable)
    # Arrays of JAX never change, and are not writeable.
    return values.copy() if values.flags.writeable and not values.flags.owndata else values


def _free_after_use(arrays: list[Any]) -> set[int]:
    """Return the ids of the arrays whose memory nothing else has once they are assigned."""
    if keras.backend.backend() != "torch":
        # The others may keep the memory of an array for the variable.
        return set()
    bases = [_base(array) for array in arrays]
    count = collections.Counter(map(id, bases))
    return {
        id(array)
        for array, base in zip(arrays, bases, strict=True)
        if count[id(base)] == 1 and base.flags.owndata and base.flags.writeable
    }


def _base(array: np.ndarray) -> np.ndarray:
    """Return the array that has the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _whole(new: Iterable[tuple[Any, np.ndarray]]) -> list[tuple[Any, np.ndarray]]:
    """Return the values of whole variables, from values of variables and parts."""
    whole: dict[int, tuple[Any, np.ndarray]] = {}
    for variable, values in new:
        if isinstance(variable, Part):
            base = variable.variable
            before = whole[id(base)][1] if id(base) in whole else values_of(base)
            whole[id(base)] = base, variable.put(before, values)
        else:
            whole[id(variable)] = variable, values
    return list(whole.values())
