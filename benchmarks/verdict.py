"""Table and picture of a comparison: paired differences, intervals, corrected p values.

    python benchmarks/verdict.py benchmarks/results/screen-mlp --base spatial default

They are of all runs in the folder, whichever calls of compare.py made them. A row's
learning rate is the best one on the validation images, over the seeds that tried all
of the row's rates. `--plan POINTS` prints how many fresh seeds a confirmation of that
difference would take, from the paired spread seen here.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))

from common import environment, folders, options, report


@dataclasses.dataclass
class Line:
    """One row of one model.

    Attributes:
        model: Name of the model.
        row: Name of the row.
        rate: Its best learning rate.
        accuracies: Test accuracy in percent, by seed.
        base: The row that it is compared with; `None` if it is that row.
        differences: To the base, in points, for the seeds that both have.
        tested: Whether there are enough of them for a test.
        p: Of a paired t test.
        p_holm: Corrected by Holm's method for all rows of the table that were tested.
    """

    model: str
    row: str
    rate: float
    accuracies: dict[int, float]
    base: str | None = None
    differences: list[float] = dataclasses.field(default_factory=list)
    tested: bool = False
    p: float = 1.0
    p_holm: float = 1.0


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path, help="with runs.csv and args.json")
    bases = "the row to compare with; of several the first that a model has"
    parser.add_argument("--base", nargs="+", default=["default"], help=bases)
    only = "print the table of these rows and the base alone, and write nothing"
    parser.add_argument("--row", nargs="+", default=[], help=only)
    rows = "also draw the curves of these rows, for the models that have them"
    parser.add_argument("--curves", nargs="+", default=[], metavar="ROW", help=rows)
    parser.add_argument("--plan", type=options.positive(float), metavar="POINTS")
    args = parser.parse_args(argv)
    if not (args.folder / "runs.csv").is_file():
        parser.error(f"There is no {args.folder / 'runs.csv'}.")
    runs = folders.Runs(args.folder)
    lines = judge(runs, args.base, args.row)
    if not any(line.base for line in lines):
        parser.error(f"{args.folder} has nothing to compare with {' or '.join(args.base)}.")
    print(table(runs, lines))
    if args.row:
        return
    folders.write(runs.folder / "table.md", table(runs, lines))
    print(f"Picture: {picture(runs, lines)}")
    if args.curves:
        chosen = {}
        for name in args.curves:
            for line in lines:
                if line.row == name:
                    chosen.setdefault(line.model, {})[name] = (line.rate, line.accuracies)
        print(f"Curves: {report.curves(runs, chosen, headline(runs))}")
    if args.plan:
        print(plan(lines, args.plan))


def judge(runs, bases, only=()):
    """A `Line` for each row in the folder, model by model, in the order of their first runs.

    Or for those named in `only` and in `bases`.
    """
    models = dict.fromkeys(run["model"] for run in runs.rows)
    names = dict.fromkeys(run["init"] for run in runs.rows)
    if only:
        names = [name for name in names if name in (*only, *bases)]
    lines = []
    for model in models:
        of_model = [_line(runs, model, row) for row in names if runs.find(model=model, init=row)]
        by_name = {line.row: line for line in of_model}
        base = next((by_name[name] for name in bases if name in by_name), None)
        for line in of_model:
            if base is not None and line is not base:
                _compare(line, base)
        # The base first.
        lines += sorted(of_model, key=lambda line: line is not base)
    compared = [line for line in lines if line.tested]
    for line, p in zip(compared, holm([line.p for line in compared]), strict=True):
        line.p_holm = p
    return lines


def best_rate(runs, model, row):
    """The rate of the best validation accuracy, over the seeds that tried every rate of the row."""
    by_rate = {}
    for run in runs.find(model=model, init=row):
        by_rate.setdefault(run["learning_rate"], {})[run["seed"]] = run["validation_accuracy"]
    trial = set.intersection(*(set(found) for found in by_rate.values()))
    if not trial:
        return max(by_rate, key=lambda rate: len(by_rate[rate]))
    return max(by_rate, key=lambda rate: statistics.fmean(by_rate[rate][seed] for seed in trial))


def _line(runs, model, row):
    rate = best_rate(runs, model, row)
    found = runs.find(model=model, init=row, learning_rate=rate)
    accuracies = {run["seed"]: 100 * run["test_accuracy"] for run in found}
    return Line(model, row, rate, dict(sorted(accuracies.items())))


def _compare(line, base):
    common = [seed for seed in line.accuracies if seed in base.accuracies]
    line.base = base.row
    line.differences = [line.accuracies[seed] - base.accuracies[seed] for seed in common]
    # Differences that are all the same, as a coarse accuracy gives, have no spread to test with.
    line.tested = len(common) > 1 and statistics.stdev(line.differences) > 1e-9
    if line.tested:
        from scipy import stats

        line.p = float(stats.ttest_1samp(line.differences, 0).pvalue)


def holm(p_values):
    """Holm's step-down correction for their number, in the same order."""
    count = len(p_values)
    corrected = [0.0] * count
    highest = 0.0
    for rank, number in enumerate(sorted(range(count), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (count - rank) * p_values[number]))
        corrected[number] = highest
    return corrected


def table(runs, lines):
    """Markdown."""
    text = [
        headline(runs),
        "",
        "| model | row | rate | test accuracy %, mean ± SD | compared with "
        "| difference, points, 95 % t interval | p, paired t | p, Holm | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        values = list(line.accuracies.values())
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells = [line.model, line.row, f"{line.rate:g}", f"{statistics.fmean(values):.2f}{spread}"]
        if line.differences:
            difference = report.difference(line.differences, [0.0] * len(line.differences))
            p_values = [f"{p:.2g}" if line.tested else "" for p in (line.p, line.p_holm)]
            cells += [line.base, difference, *p_values]
        else:
            cells += [line.base or "", "", "", ""]
        text.append(f"| {' | '.join(cells)} | {len(line.differences or values)} |")
    return "\n".join(text) + "\n"


def headline(runs):
    """What was trained, on what, at what commits of the code."""
    settings = json.loads((runs.folder / "args.json").read_text())["settings"]
    commits = ", ".join(dict.fromkeys(run["commit"] for run in runs.rows if run.get("commit")))
    return (
        f"{pathlib.Path(settings['dataset']).stem}: {settings['train_size']} training images, "
        f"{options.schedule(settings)}, width {settings['width'] or 'of each model'}; "
        f"{environment.summary(runs.rows)}; commit {commits or 'not known'}"
    )


def picture(runs, lines):
    """Differences with their intervals, a panel a model; a dot a seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    models = list(dict.fromkeys(line.model for line in lines))
    by_model = {m: [line for line in lines if line.model == m and line.differences] for m in models}
    by_model = {model: found for model, found in by_model.items() if found}
    tallest = max(map(len, by_model.values()))
    size = (4.2 * len(by_model), 1.2 + 0.26 * tallest)
    figure, axes = plt.subplots(1, len(by_model), figsize=size, squeeze=False)
    for axis, (model, found) in zip(axes[0], by_model.items(), strict=True):
        for place, line in enumerate(found):
            mean, half = report.paired_interval(line.differences)
            axis.plot(line.differences, [place] * len(line.differences), ".", color="0.6")
            axis.errorbar(mean, place, xerr=0 if half != half else half, fmt="o", color="C0")
        axis.axvline(0, color="0.3", linewidth=0.8)
        axis.set_yticks(range(len(found)), [line.row for line in found], fontsize=8)
        axis.set_ylim(len(found) - 0.5, -0.5)
        # An interval of two seeds must not hide the others.
        values = [value for line in found for value in line.differences]
        low, high = min([*values, 0.0]), max([*values, 0.0])
        margin = 0.35 * (high - low or 1.0)
        axis.set_xlim(low - margin, high + margin)
        axis.set(title=model, xlabel=f"points over {found[0].base}, 95 % interval")
        axis.title.set_fontsize(10)
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    path = runs.folder / "differences.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def plan(lines, points):
    """The seeds that would show a difference of so many points, by model."""
    text = []
    for model in dict.fromkeys(line.model for line in lines):
        tested = [line for line in lines if line.model == model and line.tested]
        if tested:
            # Of few seeds each, the mean variance misleads less than the median deviation.
            variance = statistics.fmean(statistics.variance(line.differences) for line in tested)
            text.append(
                f"{model}: paired standard deviation {variance**0.5:.2f} points ({len(tested)} "
                f"rows); {points:g} points take {seeds_needed(variance**0.5, points)} seeds "
                "(power 0.8 at the 5 % level, before any correction)"
            )
    return "\n".join(text)


def seeds_needed(deviation, difference, level=0.05, power=0.8):
    """The smallest number of pairs with which a paired t test finds a difference."""
    from scipy import stats

    count = 2
    while count < 1000:
        edge = stats.t.ppf(1 - level / 2, count - 1)
        shift = difference / deviation * count**0.5
        if stats.nct.sf(edge, count - 1, shift) >= power:
            break
        count += 1
    return count


if __name__ == "__main__":
    main()
