"""Atomic assignment to the variables of a model."""

from collections.abc import Iterable
from typing import TypeAlias

import keras
import numpy as np

from keras_mimetic._graph.keras_internals import lock
from keras_mimetic._patterns.kernels import Part, values_of

# A variable, or a part of one, and the values that a variable can be given.
Weight: TypeAlias = keras.Variable | Part
Values: TypeAlias = np.ndarray | keras.Variable


def assign_all(new: Iterable[tuple[Weight, Values]]) -> None:
    """Write values, or those of variables, which get the old ones; if one fails, restore all."""
    old: list[tuple[keras.Variable, Values]] = []
    with lock:
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


def _whole(new: Iterable[tuple[Weight, Values]]) -> list[tuple[keras.Variable, Values]]:
    """Return the values of whole variables, from values of variables and parts."""
    whole: dict[int, tuple[keras.Variable, Values]] = {}
    for variable, values in new:
        if isinstance(variable, Part):
            base = variable.variable
            if id(base) not in whole:
                # What is kept stays as it is.
                dtype = "float64" if base.dtype == "float64" else "float32"
                whole[id(base)] = base, values_of(base, dtype)
            whole[id(base)] = base, variable.put(whole[id(base)][1], values)
        else:
            whole[id(variable)] = variable, values
    return list(whole.values())
