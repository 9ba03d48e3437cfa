"""Averages of figures, some of which may be undefined."""

import math
import statistics
from collections.abc import Iterable


def mean_and_std(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values; NaN if there are none."""
    defined = [value for value in values if math.isfinite(value)]
    if not defined:
        return math.nan, math.nan
    return statistics.fmean(defined), statistics.pstdev(defined)
