"""Trains small image models from different initial weights and compares them.

    python examples/cifar10.py                          # embedded digits, CPU, a minute
    python examples/cifar10.py --dataset cifar10 --model convnext --init default control all
    KERAS_BACKEND=torch python examples/cifar10.py --dataset cifar10 --mixed-precision bfloat16

The same file runs on every backend that KERAS_BACKEND names. Comparisons are
paired: for one seed all initializations share the order of the images, their
augmentation, and every weight that they do not replace. MLPs differ by their
mean alone; structured attention and convolutions are draws of their own, and
"control" has their norms without the structure.
"""

import argparse
import functools
import itertools
import math
import sys
import time

import data
import keras
import report
from models import MODELS, RULES

import keras_mimetic
from keras_mimetic.draws import subseed

_NO_MEAN = {"mean": 0.0}
_SPATIAL = {"attention": {}, "depthwise": {}}
# What each --init makes of the models of models.py: arguments of `initialize`.
# MLPs have the same draws in all of them, with a mean or without.
INITS = {
    "default": {"structures": {"mlp": _NO_MEAN}},
    "control": {"structures": {"mlp": _NO_MEAN, **_SPATIAL}, "control": True},
    "mlp": {"structures": {"mlp": {}}},
    "spatial": {"structures": {"mlp": _NO_MEAN, **_SPATIAL}},
    "all": {"structures": {"mlp": {}, **_SPATIAL}},
}
# What the table compares besides each with the first: what the structure is worth
# beyond its scale, and what the mean adds to the spatial structures.
CONTRASTS = [("spatial", "control"), ("all", "spatial")]
_INITS_HELP = (
    "default: Keras's Glorot weights; mlp: the first matrix of each MLP with a mean; "
    "spatial: structured attention and depthwise convolutions; control: weights of their norms "
    "without structure; all: mlp and spatial [default all]"
)


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = functools.partial(parser.add_argument, metavar="")
    add("--dataset", default="digits", help="digits, cifar10 (TFDS) or a FILE.npz [%(default)s]")
    add("--data-dir", help="folder of TFDS data sets [TFDS's own]")
    parser.add_argument("--download", action="store_true", help="let TFDS fetch what is not there")
    add("--model", nargs="+", choices=MODELS, default=["vit"], help=f"{', '.join(MODELS)} [vit]")
    add("--init", nargs="+", choices=INITS, default=["default", "all"], help=_INITS_HELP)
    add("--seeds", type=_positive(int), default=3, help="paired seeds, from 0 [%(default)s]")
    add("--epochs", type=_positive(int), default=6, help="[%(default)s]")
    add(
        "--train-size",
        type=_positive(int),
        help="training images [all that are not kept for validation]",
    )
    add("--batch-size", type=_positive(int), help="[128; for digits 32]")
    add(
        "--learning-rate",
        nargs="+",
        type=_positive(float),
        default=[2e-3],
        help="peak rates; of several the best on the validation images is reported [0.002]",
    )
    add("--weight-decay", type=_positive(float, zero=True), default=0.05, help="[%(default)s]")
    augment = ("auto", "on", "off")
    add(
        "--augment",
        choices=augment,
        default="auto",
        help="on or off: random crops and flips [on for cifar10]",
    )
    add("--mixed-precision", choices=_PRECISION, default="no", help=_choices(_PRECISION))
    jit = ("auto", "on", "off")
    add("--jit", choices=jit, default="auto", help=_choices(jit))
    add("--output", help="folder for the results [results/DATASET-BACKEND]")
    add(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="0, 1 or 2, as in Keras [%(default)s]",
    )
    args = parser.parse_args(argv)
    for name in ("model", "init", "learning_rate"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    if args.batch_size is None:
        args.batch_size = 32 if args.dataset == "digits" else 128
    if args.augment == "auto":
        args.augment = "on" if args.dataset == "cifar10" else "off"
    return args


def main(argv=None):
    args = parse(argv)
    images = data.load(
        args.dataset,
        data_dir=args.data_dir,
        download=args.download,
        train_size=args.train_size,
    )
    output = args.output or f"results/{images.name}-{keras.backend.backend()}"
    runs = report.Runs(output, settings(args, images))
    if args.mixed_precision != "no":
        keras.config.set_dtype_policy(f"mixed_{args.mixed_precision}")

    todo = list(itertools.product(args.model, range(args.seeds), args.learning_rate, args.init))
    for number, (model, seed, rate, init) in enumerate(todo, start=1):
        key = dict(zip(report.KEY, (model, init, rate, seed), strict=True))
        label = f"[{number}/{len(todo)}] {model}, init {init}, rate {rate:g}, seed {seed}"
        if runs.find(**key):
            print(f"{label}: done before")
            continue
        print(label)
        results = train(model, init, rate, seed, images, args)
        runs.add({**key, **results, **report.environment()})

    title = headline(args, images, runs)
    shown = (runs, args.model, args.init, args.learning_rate, range(args.seeds), title)
    print("\n" + report.table(*shown, contrasts=CONTRASTS))
    print(f"Runs, table and settings: {runs.folder}/\nPicture: {report.picture(*shown)}")


def train(model_name, init, rate, seed, images, args):
    """One run: the results' columns of its row."""
    # For what still draws from Keras's own generators, such as dropout.
    keras.utils.set_random_seed(seed)
    model = build(model_name, init, seed, images.shape, images.classes)
    batches = data.Batches(
        *images.train, batch_size=args.batch_size, seed=seed, augment=args.augment == "on"
    )
    model.compile(
        optimizer=optimizer(rate, args, steps=args.epochs * len(batches)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile={"auto": "auto", "on": True, "off": False}[args.jit],
    )
    start = time.perf_counter()
    history = model.fit(
        batches,
        shuffle=False,  # `Batches` does, as a function of the seed
        epochs=args.epochs,
        validation_data=images.validation,
        validation_batch_size=500,
        verbose=args.verbose,
    ).history
    seconds = time.perf_counter() - start
    _, test_accuracy = model.evaluate(*images.test, batch_size=500, verbose=0)
    if not math.isfinite(history["loss"][-1]):
        print(f"The loss became {history['loss'][-1]}: training diverged.", file=sys.stderr)
    keras.backend.clear_session()
    curve = history["val_accuracy"]
    return {
        "validation_accuracy": curve[-1],
        "test_accuracy": float(test_accuracy),
        "seconds": round(seconds, 2),
        "curve": " ".join(f"{value:.4f}" for value in curve),
    }


def build(model_name, init, seed, image_shape, classes):
    """A model of models.py with the initial weights that --init names."""
    patch = 4 if min(image_shape[:2]) >= 32 else 2
    model = MODELS[model_name](image_shape, classes, patch=patch, seed=subseed(seed, 0))
    keras_mimetic.initialize(
        model, seed=subseed(seed, 1), rules=RULES.get(model_name), **INITS[init]
    )
    return model


def optimizer(rate, args, steps):
    """AdamW with linear warm-up and cosine decay; no decay on biases and norms."""
    warmup = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=rate, warmup_steps=warmup
    )
    adamw = keras.optimizers.AdamW(schedule, weight_decay=args.weight_decay)
    adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return adamw


def settings(args, images):
    """What all runs of one folder have in common."""
    common = ("epochs", "batch_size", "weight_decay", "augment", "mixed_precision", "jit")
    return {
        "dataset": args.dataset,
        "train_size": len(images.train[0]),
        **{name: getattr(args, name) for name in common},
        "backend": keras.backend.backend(),
    }


def headline(args, images, runs):
    """One line with all that a reader of the results must know."""
    return (
        f"{images.name}: {len(images.train[0])} training and {len(images.test[0])} test images, "
        f"{args.epochs} epochs, batch {args.batch_size}, weight decay {args.weight_decay:g}, "
        f"augmentation {args.augment}, {_PRECISION[args.mixed_precision]}, jit {args.jit}; "
        f"{report.where(runs.rows)}"
    )


_PRECISION = {"no": "float32", "bfloat16": "mixed bfloat16", "float16": "mixed float16"}


def _choices(names):
    return ", ".join(names) + " [%(default)s]"


def _positive(kind, zero=False):
    def parse_positive(text):
        value = kind(text)
        if not (0 < value < math.inf or (zero and value == 0)):
            at_least = "0 or more" if zero else "greater than 0"
            raise argparse.ArgumentTypeError(f"must be {at_least}, not {text}")
        return value

    parse_positive.__name__ = f"positive {kind.__name__}"
    return parse_positive


if __name__ == "__main__":
    try:
        main()
    except (data.DatasetError, report.SettingsError) as error:
        sys.exit(f"cifar10.py: {error}")
