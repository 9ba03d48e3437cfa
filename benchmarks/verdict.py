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


def table(runs, models, rows, rates, seeds, title):
    """Markdown: each row's best rate, accuracy, and difference to the first row.

    p is that of a paired t test over seeds, and then corrected by Holm's method for all
    rows of the table.
    """
    from scipy import stats

    base = rows[0]
    lines, p_values = [], []
    for model in models:
        reference = None
        for row in rows:
            if not runs.find(model=model, init=row):
                continue
            rate = report.best_rate(runs, model, row, rates, seeds)
            values = report.test_accuracies(runs, model, row, rate, seeds)
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells = [model, row, f"{rate:g}", f"{statistics.fmean(values):.2f}{spread}"]
            if row == base:
                reference = values
                lines.append(([*cells, "", ""], len(values)))
                continue
            p_value = float("nan")
            if len(values) > 1 and values != reference:
                p_value = float(stats.ttest_rel(values, reference).pvalue)
            lines.append(
                ([*cells, report.difference(values, reference), f"{p_value:.3g}"], len(values))
            )
            p_values.append(p_value)
    corrected = iter(f"{p:.3g}" for p in holm([1.0 if p != p else p for p in p_values]))
    text = [
        title,
        "",
        "| model | row | rate | test accuracy %, mean ± SD "
        f"| difference to {base}, 95 % t interval | p, paired t | p, Holm | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cells, count in lines:
        last = "" if cells[1] == base else next(corrected)
        text.append(f"| {' | '.join([*cells, last, str(count)])} |")
    markdown = "\n".join(text) + "\n"
    report.write(runs.folder / "table.md", markdown)
    return markdown
