"""Draws measurements: one look tells a trained network from an untrained one."""

from typing import Any

import numpy as np

from keras_mimetic.measurements import Measurements, Row
from keras_mimetic.registry import STRUCTURES
from keras_mimetic.registry.structure import Panel

# Images stand for so many places of a model at most, spread evenly.
_IMAGES = 6
_PANELS = 3
_WIDTH = 10.0


def plot(measured: Measurements, before: Measurements | None = None) -> Any:
    """See `Measurements.plot`."""
    if before is not None and not isinstance(before, Measurements):
        raise TypeError(
            "Argument `before` must be what `keras_mimetic.measure` gives, or None. "
            f"Received: before={before!r}"
        )
    shown = {"": measured} if before is None else {"before": before, "after": measured}
    strips = [
        (structure, part, title)
        for structure, entry in STRUCTURES.items()
        for part, title in entry.images.items()
        if any(_images(m, structure, part) for m in shown.values())
    ]
    panels = [
        (structure, panel)
        for structure, entry in STRUCTURES.items()
        for panel in entry.panels
        if any(_rows(m, structure, panel) for m in shown.values())
    ]
    if not panels:
        raise ValueError("There is nothing to draw: no figures were measured.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("`plot` needs matplotlib: pip install matplotlib") from error
    heights = [0.4 + 1.6 * len(shown)] * len(strips) + [2.6] * -(-len(panels) // _PANELS)
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    parts = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights))
    for part, strip in zip(parts, strips, strict=False):
        _draw_strip(part, shown, *strip)
    for number, part in enumerate(parts[len(strips) :]):
        axes = part.subplots(1, _PANELS)
        chosen = panels[number * _PANELS :][:_PANELS]
        for axis in axes[len(chosen) :]:
            axis.set_axis_off()
        for axis, (structure, panel) in zip(axes, chosen, strict=False):
            _draw_panel(axis, shown, structure, panel)
    return figure


def _images(measured: Measurements, structure: str, part: str) -> dict[str, np.ndarray]:
    """By place."""
    keys = measured.images
    return {key[1]: measured.images[key] for key in keys if (key[0], key[2]) == (structure, part)}


def _draw_strip(
    figure: Any, shown: dict[str, Measurements], structure: str, part: str, title: str
) -> None:
    """One kind of image: a row before and one after, a column a place."""
    figure.suptitle(title, fontsize=10)
    most = max(len(_images(measured, structure, part)) for measured in shown.values())
    grid = figure.subplots(len(shown), min(most, _IMAGES), squeeze=False)
    for axes, (label, measured) in zip(grid, shown.items(), strict=True):
        images = list(_images(measured, structure, part).values())
        count = min(len(images), _IMAGES)
        chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        for axis, number in zip(axes, chosen, strict=False):
            image = images[number]
            # A diagonal may be far beyond it: noise should be seen, too.
            limit = 3 * float(np.sqrt(np.mean(np.square(image)))) or 1.0
            axis.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set_title(f"layer {number + 1}", fontsize=8, pad=2)
        axes[0].set_ylabel(label)


def _rows(measured: Measurements, structure: str, panel: Panel) -> list[Row]:
    rows = measured.select(structure=structure, part=panel.part, figure=panel.name)
    return [row for row in rows if (row.head is not None) == panel.by_head]


def _draw_panel(axis: Any, shown: dict[str, Measurements], structure: str, panel: Panel) -> None:
    """One figure by place: mean over heads as a line, heads as dots, fresh weights in grey."""
    for number, (label, measured) in enumerate(shown.items()):
        rows = _rows(measured, structure, panel)
        places = list(dict.fromkeys(row.place for row in rows))
        x = [1 + places.index(row.place) for row in rows]
        by_place = [[row for row in rows if row.place == place] for place in places]
        middle = [float(np.mean([row.value for row in here])) for here in by_place]
        color = "C3" if label != "before" else "C0"
        if panel.by_head:
            axis.plot(x, [row.value for row in rows], ".", color=color, alpha=0.4)
        spread = None
        if panel.spread:
            others = measured.select(structure=structure, part=panel.part, figure=panel.spread)
            spread = [row.value for row in others]
        positions = range(1, 1 + len(places))
        axis.errorbar(
            positions, middle, spread, color=color, marker="o", markersize=3, label=label or None
        )
        if number == len(shown) - 1:
            null = [here[0] for here in by_place]
            low, high = (
                [(row.fresh_mean or 0) + sign * 2 * (row.fresh_deviation or 0) for row in null]
                for sign in (-1, 1)
            )
            axis.fill_between(
                positions, low, high, color="0.6", alpha=0.6, linewidth=1.5, label="fresh weights"
            )
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlabel("layer", fontsize=8)
    axis.set_ylabel(panel.unit, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=7)
