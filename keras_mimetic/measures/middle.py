"""The middle of some figures."""

import math
import statistics
from collections.abc import Iterable


def median(values: Iterable[float]) -> float | None:
    """The median of those that are defined, or `None` if none is."""
    defined = [value for value in values if math.isfinite(value)]
    return statistics.median(defined) if defined else None
