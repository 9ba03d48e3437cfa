"""The results of a comparison: best rates, paired differences, tables."""

import dataclasses
import math
import statistics

import numpy as np

from common.folders import write

# Coarse measures give differences that are all equal, which have no spread to test with.
_NO_SPREAD = 1e-9


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of paired differences.

    Attributes:
        mean: The mean of `values - base`.
        low: Lower end of Student's 95 % interval. NaN for fewer than two pairs.
        high: Its upper end.
        p: The p value of the paired t test. NaN where it is undefined.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def has_interval(self):
        """Whether there are enough pairs for an interval."""
        return not math.isnan(self.low)

    def text(self, digits=2):
        """Return the mean and its interval as text."""
        if not self.has_interval:
            return f"{self.mean:+.{digits}f}"
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def difference(values, base=0.0):
    """Compare values with those of the same seeds in `base`.

    The interval covers seeds, not the choice of the test images.
    """
    from scipy import stats

    differences = np.subtract(values, base, dtype=float)
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return Difference(mean, math.nan, math.nan, math.nan)
    if np.ptp(differences) <= _NO_SPREAD:
        return Difference(mean, mean, mean, math.nan)
    result = stats.ttest_1samp(differences, 0.0)
    interval = result.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), float(result.pvalue))


def mean_and_spread(values, digits=2):
    """Return the mean and the standard deviation of values as text."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def best_rates(runs, pairs, rates, seeds, column="validation_accuracy"):
    """Return the rate with the best mean validation result for each (model, init).

    A loss is best where it is lowest. A run that diverged is never best.
    """
    sign = -1 if column.endswith("loss") else 1

    def score(pair, rate):
        rows = runs.find(model=pair[0], init=pair[1], learning_rate=rate)
        found = [sign * row[column] for row in rows if row["seed"] in seeds]
        return statistics.fmean(x if math.isfinite(x) else -math.inf for x in found)

    return {pair: max(rates, key=lambda rate: score(pair, rate)) for pair in pairs}


def values_of(runs, pair, rate, seeds, column):
    """Return a column in the order of the seeds; accuracies in percent."""
    factor = 100 if column.endswith("accuracy") else 1
    rows = runs.find(model=pair[0], init=pair[1], learning_rate=rate)
    by_seed = {row["seed"]: factor * float(row[column]) for row in rows}
    return [by_seed[seed] for seed in seeds]


def table(runs, best, seeds, measures, title, contrasts=(), digits=2, names=None):
    """Write table.md: each init at its best rate, and its paired difference from the first one.

    `measures` are columns of runs.csv by heading, `contrasts` further pairs (init, base), `names`
    those of inits.
    """
    names = names or {}
    first = next(iter(best))[1]
    values = {
        (*pair, column): values_of(runs, pair, rate, seeds, column)
        for pair, rate in best.items()
        for column in measures.values()
    }
    heads = [
        f"{heading}, mean ± SD over seeds | difference from {names.get(first, first)}, "
        "95 % t interval over seeds"
        for heading in measures
    ]
    lines = [title, "", f"| model | init | rate | {' | '.join(heads)} | n |"]
    lines.append("|---" * (4 + 2 * len(heads)) + "|")
    for (model, init), rate in best.items():
        cells = [model, names.get(init, init), f"{rate:g}"]
        for column in measures.values():
            found, base = values[model, init, column], values[model, first, column]
            cells.append(mean_and_spread(found, digits))
            cells.append("" if init == first else difference(found, base).text(digits))
        lines.append(f"| {' | '.join(cells)} | {len(seeds)} |")
    pairs = [(m, *c) for m, i in best if i == first for c in contrasts if c[1] != first]
    pairs = [(m, a, b) for m, a, b in pairs if {(m, a), (m, b)} <= {*best}]
    if pairs:
        lines += ["", "| model | difference | 95 % t interval over seeds | n |"]
        lines.append("|---|---|---|---|")
    column = next(iter(measures.values()))
    for model, init, base in pairs:
        text = difference(values[model, init, column], values[model, base, column]).text(digits)
        lines.append(f"| {model} | {init} over {base} | {text} | {len(seeds)} |")
    text = "\n".join(lines) + "\n"
    write(runs.folder / "table.md", text)
    return text
