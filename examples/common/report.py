"""The results of a comparison: best rates, a table of paired differences, a picture."""

import operator
import statistics

from common import pictures
from common.folders import write
from common.paired import difference


def best_rate(runs, model, init, rates, seeds, score=operator.itemgetter("validation_accuracy")):
    """Return the rate with the best validation score of an init, averaged over these seeds."""

    def validation(rate):
        rows = runs.find(model=model, init=init, learning_rate=rate)
        return statistics.fmean(score(row) for row in rows if row["seed"] in seeds)

    return max(rates, key=validation)


def table(runs, models, inits, rates, seeds, title, contrasts=()):
    """Write Markdown tables: test accuracy with the difference to the first init, and contrasts.

    Differences are taken seed by seed. The interval is Student's: it covers
    seeds, not the choice of the test images.

    Args:
        contrasts: Further pairs (init, base) to compare, where both were run.
    """
    first = inits[0]
    lines = [
        f"{title}",
        "",
        "| model | init | rate | test accuracy %, mean ± SD over seeds "
        f"| difference to {first}, 95 % t interval over seeds | n |",
        "|---|---|---|---|---|---|",
    ]
    accuracies = {}
    for model in models:
        for init in inits:
            rate = best_rate(runs, model, init, rates, seeds)
            values = accuracies[model, init] = test_accuracies(runs, model, init, rate, seeds)
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            base = accuracies[model, first]
            lines.append(
                f"| {model} | {init} | {rate:g} | {statistics.fmean(values):.2f}{spread} "
                f"| {difference(values, base).text() if init != first else ''} | {len(values)} |"
            )
    contrasts = [pair for pair in contrasts if {*pair} <= {*inits} and pair[1] != first]
    if contrasts:
        lines += ["", "| model | difference | points, 95 % t interval over seeds | n |"]
        lines += ["|---|---|---|---|"]
    for model in models:
        for init, base in contrasts:
            values = accuracies[model, init]
            text = difference(values, accuracies[model, base]).text()
            lines.append(f"| {model} | {init} over {base} | {text} | {len(values)} |")
    text = "\n".join(lines) + "\n"
    write(runs.folder / "table.md", text)
    return text


def test_accuracies(runs, model, init, rate, seeds):
    """Return test accuracies in percent, in the order of the seeds."""
    rows = runs.find(model=model, init=init, learning_rate=rate)
    by_seed = {row["seed"]: 100 * row["test_accuracy"] for row in rows}
    return [by_seed[seed] for seed in seeds]


def picture(runs, models, inits, rates, seeds, title):
    """Draw validation accuracy by epoch, of each init at its best rate."""
    chosen = {
        model: {init: (best_rate(runs, model, init, rates, seeds), seeds) for init in inits}
        for model in models
    }
    return pictures.curves(runs, chosen, title)
