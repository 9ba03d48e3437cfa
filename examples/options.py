"""Command-line options that the examples share."""

import argparse
import math

import keras

PRECISION = {"no": "float32", "bfloat16": "mixed bfloat16", "float16": "mixed float16"}
# What --jit is for Keras.
JIT = {"auto": "auto", "on": True, "off": False}
# Raised when a name of --init changes its meaning, so that old and new runs do not mix.
INIT_VERSION = 2
# What all runs of one folder have in common, besides the data.
SETTINGS = ("epochs", "batch_size", "weight_decay", "augment", "mixed_precision", "jit")


def add_data(add, parser):
    """Options that say which images."""
    add(
        "--dataset",
        type=text,
        default="digits",
        help="digits, cifar10 (TFDS) or a FILE.npz [%(default)s]",
    )
    add("--data-dir", type=text, help="folder of TFDS data sets [TFDS's own]")
    parser.add_argument("--download", action="store_true", help="let TFDS fetch what is not there")
    add(
        "--train-size",
        type=positive(int),
        help="training images [all that are not kept for validation]",
    )
    augment = ("auto", "on", "off")
    add(
        "--augment",
        choices=augment,
        default="auto",
        help="on or off: random crops and flips [on for cifar10]",
    )


def add_training(add, epochs):
    """Options that say how to train."""
    add("--epochs", type=positive(int), default=epochs, help="[%(default)s]")
    add("--batch-size", type=positive(int), help="[128; for digits 32]")
    add("--weight-decay", type=positive(float, zero=True), default=0.05, help="[%(default)s]")
    add_computation(add)
    add(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="0, 1 or 2, as in Keras [%(default)s]",
    )


def add_computation(add):
    """Options of how a model is computed."""
    add("--mixed-precision", choices=PRECISION, default="no", help=_choices(PRECISION))
    add("--jit", choices=JIT, default="auto", help=_choices(JIT))


def resolve(args):
    """Fills in the defaults that depend on the data set."""
    if args.batch_size is None:
        args.batch_size = 32 if args.dataset == "digits" else 128
    if args.augment == "auto":
        args.augment = "on" if args.dataset == "cifar10" else "off"


def set_precision(args):
    """Makes --mixed-precision Keras's own."""
    if args.mixed_precision != "no":
        keras.config.set_dtype_policy(f"mixed_{args.mixed_precision}")


def settings(args, images):
    """What all runs of one folder have in common."""
    return {
        "dataset": args.dataset,
        "train_size": len(images.train[0]),
        **{name: getattr(args, name) for name in SETTINGS},
        "init_version": INIT_VERSION,
        "backend": keras.backend.backend(),
    }


def headline(args, images, where):
    """One line with all that a reader of the results must know."""
    return (
        f"{images.name}: {len(images.train[0])} training and {len(images.test[0])} test images, "
        f"{schedule(vars(args))}; {where}"
    )


def schedule(settings):
    """How long and how was trained, from the options or the settings of a folder."""
    return (
        f"{settings['epochs']} epochs, batch {settings['batch_size']}, weight decay "
        f"{settings['weight_decay']:g}, augmentation {settings['augment']}, "
        f"{PRECISION[settings['mixed_precision']]}, jit {settings['jit']}"
    )


def positive(kind, zero=False, at_most=None):
    """A type of option: a finite number greater than 0 (or 0, if `zero`)."""

    def parse_positive(text):
        value = kind(text)
        if at_most is not None and value > at_most:
            raise argparse.ArgumentTypeError(f"must be {at_most} or less, not {text}")
        if not (0 < value < math.inf or (zero and value == 0)):
            at_least = "0 or more" if zero else "greater than 0"
            raise argparse.ArgumentTypeError(f"must be {at_least}, not {text}")
        return value

    parse_positive.__name__ = f"positive {kind.__name__}"
    return parse_positive


def seed(text):
    """A type of option: what Keras and NumPy take as a seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**32 - 1}, not {text}")
    return value


def text(value):
    """A type of option: text that is not empty, as an unset variable of the shell is."""
    if not value.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return value


def _choices(names):
    return ", ".join(names) + " [%(default)s]"
