"""Pictures of comparisons: curves by epoch, and differences with their intervals."""

import statistics
import textwrap

from common.report import difference


def panels(count, width, height):
    """Return a figure and `count` axes side by side, each of this size in inches."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    size = (max(6.0, width * count), height)
    figure, axes = plt.subplots(1, count, figsize=size, squeeze=False, layout="constrained")
    return figure, axes[0]


def save(figure, path, settings=None):
    """Write a figure as a PNG file. `settings` go above it in small print."""
    from matplotlib import pyplot as plt

    if settings:
        # Names of files may have dollar signs, which would begin a formula.
        text = textwrap.fill(settings, int(20 * figure.get_figwidth()))
        figure.suptitle(text, fontsize=6, color="0.4", parse_math=False)
    figure.savefig(path, dpi=200)
    plt.close(figure)
    return path


def curves(runs, chosen, settings, names=None):
    """Draw validation accuracy by epoch, one panel per model.

    `chosen` has the rate and the seeds to draw for each model and init, `names` those of inits.
    """
    names = names or {}
    figure, axes = panels(len(chosen), 4.5, 4.4)
    for axis, (model, inits) in zip(axes, chosen.items(), strict=True):
        ends = {}
        for number, (init, (rate, seeds)) in enumerate(inits.items()):
            rows = runs.find(model=model, init=init, learning_rate=rate)
            found = {row["seed"]: row["curve"] for row in rows if row["seed"] in seeds}
            by_seed = [[100 * float(value) for value in text.split()] for text in found.values()]
            name = names.get(init, init)
            label = f"{name}, rate {rate:g}, n = {len(by_seed)}"
            draw_curves(axis, by_seed, color=f"C{number}", label=label)
            ends[name] = dict(zip(found, (curve[-1] for curve in by_seed), strict=True))
        axis.set(xlabel="epoch", ylabel="validation accuracy %")
        axis.set_title(_finding(model, ends), fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
    return save(figure, runs.folder / "curves.png", settings)


def draw_curves(axis, by_seed, *, color, label, x=None):
    """Draw a thin line for each seed and a thick one for their mean; dashed for a single seed."""
    x = x or range(1, len(by_seed[0]) + 1)
    for curve in by_seed:
        axis.plot(x, curve, color=color, alpha=0.3, linewidth=0.8)
    mean = [statistics.fmean(point) for point in zip(*by_seed, strict=True)]
    style = {"markersize": 3.5, "color": color, "label": label}
    if len(by_seed) == 1:
        axis.plot(x, mean, "o--", markerfacecolor="white", **style)
    else:
        axis.plot(x, mean, "o-", **style)


def _finding(model, ends):
    """Return a title with the init that ends highest, over the seeds that it shares."""
    first, *others = ends
    gains = {}
    for init in others:
        if common := [seed for seed in ends[init] if seed in ends[first]]:
            gains[init] = statistics.fmean(ends[init][s] - ends[first][s] for s in common)
    best = max(gains, key=gains.__getitem__, default=None)
    if best is None:
        return model
    if gains[best] <= 0:
        return f"{model}: {first} ends highest"
    return f"{model}: {best} ends {gains[best]:.1f} points above {first}"


def draw_differences(axis, values, colors=None):
    """Draw paired differences, one line per name: a dot per seed, the mean, its 95 % interval.

    A mean without an interval is hollow. `values` has the differences of each name, seed by seed.
    Returns how many intervals are above zero, and below.
    """
    seen = {name: difference(found) for name, found in values.items()}
    for position, (name, found) in enumerate(values.items()):
        color, one = colors[name] if colors else "C0", seen[name]
        axis.plot(found, [position] * len(found), ".", color="0.7", markersize=4, zorder=1)
        face = color if one.has_interval else "white"
        axis.plot(one.mean, position, "o", color=color, markerfacecolor=face, markersize=5)
        if one.has_interval:
            axis.plot([one.low, one.high], [position] * 2, color=color)
    names = [f"{name} (n = {len(found)})" for name, found in values.items()]
    axis.set_yticks(range(len(values)), names, fontsize=8)
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.grid(axis="x", alpha=0.3)
    every = [*(value for found in values.values() for value in found), 0.0]
    # The wide interval of two seeds must not hide the others.
    wide = [seen[name] for name, found in values.items() if len(found) > 2]
    every += [end for one in wide for end in (one.low, one.high)]
    margin = 0.35 * (max(every) - min(every) or 1.0)
    axis.set_xlim(min(every) - margin, max(every) + margin)
    return sum(s.low > 0 for s in seen.values()), sum(s.high < 0 for s in seen.values())
