"""Paired comparisons: the mean difference, its interval, and the p value of the t test."""

import dataclasses
import math

import numpy as np

# Coarse measures give differences that are all equal, which have no spread to test with.
_NO_SPREAD = 1e-9


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of paired differences.

    Attributes:
        mean: Of `values - base`.
        low: Lower end of Student's 95 % interval; NaN for fewer than two pairs.
        high: Its upper end.
        p: Of the paired t test; NaN if it cannot be made.
        count: The number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    count: int

    @property
    def has_interval(self):
        """Whether there are enough pairs for an interval."""
        return not math.isnan(self.low)

    def text(self, digits=2):
        """Return the mean and its interval as text."""
        if not self.has_interval:
            return f"{self.mean:+.{digits}f}"
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def difference(values, base):
    """Compare values with those of the same seeds in `base`.

    The interval covers seeds, not the choice of the test images.
    """
    from scipy import stats

    differences = np.subtract(values, base, dtype=float)
    count, mean = len(differences), float(np.mean(differences))
    if count < 2:
        return Difference(mean, math.nan, math.nan, math.nan, count)
    if np.ptp(differences) <= _NO_SPREAD:
        return Difference(mean, mean, mean, math.nan, count)
    result = stats.ttest_rel(values, base)
    interval = result.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), float(result.pvalue), count)
