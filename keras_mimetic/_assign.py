"""Atomic assignment to the variables of a model."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_mimetic._patterns.kernels import Part, values_of


def assign_all(new: Iterable[tuple[Any, Any]]) -> None:
    """Write values to variables, or to `Part`s of variables; if one fails, restore all.

    A value may be a variable, which then has the old value.
    """
    old: list[tuple[Any, Any]] = []
    try:
        for variable, values in _whole(new):
            old.append((variable, keras.ops.copy(variable.value)))
            variable.assign(values)
            if isinstance(values, keras.Variable):
                # To keep the value there takes no more memory.
                values.assign(old[-1][1])
                old[-1] = variable, values
    except BaseException:
        # The last first: two variables may share their memory.
        for variable, values in reversed(old):
            variable.assign(values)
        raise


def _whole(new: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return the values of whole variables, from values of variables and parts."""
    whole: dict[int, tuple[Any, Any]] = {}
    for variable, values in new:
        if isinstance(variable, Part):
            base = variable.variable
            before = whole[id(base)][1] if id(base) in whole else values_of(base)
            whole[id(base)] = base, variable.put(before, values)
        else:
            whole[id(variable)] = variable, values
    return list(whole.values())
