"""What `initialize` gains, by model: the table of the README, and its picture.

    python benchmarks/gains.py

Every row is read from the committed runs, so that the table and the results cannot differ. Prints
the table and writes `results/gains.png`.
"""

import dataclasses
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

import verdict
from common import folders, options, pictures

RESULTS = ROOT / "benchmarks" / "results"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table: a model and the runs that compared it.

    Attributes:
        model: What the README calls it.
        runs: Folder of `results`, name of the model and of the variant there.
        first_seed: Earlier seeds chose the rates.
    """

    model: str
    runs: tuple[str, str, str]
    first_seed: int = 0

    def read(self):
        """Return training images and epochs, and the lines of the default and the variant."""
        folder, model, variant = self.runs
        runs = folders.Runs(RESULTS / folder)
        lines = verdict.judge(runs, ["default"], [variant], self.first_seed)
        by_name = {line.row: line for line in lines if line.model == model}
        settings = folders.read_settings(runs.folder)
        # Without a size, all of CIFAR-10's training images but those for validation.
        size = f"{settings['train_size'] or 45_000:,}, {settings['epochs']}"
        return size, by_name["default"], by_name[variant]


_LEARNED = "ViT, learned positions, average pooling"
ROWS = (
    Row(_LEARNED, ("where-it-pays", "vit_learned", "initialize"), 152),
    Row("ViT, sin-cos positions", ("long", "vit", "all")),
    Row("ConvNeXt-like", ("long", "convnext", "all")),
    Row(_LEARNED, ("positions", "vit_learned", "pos0.5_all"), 72),
    Row(
        "ViT, learned positions, flattened head (Keras tutorial)",
        ("positions-models", "vit_learned_flatten", "pos0.5_all"),
    ),
    Row("ViT of 12 blocks, sin-cos positions", ("depth", "vit_deep", "all"), 102),
    Row("ViT of KerasHub (class token)", ("real-models", "hub_vit", "initialize"), 112),
    Row("CCT (Keras tutorial)", ("real-models", "cct", "initialize"), 112),
    Row("Swin Transformer of KerasHub", ("real-models", "hub_swin", "initialize"), 112),
    Row(
        "ConvNeXt, four stages, LayerScale 1e-6, stddev 0.02",
        ("real-models", "convnext_stages", "initialize"),
        112,
    ),
    Row("MobileNet of Keras, half width", ("real-models", "mobilenet", "initialize"), 112),
    Row("MLP-Mixer", ("real-models", "mixer", "initialize"), 112),
)


def main(argv=None):
    parser, add = options.parser(__doc__)
    path = RESULTS / "gains.png"
    add("--output", type=pathlib.Path, default=path, help="the picture [%(default)s]")
    args = parser.parse_args(argv)
    found = [(row, *row.read()) for row in ROWS]
    print(table(found))
    values = {f"{row.model}: {size}": line.differences for row, size, _, line in found}
    figure, (axis,) = pictures.panels(1, 8, 1.2 + 0.28 * len(values))
    pictures.draw_differences(axis, values)
    axis.set_xlabel("points of test accuracy over the model's own weights", fontsize=8)
    title = "What initialize gains, by model, training images and epochs"
    axis.set_title(title, fontsize=9)
    print(f"Picture: {pictures.save(figure, args.output)}")


def table(found):
    """Return the table in Markdown."""
    text = [
        "| model | images, epochs | own weights | mimetic | gain, points | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for row, size, default, line in found:
        means = (statistics.fmean(one.accuracies.values()) for one in (default, line))
        gain, interval = line.seen.text(1).replace("-", "\N{MINUS SIGN}").split(" ", 1)
        gain = f"**{gain}**" if line.seen.low > 0 else gain
        cells = [row.model, size, *(f"{mean:.1f} %" for mean in means)]
        cells += [f"{gain} {interval}", str(len(line.differences))]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


if __name__ == "__main__":
    main()
