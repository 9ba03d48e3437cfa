"""Command-line options that scripts share. Needs no Keras, whose import takes seconds."""

import argparse
import importlib.util
import pathlib
import sys

# Names that --model takes. models.py has the models.
MODELS = ("convnext", "vit", "convmixer", "mixer")
_SPATIAL = {"attention": {}, "depthwise": {}}
# Arguments of `initialize` for each --init. `None` keeps Keras's Glorot weights.
INITS = {
    "default": None,
    "control": {"structures": _SPATIAL, "control": True},
    "mean": {"structures": {"mlp": {"hidden_bias": None}}},
    "bias": {"structures": {"mlp": {"mean": None}}},
    "mlp": {"structures": "mlp"},
    "spatial": {"structures": _SPATIAL},
    "all": {},
}
INITS_HELP = (
    "initial weights; default: Keras's Glorot; mean: the first matrix of each MLP gets a nonzero "
    "mean (Trockman and Kolter 2026); bias: hidden biases start below zero; mlp: mean and bias; "
    "spatial: structured attention and depthwise convolutions; control: weights of their norms "
    "without structure; all: everything that keras_mimetic.initialize does [%(default)s]"
)
PRECISION = {"no": "float32", "bfloat16": "mixed bfloat16", "float16": "mixed float16"}
# Increase it when the weights of a seed change, or the meaning of a name, so that old and new runs
# are not mixed.
DRAWS_VERSION = 3


def start(parse):
    """Read the options and import Keras, or exit with a sentence.

    A script calls this before its own import of Keras, so that mistyped options are reported at
    once.
    """
    parse()
    try:
        import keras  # noqa: F401
    except (ImportError, ValueError) as error:
        backends = ("jax", "tensorflow", "torch")
        installed = ", ".join(name for name in backends if importlib.util.find_spec(name))
        sys.exit(
            f"Keras cannot load its backend ({error}). Installed: {installed or 'none'}. To choose "
            "one, write for example KERAS_BACKEND=jax before the command."
        )


def parser(description, **more):
    """Return a parser that keeps the lines of the description, and its `add_argument`."""
    more["formatter_class"] = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=description, **more)
    return made, made.add_argument


def add_data(add):
    """Add the options that choose images."""
    images = "images: digits, cifar10 (TFDS) or a FILE.npz [%(default)s]"
    add("--dataset", default="digits", help=images)
    add("--data-dir", help="folder of TFDS data sets [TFDS's own]")
    add("--download", action="store_true", help="let TFDS fetch what is missing")
    add("--train-size", type=positive(int), help="training images [all but those for validation]")
    crops = "random crops and flips [on for cifar10]"
    add("--augment", choices=("auto", "on", "off"), default="auto", help=crops)


def add_training(add, epochs):
    """Add the options of training."""
    add("--epochs", type=positive(int), default=epochs, help="passes over the images [%(default)s]")
    add("--batch-size", type=positive(int), help="images per step [128; for digits 32]")
    add("--weight-decay", type=float, default=0.05, help="of AdamW [%(default)s]")
    add_computation(add)
    add_verbose(add)


def add_computation(add):
    """Add --mixed-precision."""
    precision = "16-bit computation [%(default)s]"
    add("--mixed-precision", choices=PRECISION, default="no", help=precision)


def add_verbose(add):
    """Add --verbose. Without a terminal it prints a line per epoch, without control characters."""
    default = 1 if sys.stdout.isatty() else 2
    text = "0: nothing, 1: a progress bar, 2: a line per epoch [1 in a terminal, 2 elsewhere]"
    add("--verbose", type=int, choices=(0, 1, 2), default=default, help=text)


def add_processes(add):
    """Add --processes."""
    at_once = "runs at once, each with its part of the processor's threads [%(default)s]"
    add("--processes", type=positive(int), default=1, help=at_once)


def add_output(add, default):
    """Add --output, a folder."""
    add("--output", type=_folder, help=f"folder for the results [{default}]")


def _folder(text):
    if "://" in text:
        raise argparse.ArgumentTypeError(f"must be a folder on this machine, not {text}")
    return pathlib.Path(text).expanduser()


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

    names = ("epochs", "batch_size", "weight_decay", "augment", "mixed_precision")
    return {
        "dataset": images.name,
        "data_sha256": images.sha256,
        "train_size": len(images.train[0]),
        **{name: getattr(args, name) for name in names},
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
    epochs = settings["epochs"]
    return (
        f"{epochs} epoch{'' if epochs == 1 else 's'}, batch {settings['batch_size']}, weight decay "
        f"{settings['weight_decay']:g}, augmentation {settings['augment']}, "
        f"{PRECISION[settings['mixed_precision']]}"
    )


def positive(kind, zero=False):
    """Return a type of option: a number greater than 0 (or 0, if `zero`)."""

    def parse_positive(text):
        value = kind(text)
        if not (value > 0 or (zero and value == 0)):
            at_least = "0 or more" if zero else "greater than 0"
            raise argparse.ArgumentTypeError(f"must be {at_least}, not {text}")
        return value

    parse_positive.__name__ = f"positive {kind.__name__}"
    return parse_positive
