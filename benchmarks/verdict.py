"""Table and picture of a comparison: paired differences, intervals, corrected p values.

    python benchmarks/verdict.py benchmarks/results/screen-mlp --base spatial default
    python benchmarks/verdict.py benchmarks/results/claim --epochs 1 2 5 --metric loss accuracy

They cover all runs in the folder. The learning rate of a variant is the best one on the validation
images, over the seeds that tried all of its rates. `--epochs` compares accuracy or loss at these
epochs, and reports how many epochs earlier the base's final value is reached. `--plan POINTS`
prints how many new seeds would confirm that difference, from the paired spread of these runs.
"""

import dataclasses
import math
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import folders, options, pictures
from common.report import Difference, difference, mean_and_spread
from lib import by_epoch
from lib.by_epoch import METRICS


@dataclasses.dataclass
class Line:
    """One variant of one model.

    Attributes:
        model: Name of the model.
        row: Name of the variant.
        rate: Its best learning rate.
        accuracies: Test accuracy in percent, by seed.
        base: The variant that it is compared with. `None` if it is that variant.
        differences: Points over the base, for the seeds that both have.
        seen: Their mean, its interval and its p value. `None` without differences.
        p_holm: The p value corrected by Holm's method for all variants of the table.
    """

    model: str
    row: str
    rate: float
    accuracies: dict[int, float]
    base: str | None = None
    differences: list[float] = dataclasses.field(default_factory=list)
    seen: Difference | None = None
    p_holm: float = 1.0

    def compare(self, base):
        """Set what comes from a comparison with another variant."""
        common = [seed for seed in self.accuracies if seed in base.accuracies]
        self.base = base.row
        self.differences = [self.accuracies[seed] - base.accuracies[seed] for seed in common]
        if common:
            self.seen = difference(self.differences)

    @property
    def tested(self):
        """Whether there is a p value."""
        return self.seen is not None and not math.isnan(self.seen.p)


def parse(argv=None):
    parser, add = options.parser(__doc__)
    add("folder", type=pathlib.Path, help="with runs.csv and args.json")
    bases = "the variant to compare with; of several the first that a model has"
    add("--base", nargs="+", default=["default"], metavar="NAME", help=bases)
    only = "print the table of these variants and the base alone, and write nothing"
    add("--variant", nargs="+", default=[], metavar="NAME", help=only)
    names = "also draw the curves of these variants, for the models that have them"
    add("--curves", nargs="+", default=[], metavar="NAME", help=names)
    at = "also compare at these epochs, in epochs.md, and draw differences by epoch"
    add("--epochs", nargs="+", type=options.positive(int), default=[], help=at)
    metrics = f"what to compare at epochs: {', '.join(METRICS)} [%(default)s]"
    add("--metric", nargs="+", choices=METRICS, default=["accuracy"], help=metrics)
    pairs = "pairs VARIANT/BASE to compare at epochs [each variant with its base]"
    add("--pairs", nargs="+", default=[], metavar="PAIR", help=pairs)
    seeds = "print the number of seeds that would confirm a difference of so many points"
    add("--plan", type=options.positive(float), metavar="POINTS", help=seeds)
    first = "leave out the seeds below, which chose the rates"
    add("--first-seed", type=int, default=0, help=first)
    args = parser.parse_args(argv)
    if not (args.folder / "runs.csv").is_file():
        parser.error(f"There is no {args.folder / 'runs.csv'}.")
    if wrong := [pair for pair in args.pairs if pair.count("/") != 1]:
        parser.error(f"argument --pairs: must be VARIANT/BASE. Received: {wrong[0]}")
    return args


def main(argv=None):
    args = parse(argv)
    runs = folders.Runs(args.folder)
    lines = judge(runs, args.base, args.variant, args.first_seed)
    if not any(line.base for line in lines):
        raise SystemExit(f"{args.folder} has nothing to compare with {' or '.join(args.base)}.")
    last = folders.read_settings(runs.folder).get("epochs")
    if last and max(args.epochs, default=0) > last:
        raise SystemExit(f"--epochs: must be at most {last} here. Received: {max(args.epochs)}")
    print(table(runs, lines))
    if args.epochs:
        pairs = _pairs(lines, args.pairs)
        if not pairs:
            raise SystemExit(f"--pairs: {args.folder} has none of {', '.join(args.pairs)}.")
        text = by_epoch.table(runs, pairs, args.epochs, args.metric)
        print(text)
    if args.plan:
        print(plan(lines, args.plan))
    if args.variant:
        return
    folders.write(runs.folder / "table.md", table(runs, lines))
    print(f"Picture: {picture(runs, lines)}")
    if args.epochs:
        folders.write(runs.folder / "epochs.md", f"{headline(runs)}\n\n{text}")
        drawn = by_epoch.picture(runs, pairs, METRICS[args.metric[0]], headline(runs))
        print(f"By epoch: {runs.folder / 'epochs.md'}, {drawn}")
    if args.curves:
        chosen = {}
        for line in lines:
            if line.row in args.curves:
                chosen.setdefault(line.model, {})[line.row] = (line.rate, line.accuracies)
        print(f"Curves: {pictures.curves(runs, chosen, headline(runs))}")


def _pairs(lines, named):
    """Return the lines of each pair VARIANT/BASE, model by model; all with their bases if none."""
    by_name = {(line.model, line.row): line for line in lines}
    if not named:
        return [(line, by_name[line.model, line.base]) for line in lines if line.base]
    models = dict.fromkeys(line.model for line in lines)
    found = [[(model, name) for name in pair.split("/")] for model in models for pair in named]
    return [(by_name[a], by_name[b]) for a, b in found if a in by_name and b in by_name]


def judge(runs, bases, only=(), first_seed=0):
    """Return a `Line` for each variant in the folder, by model, in order of first runs.

    Args:
        runs: A `folders.Runs`.
        bases: Variants to compare with.
        only: Variants to judge besides the bases; all by default.
        first_seed: Earlier seeds choose learning rates and are not compared.
    """
    models = dict.fromkeys(run["model"] for run in runs.rows)
    names = dict.fromkeys(run["init"] for run in runs.rows)
    if only:
        names = [name for name in names if name in (*only, *bases)]
    lines = []
    for model in models:
        by_name = {}
        for name in names:
            if runs.find(model=model, init=name):
                rate = best_rate(runs, model, name)
                found = runs.find(model=model, init=name, learning_rate=rate)
                by_seed = {run["seed"]: 100 * run["test_accuracy"] for run in found}
                compared = {seed: by_seed[seed] for seed in sorted(by_seed) if seed >= first_seed}
                if compared:
                    by_name[name] = Line(model, name, rate, compared)
        base = next((by_name[name] for name in bases if name in by_name), None)
        others = [line for line in by_name.values() if line is not base]
        if base is not None:
            lines.append(base)
            for line in others:
                line.compare(base)
        lines += others
    compared = [line for line in lines if line.tested]
    for line, p in zip(compared, holm([line.seen.p for line in compared]), strict=True):
        line.p_holm = p
    return lines


def best_rate(runs, model, row):
    """Return the rate with the best validation accuracy, over the seeds that tried every rate."""
    by_rate = {}
    for run in runs.find(model=model, init=row):
        by_rate.setdefault(run["learning_rate"], {})[run["seed"]] = run["validation_accuracy"]
    trial = set.intersection(*(set(found) for found in by_rate.values()))
    if not trial:
        return max(by_rate, key=lambda rate: len(by_rate[rate]))
    return max(by_rate, key=lambda rate: statistics.fmean(by_rate[rate][seed] for seed in trial))


def holm(p_values):
    """Return p values after Holm's step-down correction, in the same order."""
    count = len(p_values)
    corrected = [0.0] * count
    highest = 0.0
    for rank, number in enumerate(sorted(range(count), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (count - rank) * p_values[number]))
        corrected[number] = highest
    return corrected


def table(runs, lines):
    """Return the table in Markdown."""
    text = [
        headline(runs),
        "",
        "| model | variant | rate | test accuracy %, mean ± SD | compared with "
        "| difference, points, 95 % t interval | p, paired t | p, Holm | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        values = list(line.accuracies.values())
        cells = [line.model, line.row, f"{line.rate:g}", mean_and_spread(values)]
        if line.differences:
            p_values = [f"{p:.2g}" if line.tested else "" for p in (line.seen.p, line.p_holm)]
            cells += [line.base, line.seen.text(), *p_values]
        else:
            cells += [line.base or "", "", "", ""]
        text.append(f"| {' | '.join(cells)} | {len(line.differences or values)} |")
    return "\n".join(text) + "\n"


def headline(runs):
    """Return what was trained, on what, at what commits of the code."""
    settings = folders.read_settings(runs.folder)
    commits = ", ".join(dict.fromkeys(run["commit"] for run in runs.rows if run.get("commit")))
    if "dataset" in settings:
        trained = (
            f"{pathlib.Path(settings['dataset']).stem}: {settings['train_size']} training images, "
            f"{options.schedule(settings)}, width {settings['width'] or 'of each model'}"
        )
    else:
        trained = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"{trained}; {folders.summary(runs.rows)}; commit {commits or 'not known'}"


def picture(runs, lines):
    """Draw differences with their intervals, one panel per model and one dot per seed."""
    by_model = {}
    for line in lines:
        if line.differences:
            by_model.setdefault(line.model, {})[line.row] = line.differences
    bases = {line.model: line.base for line in lines if line.base}
    height = 1.4 + 0.26 * max(map(len, by_model.values()))
    figure, axes = pictures.panels(len(by_model), 4.6, height)
    for axis, (model, found) in zip(axes, by_model.items(), strict=True):
        above, below = pictures.draw_differences(axis, found)
        title = f"{model}: {above} of {len(found)} above {bases[model]}, {below} below"
        axis.set_title(title, fontsize=8)
        axis.set_xlabel(f"points over {bases[model]}, 95 % t interval", fontsize=8)
    return pictures.save(figure, runs.folder / "differences.png")


def plan(lines, points):
    """Return how many seeds would show a difference of so many points, by model."""
    text = []
    for model in dict.fromkeys(line.model for line in lines):
        tested = [line for line in lines if line.model == model and line.tested]
        if tested:
            # With few seeds each, the mean variance misleads less than the median deviation.
            variance = statistics.fmean(statistics.variance(line.differences) for line in tested)
            text.append(
                f"{model}: paired standard deviation {variance**0.5:.2f} points ({len(tested)} "
                f"rows); {points:g} points take {seeds_needed(variance**0.5, points)} seeds "
                "(power 0.8 at the 5 % level, before any correction)"
            )
    return "\n".join(text)


def seeds_needed(deviation, difference, level=0.05, power=0.8):
    """Return the smallest number of pairs with which a paired t test finds a difference."""
    from scipy import stats

    for count in range(2, 1000):
        edge = stats.t.ppf(1 - level / 2, count - 1)
        shift = difference / deviation * count**0.5
        if stats.nct.sf(edge, count - 1, shift) >= power:
            return count
    return 1000


if __name__ == "__main__":
    main()
