"""Train a network of a published size on ImageNet, from the initial weights that --init names.

    KERAS_BACKEND=jax python examples/imagenet --data-dir DIR --model vit_s16 --init all
    KERAS_BACKEND=jax python examples/imagenet --image-folder DIR --preset full
    KERAS_BACKEND=jax python examples/imagenet --dataset synthetic --speed
    KERAS_BACKEND=jax python examples/imagenet --data-dir DIR --hosts 10.0.0.1:1234 4 0

The same code runs on every backend. Each epoch leaves a checkpoint, the metrics and a picture of
the curves in the output folder. --resume continues from the last complete epoch, and the result
equals that of an uninterrupted run.
"""

import dataclasses

from common import options, script

# models.py has them.
MODELS = (
    *("vit_ti16", "vit_s16", "convnext_atto", "convnext_tiny", "convmixer_512_12"),
    *("vit_trial", "convnext_trial"),
)


def _value(text, default=dataclasses.MISSING, at_most=None, zero=True):
    metadata = {"help": text, "at_most": at_most, "zero": zero}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What training does, besides model, data, initial weights and seed.

    AdamW with linear warm-up and cosine decay. Norms, biases and layer scales have no weight decay.
    With `ema`, averages of the weights are validated and end in the model; the statistics of a
    BatchNorm remain those of the weights themselves.
    """

    epochs: int = _value("passes over the images", zero=False)
    batch_size: int = _value("images per step, on all devices together", zero=False)
    learning_rate: float = _value("peak rate of AdamW", zero=False)
    warmup_epochs: float = _value("epochs in which the rate rises from 0")
    weight_decay: float = _value("of AdamW; not on norms and biases", 0.05)
    accumulate: int = _value("parts of a batch computed one after the other", 1, zero=False)
    clip: float = _value("largest global norm of the gradient, 0: none", 1.0)
    smoothing: float = _value("of labels", 0.1, at_most=1)
    ema: float = _value("average of the weights, part kept at each step, 0: none", 0.0, at_most=1)
    drop_path: float = _value("stochastic depth of the last layer", 0.0, at_most=1)
    image_size: int = _value("pixels of each side", 224, zero=False)
    rand_augment: int = _value("operations of RandAugment per image, 0: none", 2)
    magnitude: float = _value("of RandAugment, 0 to 10", 9.0, at_most=10)
    mixup: float = _value("alpha of mixup, 0: none", 0.8, at_most=1)
    cutmix: float = _value("alpha of cutmix, 0: none; with mixup one of them per batch", 1.0)
    erase: float = _value("probability of random erasing", 0.25, at_most=1)


class RecipeError(script.Stop):
    """The recipe cannot be used; says what to change."""


# "full" is near DeiT's (arXiv:2012.12877), without repeated augmentation. Its warm-up and average
# are ConvNeXt's (arXiv:2201.03545), the clipping is ours. "short" is ours.
PRESETS = {
    "short": Recipe(50, 1024, 1e-3, 5, magnitude=6.0, mixup=0.1, cutmix=0.0, erase=0.0),
    "full": Recipe(300, 1024, 1e-3, 20, ema=0.9999, drop_path=0.1),
}


def parse(argv=None):
    parser, add = options.parser(__doc__)
    sets = "a TFDS data set with images and labels, or synthetic, for speed alone [%(default)s]"
    add("--dataset", type=options.text, default="imagenet2012", help=sets)
    add("--data-dir", type=options.text, help="folder of TFDS data sets [TFDS's own]")
    add("--download", action="store_true", help="let TFDS prepare what is missing")
    folder = "folder with train/ and val/, one folder per class, instead"
    add("--image-folder", type=options.folder, help=folder)
    size = "images per epoch of --dataset synthetic [ImageNet's]"
    add("--synthetic-images", type=options.positive(int), default=1_281_167, help=size)
    buffer = "encoded images that TFDS's order is shuffled over [%(default)s]"
    add("--shuffle-buffer", type=options.positive(int), default=16_384, help=buffer)
    models = f"network: {', '.join(MODELS)} [%(default)s]"
    add("--model", choices=MODELS, default="vit_s16", help=models)
    add("--init", choices=options.INITS, default="all", help=f"{options.INITS_HELP} [%(default)s]")
    add("--seed", type=options.seed, default=0, help="of weights and batches [%(default)s]")
    presets = f"recipe: {', '.join(PRESETS)} [%(default)s]"
    add("--preset", choices=PRESETS, default="short", help=presets)
    for field in dataclasses.fields(Recipe):
        limits = {name: field.metadata[name] for name in ("zero", "at_most")}
        values = (f"{name} {getattr(preset, field.name):g}" for name, preset in PRESETS.items())
        text = f"{field.metadata['help']} [{', '.join(values)}]"
        name = "--" + field.name.replace("_", "-")
        add(name, type=options.positive(field.type, **limits), help=text)
    options.add_computation(add)
    devices = "devices of this host [all accelerators; one CPU]"
    add("--devices", type=options.positive(int), help=devices)
    shared = "devices that share each layer's weights (JAX, ViT) [%(default)s]"
    add("--model-devices", type=options.positive(int), default=1, help=shared)
    hosts = "JAX on several hosts: HOST:PORT of the first, their number, and which this is"
    add("--hosts", nargs=3, metavar=("ADDRESS", "COUNT", "NUMBER"), help=hosts)
    resume = "continue from the last complete epoch in the output folder, if there is one"
    add("--resume", action="store_true", help=resume)
    add("--tensorboard", action="store_true", help="also write logs for TensorBoard")
    speed = "only print the speed of data alone and of steps alone, and the recipe"
    add("--speed", action="store_true", help=speed)
    options.add_verbose(add)
    options.add_output(add, "results/imagenet-MODEL-INIT-seedSEED-BACKEND")
    return parser.parse_args(argv)


def of(args):
    """Return the recipe of the preset with the values that were given."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PRESETS[args.preset], **given)


def check(recipe, model_name, replicas):
    """Raise `RecipeError` if a model cannot be trained by a recipe on so many devices."""
    unit = recipe.accumulate * replicas
    patch = {"vit": 16, "convmixer": 14}.get(model_name.partition("_")[0], 32)
    if recipe.batch_size % unit:
        raise RecipeError(
            f"--batch-size {recipe.batch_size} cannot be shared evenly by {replicas} devices in "
            f"--accumulate {recipe.accumulate} parts: choose a multiple of {unit}."
        )
    if recipe.image_size % patch:
        raise RecipeError(
            f"--image-size {recipe.image_size} is no multiple of {patch}, as {model_name} needs."
        )
    if recipe.drop_path and model_name.startswith("convmixer"):
        raise RecipeError(f"{model_name} has no drop path: give --drop-path 0.")
    if not recipe.warmup_epochs < recipe.epochs:
        raise RecipeError(
            f"--warmup-epochs {recipe.warmup_epochs:g} must be less than --epochs {recipe.epochs}."
        )
