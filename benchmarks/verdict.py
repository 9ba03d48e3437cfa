"""The table of a comparison: paired differences, intervals, corrected p values."""

import statistics

import report


def holm(p_values):
    """Holm's step-down correction for their number, in the same order."""
    count = len(p_values)
    corrected = [0.0] * count
    highest = 0.0
    for rank, number in enumerate(sorted(range(count), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (count - rank) * p_values[number]))
        corrected[number] = highest
    return corrected


def table(runs, rows, base, rates, seeds, trial, title):
    """Markdown: each row's best rate, accuracy, and difference to the base row of its model.

    p is that of a paired t test over seeds, and then corrected by Holm's method for all
    rows of the table.

    Args:
        rows: Pairs (model, name of a row).
        base: Name of the row to compare with.
        trial: The seeds by whose validation images a row's rate is chosen.
    """
    lines = [_line(runs, *row, base, rates, seeds, trial) for row in rows]
    compared = [line for line in lines if line["p"] is not None]
    for line, p in zip(compared, holm([line["p"] for line in compared]), strict=True):
        line["holm"] = p
    text = [
        title,
        "",
        "| model | row | rate | test accuracy %, mean ± SD "
        f"| difference to {base}, 95 % t interval | p, paired t | p, Holm | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        p_values = ["" if line.get(name) is None else f"{line[name]:.3g}" for name in ("p", "holm")]
        text.append(f"| {' | '.join([*line['cells'], *p_values, str(line['n'])])} |")
    markdown = "\n".join(text) + "\n"
    report.write(runs.folder / "table.md", markdown)
    return markdown


def _line(runs, model, row, base, rates, seeds, trial):
    """Cells of a row's line, its p value (1 where none can be had, `None` for the base) and n."""

    def accuracies(name):
        rate = report.best_rate(runs, model, name, rates, trial)
        return rate, report.test_accuracies(runs, model, name, rate, seeds)

    rate, values = accuracies(row)
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    cells = [model, row, f"{rate:g}", f"{statistics.fmean(values):.2f}{spread}"]
    if row == base or not runs.find(model=model, init=base):
        return {"cells": [*cells, ""], "p": None, "n": len(values)}
    _, reference = accuracies(base)
    difference = report.difference(values, reference)
    return {"cells": [*cells, difference], "p": p_value(values, reference), "n": len(values)}


def p_value(values, reference):
    """Of a paired t test; 1 where there is nothing to test."""
    from scipy import stats

    if len(values) < 2 or values == reference:
        return 1.0
    return float(stats.ttest_rel(values, reference).pvalue)
