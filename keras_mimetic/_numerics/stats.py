"""The middle and spread of figures, some of which may not be defined."""

import math
import statistics
from collections.abc import Iterable


def median(values: Iterable[float]) -> float | None:
    """The median of those that are defined, or `None` if none is."""
    defined = [value for value in values if math.isfinite(value)]
    return statistics.median(defined) if defined else None


def mean_and_std(values: Iterable[float]) -> tuple[float, float]:
    """Of those that are defined; NaN if none is."""
    defined = [value for value in values if math.isfinite(value)]
    if not defined:
        return math.nan, math.nan
    return statistics.fmean(defined), statistics.pstdev(defined)
