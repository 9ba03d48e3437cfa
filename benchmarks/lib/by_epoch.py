"""Differences at chosen epochs, and epochs saved, from the curves in runs.csv."""

import dataclasses
import math

import numpy as np

from common import pictures
from common.report import difference


@dataclasses.dataclass(frozen=True)
class Metric:
    """A quantity that runs.csv has by epoch.

    Attributes:
        column: Column of runs.csv.
        label: Label in tables and pictures.
        unit: Unit of differences.
        scale: Factor from the values of the column to this unit.
        rises: Whether more is better.
    """

    column: str
    label: str
    unit: str
    scale: float
    rises: bool

    @property
    def digits(self):
        """Significant digits after the point."""
        return 2 if self.scale == 100 else 4


METRICS = {
    "accuracy": Metric("curve", "validation accuracy", "points", 100.0, True),
    "loss": Metric("loss_curve", "training loss", "nats", 1.0, False),
    "validation_loss": Metric("validation_loss_curve", "validation loss", "nats", 1.0, False),
}


def curves(runs, line, metric):
    """Return the values by epoch of a `verdict.Line`, for each seed."""
    rows = runs.find(model=line.model, init=line.row, learning_rate=line.rate)
    # Seeds that chose the rates have no accuracy there.
    texts = {row["seed"]: row.get(metric.column) for row in rows if row["seed"] in line.accuracies}
    found = {seed: text.split() for seed, text in sorted(texts.items()) if text}
    return {seed: [metric.scale * float(x) for x in values] for seed, values in found.items()}


def paired_curves(runs, pairs, metric):
    """Yield variant, base, and their arrays (seeds, epochs) for the same seeds, if there are any.

    `pairs` are of `verdict.Line`s, a variant and its base.
    """
    for line, base in pairs:
        both = [curves(runs, one, metric) for one in (line, base)]
        common = [seed for seed in both[0] if seed in both[1]]
        ours, theirs = (np.array([found[seed] for seed in common]) for found in both)
        if common and ours.shape == theirs.shape:
            yield line, base, ours, theirs


def epochs_to_reach(curve, target, rises):
    """Return the epoch at which a curve first reaches a value, interpolated; NaN if never.

    Args:
        curve: Values after epochs 1, 2, ...
        target: The value.
        rises: Whether to be at least the target, or at most.
    """
    curve = np.asarray(curve, float)
    reached = np.flatnonzero(curve >= target if rises else curve <= target)
    if not len(reached):
        return math.nan
    last = int(reached[0])
    if last == 0:
        return 1.0
    before, after = curve[last - 1], curve[last]
    return last + float((target - before) / (after - before))


def saved_text(ours, theirs, rises):
    """Return how many epochs earlier the final value of the base is reached, as text.

    This is the mean over seeds and its interval, or how many seeds reach the value.
    """
    pairs = zip(ours, theirs, strict=True)
    epochs = theirs.shape[1] - np.array([epochs_to_reach(x, y[-1], rises) for x, y in pairs])
    reached = int(np.isfinite(epochs).sum())
    if reached < len(epochs):
        return f"reached by {reached} of {len(epochs)} seeds"
    return difference(epochs).text(digits=1)


def table(runs, pairs, epochs, names):
    """Return a Markdown table per metric: differences at the epochs, and epochs saved.

    Args:
        runs: A `folders.Runs`.
        pairs: Pairs of `verdict.Line`s, a variant and its base.
        epochs: Numbers of epochs, from 1.
        names: Keys of `METRICS`.
    """
    text = []
    for name in names:
        metric, lines = METRICS[name], []
        for line, base, ours, theirs in paired_curves(runs, pairs, metric):
            cells = [line.model, f"{line.row} over {base.row}"]
            for epoch in epochs:
                if epoch <= ours.shape[1]:
                    seen = difference(ours[:, epoch - 1], theirs[:, epoch - 1])
                    cells.append(seen.text(metric.digits))
                else:
                    cells.append("")
            cells += [saved_text(ours, theirs, metric.rises), str(len(ours))]
            lines.append(f"| {' | '.join(cells)} |")
        if lines:
            heads = [f"epoch {epoch}" for epoch in epochs]
            text += [
                f"Difference in {metric.label}, {metric.unit} [paired 95 % t interval]; epochs "
                f"saved to the final {metric.label} of the base:",
                "",
                f"| model | difference | {' | '.join(heads)} | epochs saved | n |",
                "|---" * (len(heads) + 4) + "|",
                *lines,
                "",
            ]
    return "\n".join(text)


def picture(runs, pairs, metric, settings):
    """Draw differences by epoch, one panel per model, with their intervals as bands."""
    by_model = {line.model: {} for line, _ in pairs}
    for line, base, *arrays in paired_curves(runs, pairs, metric):
        by_model[line.model][f"{line.row} over {base.row}"] = arrays
    figure, axes = pictures.panels(len(by_model), 4.8, 4.2)
    for axis, (model, found) in zip(axes, by_model.items(), strict=True):
        title = model
        for number, (name, (ours, theirs)) in enumerate(found.items()):
            seen = _draw(axis, ours, theirs, name, f"C{number}")
            if number == 0:
                title = f"{model}: {name}\n{seen.text(metric.digits)} {metric.unit} at the end"
        axis.axhline(0, color="0.3", linewidth=0.8)
        axis.set(xlabel="epoch", ylabel=f"difference in {metric.label}, {metric.unit}")
        axis.set_title(title, fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
    return pictures.save(figure, runs.folder / "epochs.png", settings)


def _draw(axis, ours, theirs, name, color):
    """Draw one line with its band; return the difference at the last epoch."""
    seen = [difference(ours[:, e], theirs[:, e]) for e in range(ours.shape[1])]
    x, means = range(1, len(seen) + 1), [s.mean for s in seen]
    label = f"{name}, n = {len(ours)}"
    face = "white" if len(ours) == 1 else color
    axis.plot(x, means, "o-", markersize=3.5, color=color, markerfacecolor=face, label=label)
    if len(ours) > 1:
        low, high = [s.low for s in seen], [s.high for s in seen]
        axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    return seen[-1]
