"""Figures of arrays, and averages of figures, in float64."""

import math
import statistics
from collections.abc import Iterable

import numpy as np


def array_norm(values: np.ndarray) -> float:
    """Return the Frobenius norm of an array, whose squares float32 may not hold."""
    return math.sqrt(np.square(values, dtype=np.float64).sum())


def mean_and_std(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values; NaN if there are none."""
    defined = [value for value in values if math.isfinite(value)]
    if not defined:
        return math.nan, math.nan
    return statistics.fmean(defined), statistics.pstdev(defined)
