"""Plots of the growth of structures during training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras_mimetic._plot import new_figure

_COLUMNS = 3


def plot_history(history: Sequence[Mapping[str, float]]) -> Any:
    """See `StructureLogger.plot`."""
    names = list(dict.fromkeys(name for row in history for name in row))
    layers = [name for name in names if "/layer_" in name]
    panels = [name for name in names if name not in layers and name != "epoch"]
    if not panels:
        raise ValueError("There is nothing to draw: no figures were measured.")
    rows = math.ceil(len(panels) / _COLUMNS)
    figure = new_figure(figsize=(10, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    epochs = [row["epoch"] for row in history]
    values = {name: [row.get(name, math.nan) for row in history] for name in names}
    for axis, panel in zip(axes, panels, strict=False):
        for name in layers:
            if name.startswith(f"{panel}/"):
                axis.plot(epochs, values[name], color="0.7", linewidth=0.8)
        axis.plot(epochs, values[panel], "o-", color="C3", markersize=3)
        axis.set_title(panel, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure
