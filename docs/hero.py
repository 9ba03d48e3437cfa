"""Make the pictures of the README and the quickstart from the committed results.

    KERAS_BACKEND=torch python docs/hero.py

`hero.png` and, for narrow screens, `hero-phone.png`: products of value and output weights, and
accuracy by epoch. `trained-vit.png`: these products in all layers. Products before and after
training are cut from the picture that `examples/look_inside.py` drew of a ViT, those of mimetic
weights are of the same model after `initialize`, with the same colors. The curves are the runs
of `benchmarks/results/where-it-pays`. Backgrounds are transparent, text is legible on light and
dark ones.
"""

import pathlib
import sys

import matplotlib
from matplotlib import image
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import keras_mimetic
from common import folders, models

RESULTS = ROOT / "benchmarks" / "results"
# Pixels of the value-output products in that picture: rows, and columns of the layers.
ROWS = {"untrained": slice(615, 835), "trained": slice(864, 1084)}
COLUMNS = [slice(start, start + 220) for start in (29, 275, 521, 767)]
# As `Measurements.plot`: colors reach to so many times the root mean square.
REACH = 3
CURVES = {"default": "Keras's default", "initialize": "mimetic"}
COLORS = {"default": "0.5", "initialize": "C3"}
_TEXT = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


def main():
    """Draw all of them."""
    matplotlib.rcParams.update(dict.fromkeys(_TEXT, "0.5"))
    panels = products()
    here = pathlib.Path(__file__)
    wide = Figure(figsize=(11, 3.1), layout="constrained", dpi=150)
    draw_products(wide.subplots(1, 4, width_ratios=(1, 1, 1, 1.5)), panels)
    draw_curves(wide.axes[3])
    narrow = Figure(figsize=(5, 5), layout="constrained", dpi=150)
    grid = narrow.add_gridspec(2, 3, height_ratios=(1, 1.6))
    draw_products([narrow.add_subplot(grid[0, n]) for n in range(3)], panels)
    draw_curves(narrow.add_subplot(grid[1, :]))
    layers = Figure(figsize=(8, 6.4), layout="constrained", dpi=100)
    draw_layers(layers.subplots(3, 4), panels)
    for figure, name in ((wide, "hero"), (narrow, "hero-phone"), (layers, "trained-vit")):
        figure.savefig(here.with_name(f"{name}.png"), transparent=True)


def products():
    """Return the pictures of the products by weights, each a list of layers."""
    picture = image.imread(RESULTS / "look-inside-cifar10-jpeg-q75" / "vit.png")
    panels = {name: [picture[rows, x] for x in COLUMNS] for name, rows in ROWS.items()}
    model = models.vit((32, 32, 3), 10)
    keras_mimetic.initialize(model, seed=0)
    images = keras_mimetic.measure(model, "attention").images
    panels["mimetic"] = [x for (_, _, part), x in images.items() if part == "value_output"]
    return panels


def show(axis, panel):
    """Draw a product."""
    if panel.ndim == 2:
        limit = REACH * (panel**2).mean() ** 0.5
        axis.imshow(panel, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    else:
        axis.imshow(panel, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_frame_on(False)


def draw_products(axes, panels):
    """Draw those of the first layer."""
    for axis, (name, panel) in zip(axes, panels.items(), strict=False):
        show(axis, panel[0])
        axis.set_title(name)
    axes[1].set_xlabel("$W_V W_O$, first attention layer (blue: negative)")


def draw_layers(axes, panels):
    """Draw a row for each kind of weights and a column for each layer."""
    for row, (name, panel) in zip(axes, panels.items(), strict=True):
        for number, axis in enumerate(row):
            show(axis, panel[number])
        row[0].set_ylabel(name)
    for number, axis in enumerate(axes[0], 1):
        axis.set_title(f"layer {number}")


def draw_curves(axis):
    """Plot validation accuracy by epoch, for each of three seeds and their mean."""
    runs = folders.Runs(RESULTS / "where-it-pays")
    for init, label in CURVES.items():
        rows = runs.find(init=init, learning_rate=2e-3)
        # The first seed chose the rate.
        curves = [[100 * float(x) for x in row["curve"].split()] for row in rows[1:]]
        epochs = range(1, len(curves[0]) + 1)
        for curve in curves:
            axis.plot(epochs, curve, color=COLORS[init], alpha=0.3, linewidth=0.8)
        mean = [sum(point) / len(point) for point in zip(*curves, strict=True)]
        axis.plot(epochs, mean, "o-", markersize=4, color=COLORS[init], label=label)
    axis.set_title(f"ViT, CIFAR-10 (JPEG q75), {len(curves)} seeds")
    axis.set(xticks=range(5, len(epochs) + 1, 5), xlabel="epoch", ylabel="validation accuracy %")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, reverse=True)


if __name__ == "__main__":
    main()
