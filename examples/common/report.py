"""What the runs of a comparison say: best rates, paired differences, a table and a picture."""

import operator
import statistics
import textwrap

from common.folders import write


def best_rate(runs, model, init, rates, seeds, score=operator.itemgetter("validation_accuracy")):
    """The learning rate of the best validation score of a row, averaged over these seeds."""

    def validation(rate):
        rows = runs.find(model=model, init=init, learning_rate=rate)
        return statistics.fmean(score(row) for row in rows if row["seed"] in seeds)

    return max(rates, key=validation)


def paired_interval(differences, confidence=0.95):
    """Mean and half width of Student's confidence interval of paired differences."""
    from scipy import stats

    count = len(differences)
    mean = statistics.fmean(differences)
    if count < 2:
        return mean, float("nan")
    error = statistics.stdev(differences) / count**0.5
    return mean, float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error


def table(runs, models, inits, rates, seeds, title, contrasts=()):
    """Markdown tables: test accuracy with the difference to the first init, and contrasts.

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
                f"| {difference(values, base) if init != first else ''} | {len(values)} |"
            )
    contrasts = [pair for pair in contrasts if {*pair} <= {*inits} and pair[1] != first]
    if contrasts:
        lines += ["", "| model | difference | points, 95 % t interval over seeds | n |"]
        lines += ["|---|---|---|---|"]
    for model in models:
        for init, base in contrasts:
            values = accuracies[model, init]
            text = difference(values, accuracies[model, base])
            lines.append(f"| {model} | {init} over {base} | {text} | {len(values)} |")
    text = "\n".join(lines) + "\n"
    write(runs.folder / "table.md", text)
    return text


def test_accuracies(runs, model, init, rate, seeds):
    """In percent, by seed."""
    rows = runs.find(model=model, init=init, learning_rate=rate)
    by_seed = {row["seed"]: 100 * row["test_accuracy"] for row in rows}
    return [by_seed[seed] for seed in seeds]


def difference(values, base, digits=2):
    """Mean paired difference and its interval, as text."""
    mean, half = paired_interval([a - b for a, b in zip(values, base, strict=True)])
    ends = [f"{end:+.{digits}f}" for end in (mean - half, mean + half)]
    return f"{mean:+.{digits}f}{f' [{ends[0]}, {ends[1]}]' if half == half else ''}"


def picture(runs, models, inits, rates, seeds, title):
    """Validation accuracy by epoch, of each init at its best rate."""
    chosen = {
        model: {init: (best_rate(runs, model, init, rates, seeds), seeds) for init in inits}
        for model in models
    }
    return curves(runs, chosen, title)


def curves(runs, chosen, title):
    """Validation accuracy by epoch, a panel a model: thin for a seed, thick for their mean.

    Args:
        chosen: By model and init the rate and the seeds whose runs are drawn.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    width = max(6.0, 4.5 * len(chosen))
    figure, axes = plt.subplots(1, len(chosen), figsize=(width, 4.2), squeeze=False)
    for axis, (model, inits) in zip(axes[0], chosen.items(), strict=True):
        for number, (init, (rate, seeds)) in enumerate(inits.items()):
            found = [
                [100 * float(value) for value in row["curve"].split()]
                for row in runs.find(model=model, init=init, learning_rate=rate)
                if row["seed"] in seeds
            ]
            epochs = range(1, len(found[0]) + 1)
            for curve in found:
                axis.plot(epochs, curve, color=f"C{number}", alpha=0.3, linewidth=0.8)
            mean = [statistics.fmean(point) for point in zip(*found, strict=True)]
            axis.plot(
                epochs, mean, "o-", markersize=3, color=f"C{number}", label=f"{init}, rate {rate:g}"
            )
        axis.set(title=model, xlabel="epoch", ylabel="validation accuracy %")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7 if len(inits) > 5 else None)
    # Names of files may have dollar signs, which would begin a formula.
    figure.suptitle(textwrap.fill(title, int(17 * width)), fontsize=8, parse_math=False)
    figure.tight_layout()
    path = runs.folder / "curves.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
