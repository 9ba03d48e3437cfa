"""Plots: images of the structure of weights, figures by layer, figures during training."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

try:
    import matplotlib.figure
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import SubFigure
    from matplotlib.patches import Patch
except ImportError as error:
    raise ImportError("`plot` needs matplotlib: pip install matplotlib") from error

from keras_mimetic._numerics.stats import mean_and_std
from keras_mimetic._structures import STRUCTURES
from keras_mimetic._structures.base import FigureSpec


class Figure(matplotlib.figure.Figure):
    """A `matplotlib.figure.Figure` that a notebook cell displays as a picture.

    Notebooks display plain figures only once pyplot has chosen a backend, and pyplot keeps
    every figure that it creates in memory.
    """

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


class Measurements(Protocol):
    """The interface of `keras_mimetic.Measurements`, whose method `plot` imports this module."""

    @property
    def images(self) -> Mapping[tuple[str, str, str], np.ndarray]: ...

    def select(self, **columns: Any) -> Sequence[Any]: ...


# Images show at most this many layers of a model, evenly spread.
_IMAGES = 6
# Images of fewer layers are as wide as of so many.
_COLUMNS = 4
# Panels per line. Each structure starts a new line.
_PANELS = 3
_WIDTH = 10.0
# Clip colors at this multiple of an image's root mean square, so that noise stays visible
# beside a strong diagonal.
_REACH = 3
# Label of the gray bands.
_BAND = "untrained weights, ± 2 standard deviations"


def plot(measured: Measurements, before: Measurements | None = None, title: str = "") -> Figure:
    """See `Measurements.plot`."""
    shown = {"measured": measured} if before is None else {"before": before, "after": measured}
    strips = [
        (structure, part, heading)
        for structure, entry in STRUCTURES.items()
        for part, heading in entry.images.items()
        if any(_images(m, structure, part) for m in shown.values())
    ]
    lines = [
        (structure, panels[start : start + _PANELS])
        for structure, panels in _panels(shown).items()
        for start in range(0, len(panels), _PANELS)
    ]
    if not lines:
        raise ValueError("There is nothing to draw: no figures were measured.")
    heights = [_strip_height(shown, *strip) for strip in strips] + [3.0] * len(lines)
    if not isinstance(title, str):
        raise TypeError(f"Argument `title` must be a string. Received: title={title!r}")
    headline = textwrap.fill(title, 130)
    above = 0.2 * headline.count("\n") + 0.3 if title else 0.0
    figure = Figure(figsize=(_WIDTH, sum(heights) + above), layout="constrained")
    if title:
        # Dollar signs in file names would begin a formula.
        figure.suptitle(headline, fontsize=9, parse_math=False)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, strip in zip(parts, strips, strict=False):
        _draw_strip(part, shown, *strip)
    for part, line in zip(parts[len(strips) :], lines, strict=True):
        _draw_line(part, shown, *line)
    return figure


def _panels(shown: dict[str, Measurements]) -> dict[str, list[FigureSpec]]:
    """Return the panels that have figures, by structure."""
    return {
        structure: [
            p
            for p in entry.figures
            if p.panel and any(_rows(m, structure, p) for m in shown.values())
        ]
        for structure, entry in STRUCTURES.items()
    }


def _numbers(shown: dict[str, Measurements], structure: str) -> dict[str, int]:
    """Return the number of each layer of a structure, from 1 in the order of the network."""
    rows = [row for m in shown.values() for row in m.select(structure=structure)]
    return {
        layer_path: n
        for n, layer_path in enumerate(dict.fromkeys(row.layer_path for row in rows), start=1)
    }


def _images(measured: Measurements, structure: str, part: str) -> dict[str, np.ndarray]:
    """Return the images by layer path."""
    keys = measured.images
    return {key[1]: measured.images[key] for key in keys if (key[0], key[2]) == (structure, part)}


def _chosen(shown: dict[str, Measurements], structure: str, part: str) -> list[str]:
    """Return the paths of the layers whose images are shown."""
    images = [_images(measured, structure, part) for measured in shown.values()]
    layer_paths = [
        layer_path
        for layer_path in _numbers(shown, structure)
        if any(layer_path in i for i in images)
    ]
    spread = (
        np.linspace(0, len(layer_paths) - 1, min(len(layer_paths), _IMAGES)).round().astype(int)
    )
    return [layer_paths[number] for number in spread]


def _strip_height(shown: dict[str, Measurements], structure: str, part: str, _: str) -> float:
    """Return the height of a strip of square images."""
    each = min(0.95 * _WIDTH / len(_chosen(shown, structure, part)), 2.4)
    # Small filters need less.
    return 0.4 + len(shown) * (each if part != "variance" else min(each, 1.4))


def _draw_strip(
    figure: SubFigure,
    shown: dict[str, Measurements],
    structure: str,
    part: str,
    heading: str,
) -> None:
    """Draw one kind of image: a row per measurement, a column per layer."""
    figure.suptitle(heading, fontsize=9)
    numbers = _numbers(shown, structure)
    chosen = _chosen(shown, structure, part)
    grid = figure.subplots(len(shown), max(len(chosen), _COLUMNS), squeeze=False)
    colors = ScalarMappable(Normalize(-_REACH, _REACH), "RdBu_r")
    for axes, (label, measured) in zip(grid, shown.items(), strict=True):
        images = _images(measured, structure, part)
        for axis in axes[len(chosen) :]:
            axis.set_axis_off()
        for axis, layer_path in zip(axes, chosen, strict=False):
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
            image = images.get(layer_path)
            if image is None:
                continue
            scale = float(np.sqrt(np.mean(np.square(image)))) or 1.0
            axis.imshow(image / scale, cmap=colors.cmap, norm=colors.norm, interpolation="nearest")
            axis.set_title(f"layer {numbers[layer_path]}", fontsize=8, pad=2)
        if len(shown) > 1:
            axes[0].set_ylabel(label)
    bar = figure.colorbar(colors, ax=grid, ticks=(-_REACH, 0, _REACH), aspect=30)
    bar.set_label("rms of the image", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _rows(measured: Measurements, structure: str, panel: FigureSpec) -> list[Any]:
    rows = measured.select(structure=structure, part=panel.part, figure=panel.name)
    return [row for row in rows if (row.head is not None) == panel.by_head]


def _draw_line(
    figure: SubFigure,
    shown: dict[str, Measurements],
    structure: str,
    panels: list[FigureSpec],
) -> None:
    """Draw panels side by side, with one legend."""
    axes = figure.subplots(1, _PANELS)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=False):
        handles |= _draw_panel(axis, shown, structure, panel)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=8,
    )


def _draw_panel(
    axis: Axes, shown: dict[str, Measurements], structure: str, panel: FigureSpec
) -> dict[str, Any]:
    """Draw one figure by layer, with heads as dots; return the handles of the legend."""
    handles: dict[str, Any] = {}
    numbers = _numbers(shown, structure)
    for label, measured in shown.items():
        rows = _rows(measured, structure, panel)
        if not rows:
            continue
        by_layer: dict[str, list[Any]] = {}
        for row in rows:
            by_layer.setdefault(row.layer_path, []).append(row)
        positions = [numbers[layer_path] for layer_path in by_layer]
        color = "C0" if label == "before" else "C3"
        # Both measurements are of one model, with the same untrained weights.
        null = [here[0] for here in by_layer.values()]
        if _BAND not in handles and all((row.untrained_std or 0) > 0 for row in null):
            low = [row.untrained_mean - 2 * row.untrained_std for row in null]
            high = [4 * row.untrained_std for row in null]
            axis.bar(positions, high, bottom=low, width=1, color="0.8")
            handles[_BAND] = Patch(color="0.8")
        if panel.by_head:
            x = [numbers[row.layer_path] for row in rows]
            axis.plot(x, [row.value for row in rows], ".", color=color, alpha=0.4)
        spread = None
        if panel.error_bars:
            others = measured.select(structure=structure, part=panel.part, figure=panel.error_bars)
            spread = [row.value for row in others]
        means = [mean_and_std(row.value for row in here)[0] for here in by_layer.values()]
        handles[label] = axis.errorbar(
            positions, means, spread, color=color, marker="o", markersize=3
        )
    _label(axis, panel.panel, "layer")
    axis.set_ylabel(panel.unit, fontsize=8)
    return handles


def plot_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """See `StructureLogger.plot`."""
    names = list(dict.fromkeys(name for row in history for name in row))
    layers = [name for name in names if "/layer_" in name]
    panels = [name for name in names if name not in layers and name != "epoch"]
    if not panels:
        raise ValueError("There is nothing to draw: no figures were measured.")
    rows = math.ceil(len(panels) / _PANELS)
    figure = Figure(figsize=(_WIDTH, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, _PANELS, squeeze=False).ravel()
    epochs = [row["epoch"] for row in history]
    values = {name: [row.get(name, math.nan) for row in history] for name in names}
    for axis, panel in zip(axes, panels, strict=False):
        for name in layers:
            if name.startswith(f"{panel}/"):
                axis.plot(epochs, values[name], color="0.7", linewidth=0.8)
        axis.plot(epochs, values[panel], "o-", color="C3", markersize=3)
        _label(axis, panel, "epoch")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _label(axis: Axes, title: str, x: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x, fontsize=8)
    axis.tick_params(labelsize=8)
    locator: Any = axis.xaxis.get_major_locator()
    locator.set_params(integer=True, min_n_ticks=1)
    axis.grid(alpha=0.3)
