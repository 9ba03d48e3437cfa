"""Writing into the variables of a model: all of them or none."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np


def assign_all(new: Iterable[tuple[Any, np.ndarray]]) -> list[tuple[Any, np.ndarray]]:
    """Write values into variables; if one fails, all are as they were.

    Args:
        new: Variables and their new values.

    Returns:
        The variables and their values before, in their own precision.
    """
    old: list[tuple[Any, np.ndarray]] = []
    try:
        for variable, values in new:
            old.append((variable, np.array(keras.ops.convert_to_numpy(variable))))
            variable.assign(values)
    except BaseException:
        for variable, values in old:
            variable.assign(values)
        raise
    return old
