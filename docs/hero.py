"""Make `hero.png`, the picture at the top of the README, from the committed results.

    KERAS_BACKEND=torch python docs/hero.py

The first two panels are cut from the picture that `examples/look_inside.py` drew of a ViT before
and after training. The third is the same layer of the same model after `initialize`, with
the same colors. The curves are the runs of `benchmarks/results/long`.
"""

import pathlib
import sys

from matplotlib import image
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import keras_mimetic
from common import folders, models

RESULTS = ROOT / "benchmarks" / "results"
# Pixels of the value-output product of layer 1 in that picture: rows, columns.
CUTS = {
    "before training": (slice(615, 835), slice(29, 249)),
    "after training": (slice(864, 1084), slice(29, 249)),
}
# As `Measurements.plot`: colors reach to so many times the root mean square.
REACH = 3
CURVES = {"default": "Keras's default", "all": "after initialize()"}
COLORS = {"default": "0.45", "all": "C3"}


def main():
    """Draw it."""
    figure = Figure(figsize=(11, 3), layout="constrained", dpi=150)
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.5))
    picture = image.imread(RESULTS / "look-inside-cifar10-jpeg-q75" / "vit.png")
    for axis, (title, cut) in zip(axes, CUTS.items(), strict=False):
        axis.imshow(picture[cut], interpolation="nearest")
        axis.set_title(title)
    product = initialized_product()
    limit = REACH * (product**2).mean() ** 0.5
    axes[2].imshow(product, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes[2].set_title("after initialize()")
    for axis in axes[:3]:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    axes[1].set_xlabel("$W_V W_O$ of the first attention layer of a ViT (blue: negative)")
    draw_curves(axes[3])
    figure.savefig(pathlib.Path(__file__).with_name("hero.png"))


def initialized_product():
    """Return the value-output product of layer 1 after `initialize`."""
    model = models.vit((32, 32, 3), 10)
    keras_mimetic.initialize(model, seed=0)
    images = keras_mimetic.measure(model, "attention").images
    return next(x for (_, _, part), x in images.items() if part == "value_output")


def draw_curves(axis):
    """Plot validation accuracy by epoch, for each of three seeds and their mean."""
    runs = folders.Runs(RESULTS / "long")
    for init, label in CURVES.items():
        rows = runs.find(model="vit", init=init)
        curves = [[100 * float(x) for x in row["curve"].split()] for row in rows]
        epochs = range(1, len(curves[0]) + 1)
        for curve in curves:
            axis.plot(epochs, curve, color=COLORS[init], alpha=0.3, linewidth=0.8)
        mean = [sum(point) / len(point) for point in zip(*curves, strict=True)]
        axis.plot(epochs, mean, "o-", markersize=4, color=COLORS[init], label=label)
    title = f"ViT, CIFAR-10, {len(curves)} seeds"
    axis.set(title=title, xlabel="epoch", ylabel="validation accuracy %")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, reverse=True)


if __name__ == "__main__":
    main()
