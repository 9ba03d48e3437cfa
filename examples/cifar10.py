"""Trains small image models from different initial weights and compares them.

    python examples/cifar10.py                          # embedded digits, CPU, a minute
    python examples/cifar10.py --dataset cifar10 --model convnext --init default control all
    KERAS_BACKEND=torch python examples/cifar10.py --dataset cifar10 --mixed-precision bfloat16

The same file runs on every backend that KERAS_BACKEND names. Comparisons are
paired: for one seed all initializations share the order of the images, their
augmentation, and every weight that they do not replace. Kernels of MLPs share their
draws, which a mean only shifts; structured attention and convolutions are draws of their
own, and "control" has their norms without the structure.
"""

import script

if __name__ == "__main__":
    script.catch_signals("the same command goes on with what is missing")

import argparse
import time

import options


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.adder(parser)
    options.add_data(add, parser)
    add(
        "--model",
        nargs="+",
        choices=options.MODELS,
        default=["vit"],
        help=f"{', '.join(options.MODELS)} [vit]",
    )
    inits = f"{options.INITS_HELP} [default all]"
    add("--init", nargs="+", choices=options.INITS, default=["default", "all"], help=inits)
    add("--seeds", type=options.positive(int), default=3, help="paired seeds, from 0 [%(default)s]")
    add(
        "--learning-rate",
        nargs="+",
        type=options.positive(float),
        default=[2e-3],
        help="peak rates; of several the best on the validation images is reported [0.002]",
    )
    options.add_training(add, epochs=6)
    add("--output", type=options.text, help="folder for the results [results/DATASET-BACKEND]")
    args = parser.parse_args(argv)
    for name in ("model", "init", "learning_rate"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    options.resolve(args)
    return args


if __name__ == "__main__":
    # Before Keras, whose import takes seconds: --help and wrong options are answered at once.
    parse()

import data
import keras
import report
from training import build, evaluate, fit

# What the table compares besides each with the first: what the structure is worth
# beyond its scale, what MLPs add to the spatial structures, and what the mean adds to the bias.
CONTRASTS = [("spatial", "control"), ("all", "spatial"), ("mlp", "bias")]


def main(argv=None):
    args = parse(argv)
    if args.dataset == "digits":
        print("Training on scikit-learn's 8x8 digits; --dataset cifar10 trains on CIFAR-10.")
    images = data.load(
        args.dataset,
        data_dir=args.data_dir,
        download=args.download,
        train_size=args.train_size,
    )
    output = args.output or f"results/{images.name}-{keras.backend.backend()}"
    runs = report.Runs(output, options.settings(args, images))
    options.set_precision(args)

    for label, key in runs.missing(args.model, args.init, args.learning_rate, args.seeds):
        print(label)
        results = train(*key.values(), images, args)
        runs.add({**key, **results, **report.environment()})

    title = options.headline(args, images, report.where(runs.rows))
    shown = (runs, args.model, args.init, args.learning_rate, range(args.seeds), title)
    print("\n" + report.table(*shown, contrasts=CONTRASTS))
    print(f"Runs, table and settings: {runs.folder}/\nPicture: {report.picture(*shown)}")


def train(model_name, init, rate, seed, images, args):
    """One run: the results' columns of its row."""
    # For what still draws from Keras's own generators, such as dropout.
    keras.utils.set_random_seed(seed)
    model = build(model_name, init, seed, images.shape, images.classes)
    start = time.perf_counter()
    history = fit(model, images, args, rate=rate, seed=seed)
    seconds = time.perf_counter() - start
    accuracy = evaluate(model, images)
    keras.backend.clear_session()
    curve = history["val_accuracy"]
    return {
        "validation_accuracy": curve[-1],
        "test_accuracy": accuracy,
        "seconds": round(seconds, 2),
        "curve": " ".join(f"{value:.4f}" for value in curve),
    }


if __name__ == "__main__":
    script.run(main)
