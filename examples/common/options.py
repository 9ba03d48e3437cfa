"""Command-line options that the examples share, read before Keras, whose import takes seconds."""

import argparse
import math
import sys

# Names that options take. What they stand for is in models.py, training.py,
# recall_tasks.py and language_text.py, which import Keras.
MODELS = ("convnext", "vit", "convmixer", "mixer")
IMAGENET_MODELS = (
    *("vit_ti16", "vit_s16", "convnext_atto", "convnext_tiny", "convmixer_512_12"),
    *("vit_trial", "convnext_trial"),
)
INITS = ("default", "control", "mean", "bias", "mlp", "spatial", "all")
INITS_HELP = (
    "initial weights; default: Keras's Glorot; mean: the first matrix of each MLP gets a nonzero "
    "mean (Trockman and Kolter 2026); bias: hidden biases start below zero; mlp: mean and bias; "
    "spatial: structured attention and depthwise convolutions; control: weights of their norms "
    "without structure; all: everything that keras_mimetic.initialize does"
)
# By task the greatest length.
TASKS = {"copy": 10**6, "recall": 32}
TEXTS = ("topics", "docstrings")

PRECISION = {"no": "float32", "bfloat16": "mixed bfloat16", "float16": "mixed float16"}
# What --jit is for Keras.
JIT = {"auto": "auto", "on": True, "off": False}
# Raised when the weights of a seed change, or a name of initial weights its meaning, so that
# old and new runs do not mix.
DRAWS_VERSION = 3
# What all runs of one folder have in common, besides the data.
SETTINGS = ("epochs", "batch_size", "weight_decay", "augment", "mixed_precision", "jit")


def adder(parser):
    """`parser.add_argument`, where values are shown as N, X or NAME in the help."""

    def add(*names, **arguments):
        kind = getattr(arguments.get("type"), "__name__", "")
        metavar = "N" if kind.endswith(("int", "seed")) else "X" if kind.endswith("float") else None
        if "choices" in arguments and not metavar:
            metavar = "NAME"
        return parser.add_argument(*names, **{"metavar": metavar, **arguments})

    return add


def add_verbose(add):
    """--verbose: without a terminal a line an epoch, without control characters."""
    add(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        default=1 if sys.stdout.isatty() else 2,
        help="0: nothing, 1: a progress bar, 2: a line an epoch [1 in a terminal, 2 elsewhere]",
    )


def add_data(add, parser):
    """Options that say which images."""
    add(
        "--dataset",
        type=text,
        default="digits",
        help="images: digits, cifar10 (TFDS) or a FILE.npz [%(default)s]",
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
    add("--epochs", type=positive(int), default=epochs, help="passes over the images [%(default)s]")
    add("--batch-size", type=positive(int), help="images a step [128; for digits 32]")
    decay = positive(float, zero=True)
    add("--weight-decay", type=decay, default=0.05, help="of AdamW [%(default)s]")
    add_computation(add)
    add_verbose(add)


def add_computation(add):
    """Options of how a model is computed."""
    add(
        "--mixed-precision",
        choices=PRECISION,
        default="no",
        help=_choices("16-bit computation", PRECISION),
    )
    add("--jit", choices=JIT, default="auto", help=_choices("Keras's jit_compile", JIT))


def add_devices(add):
    """Options that say which devices."""
    number = "how many of this host [all accelerators; one CPU]"
    add("--devices", type=positive(int), help=number)
    model_devices = "devices that share each layer's weights (JAX, ViT) [%(default)s]"
    add("--model-devices", type=positive(int), default=1, help=model_devices)
    hosts = "JAX on several hosts: HOST:PORT of the first, their number, and which this is"
    add("--hosts", nargs=3, metavar=("ADDRESS", "COUNT", "NUMBER"), help=hosts)


def resolve(args):
    """Fills in the defaults that depend on the data set."""
    if args.batch_size is None:
        args.batch_size = 32 if args.dataset == "digits" else 128
    if args.augment == "auto":
        args.augment = "on" if args.dataset == "cifar10" else "off"


def set_precision(args):
    """Makes --mixed-precision Keras's own."""
    if args.mixed_precision != "no":
        import keras

        keras.config.set_dtype_policy(f"mixed_{args.mixed_precision}")


def settings(args, images):
    """What all runs of one folder have in common."""
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


# The largest whole number that NumPy and all backends take as a size.
_LARGEST = 2**31 - 1


def positive(kind, zero=False, at_most=None):
    """A type of option: a finite number greater than 0 (or 0, if `zero`)."""
    if kind is int and at_most is None:
        at_most = _LARGEST

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
    """A type of option: UTF-8 that is not empty, as an unset variable of the shell is."""
    if not value.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # It could be neither printed nor kept with the results.
        raise argparse.ArgumentTypeError(f"must be UTF-8, which {value!a} is not") from error
    return value


def _choices(what, names):
    return f"{what}: {', '.join(names)} [%(default)s]"
