"""Command-line options that scripts share. Needs no Keras, whose import takes seconds."""

import argparse
import math
import pathlib
import sys

# Names that options take. models.py, training.py and the scripts give them meaning.
MODELS = ("convnext", "vit", "convmixer", "mixer")
INITS = ("default", "control", "mean", "bias", "mlp", "spatial", "all")
INITS_HELP = (
    "initial weights; default: Keras's Glorot; mean: the first matrix of each MLP gets a nonzero "
    "mean (Trockman and Kolter 2026); bias: hidden biases start below zero; mlp: mean and bias; "
    "spatial: structured attention and depthwise convolutions; control: weights of their norms "
    "without structure; all: everything that keras_mimetic.initialize does"
)
PRECISION = {"no": "float32", "bfloat16": "mixed bfloat16", "float16": "mixed float16"}
# What --jit means for Keras.
JIT = {"auto": "auto", "on": True, "off": False}
# Increase it when the weights of a seed change, or the meaning of a name, so that old and new runs
# are not mixed.
DRAWS_VERSION = 3
# What all runs of a folder have in common, besides the data.
SETTINGS = ("epochs", "batch_size", "weight_decay", "augment", "mixed_precision", "jit")


def parser(description, **more):
    """Return a parser, and its `add_argument` with readable names for values in the help."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **more
    )

    def add(*names, **arguments):
        if arguments.get("action") != "store_true":
            kind = getattr(arguments.get("type"), "__name__", "")
            metavar = {"int": "N", "seed": "N", "float": "X"}.get(kind.split(" ")[-1])
            if "choices" in arguments:
                metavar = "NAME"
            arguments = {"metavar": metavar, **arguments}
        return made.add_argument(*names, **arguments)

    return made, add


def parse(made, argv, lists=()):
    """Return the parsed options. Values of `lists` are given once each, in order."""
    args = made.parse_args(argv)
    for name in lists:
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    return args


def add_verbose(add):
    """Add --verbose. Without a terminal it prints a line per epoch, without control characters."""
    add(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        default=1 if sys.stdout.isatty() else 2,
        help="0: nothing, 1: a progress bar, 2: a line per epoch [1 in a terminal, 2 elsewhere]",
    )


def add_data(add):
    """Add the options that choose images."""
    images = "images: digits, cifar10 (TFDS) or a FILE.npz [%(default)s]"
    add("--dataset", type=text, default="digits", help=images)
    add("--data-dir", type=text, help="folder of TFDS data sets [TFDS's own]")
    add("--download", action="store_true", help="let TFDS fetch what is missing")
    add("--train-size", type=positive(int), help="training images [all but those for validation]")
    augment = ("auto", "on", "off")
    crops = "on or off: random crops and flips [on for cifar10]"
    add("--augment", choices=augment, default="auto", help=crops)


def add_training(add, epochs):
    """Add the options of training."""
    add("--epochs", type=positive(int), default=epochs, help="passes over the images [%(default)s]")
    add("--batch-size", type=positive(int), help="images per step [128; for digits 32]")
    decay = positive(float, zero=True)
    add("--weight-decay", type=decay, default=0.05, help="of AdamW [%(default)s]")
    add_computation(add)
    add_verbose(add)


def add_computation(add):
    """Add the options that say how a model is computed."""
    precision = f"16-bit computation: {', '.join(PRECISION)} [%(default)s]"
    add("--mixed-precision", choices=PRECISION, default="no", help=precision)
    jit = f"Keras's jit_compile: {', '.join(JIT)} [%(default)s]"
    add("--jit", choices=JIT, default="auto", help=jit)


def add_processes(add):
    """Add --processes."""
    at_once = "runs at once, each with its part of the processor's threads [%(default)s]"
    add("--processes", type=positive(int), default=1, help=at_once)


def add_output(add, default):
    """Add --output, a folder."""
    add("--output", type=folder, help=f"folder for the results [{default}]")


def resolve(args):
    """Set the defaults that depend on the data set."""
    if args.batch_size is None:
        args.batch_size = 32 if args.dataset == "digits" else 128
    if args.augment == "auto":
        args.augment = "on" if args.dataset == "cifar10" else "off"


def set_precision(args):
    """Set Keras's dtype policy to that of --mixed-precision."""
    if args.mixed_precision != "no":
        import keras

        keras.config.set_dtype_policy(f"mixed_{args.mixed_precision}")


def settings(args, images):
    """Return what all runs of a folder have in common."""
    import keras

    return {
        "dataset": images.name,
        "data_sha256": images.sha256,
        "train_size": len(images.train[0]),
        **{name: getattr(args, name) for name in SETTINGS},
        "draws_version": DRAWS_VERSION,
        "backend": keras.backend.backend(),
    }


def headline(args, images, where):
    """Return one line with all that a reader of the results must know."""
    return (
        f"{images.name}: {len(images.train[0])} training and {len(images.test[0])} test images, "
        f"{schedule(vars(args))}; {where}"
    )


def schedule(settings):
    """Return how models were trained, from the options or the settings of a folder."""
    return (
        f"{settings['epochs']} epochs, batch {settings['batch_size']}, weight decay "
        f"{settings['weight_decay']:g}, augmentation {settings['augment']}, "
        f"{PRECISION[settings['mixed_precision']]}, jit {settings['jit']}"
    )


def positive(kind, zero=False, at_most=None):
    """Return a type of option: a finite number greater than 0 (or 0, if `zero`)."""
    # The largest size that NumPy and all backends take.
    largest = 2**31 - 1 if kind is int and at_most is None else at_most

    def parse_positive(text):
        value = kind(text)
        if largest is not None and value > largest:
            raise argparse.ArgumentTypeError(f"must be {largest} or less, not {text}")
        if not (0 < value < math.inf or (zero and value == 0)):
            at_least = "0 or more" if zero else "greater than 0"
            raise argparse.ArgumentTypeError(f"must be {at_least}, not {text}")
        return value

    parse_positive.__name__ = f"positive {kind.__name__}"
    return parse_positive


def seed(text):
    """Return a seed that Keras and NumPy take."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**32 - 1}, not {text}")
    return value


def text(value):
    """Return text that is not empty, as an unset variable of the shell is."""
    if not value.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return value


def folder(value):
    """Return the path of a local folder or file, where ~ is the home folder."""
    if "://" in text(value):
        raise argparse.ArgumentTypeError(f"must be on this machine, which {value} is not")
    return pathlib.Path(value).expanduser()
