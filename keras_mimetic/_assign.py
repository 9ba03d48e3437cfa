"""Atomic assignment to the variables of a model."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_mimetic._patterns.kernels import Part, values_of


def assign_all(new: Iterable[tuple[Any, np.ndarray]]) -> list[tuple[Any, np.ndarray]]:
    """Write values to variables, or parts of them; if one fails, restore all.

    Args:
        new: Variables or `Part`s of variables, with their new values.

    Returns:
        The whole variables with their previous values, in their own precision.
    """
    old: list[tuple[Any, np.ndarray]] = []
    try:
        for variable, values in _whole(new):
            old.append((variable, _copy_of(variable)))
            variable.assign(values)
    except BaseException:
        for variable, values in old:
            variable.assign(values)
        raise
    return old


def _copy_of(variable: Any) -> np.ndarray:
    """Return the values of a variable in its own precision, in memory of their own."""
    values: np.ndarray = keras.ops.convert_to_numpy(variable)
    return values if values.flags.owndata else values.copy()


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
