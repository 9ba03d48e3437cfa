"""How training goes: presets, each of whose values is also an option."""

import dataclasses

from common import options, script


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides what training does, besides model, data, initial weights and seed.

    Attributes:
        epochs: Whole passes over the training images.
        batch_size: Images a step of the optimizer, on all devices together.
        accumulate: Parts of a batch that are computed one after the other.
        learning_rate: The peak rate of AdamW.
        warmup_epochs: Epochs over which the rate rises from 0; it falls by a cosine then.
        weight_decay: Of AdamW, times the rate; not on norms, biases and layer scales.
        clip: Largest global norm of the gradient; 0 is none.
        smoothing: Of labels.
        ema: Part that an average of the weights keeps at each step of the optimizer;
            with it the averages are validated and end in the model (beside a BatchNorm's
            statistics, which are those of the weights themselves). 0 is none.
        drop_path: Probability of stochastic depth in the last layer, rising from 0.
        image_size: Of both sides, in pixels, a multiple of 32 (for ConvMixer of 14).
        rand_augment: RandAugment's operations an image; 0 is none.
        magnitude: Their strength, 0 to 10.
        mixup: Alpha of mixup; 0 is none.
        cutmix: Alpha of cutmix; 0 is none. With both, one of them for each batch.
        erase: Probability of random erasing.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: float = 0.05
    accumulate: int = 1
    clip: float = 1.0
    smoothing: float = 0.1
    ema: float = 0.0
    drop_path: float = 0.0
    image_size: int = 224
    rand_augment: int = 2
    magnitude: float = 9.0
    mixup: float = 0.8
    cutmix: float = 1.0
    erase: float = 0.25


class RecipeError(script.Stop):
    """The recipe cannot be carried out; says what to change."""


# "full" is near DeiT's (arXiv:2012.12877), without repeated augmentation; its warm-up and
# average are ConvNeXt's (arXiv:2201.03545), the clipping is ours. "short" is ours.
PRESETS = {
    "short": Recipe(
        epochs=50,
        batch_size=1024,
        learning_rate=1e-3,
        warmup_epochs=5,
        magnitude=6.0,
        mixup=0.1,
        cutmix=0.0,
        erase=0.0,
    ),
    "full": Recipe(
        epochs=300,
        batch_size=1024,
        learning_rate=1e-3,
        warmup_epochs=20,
        ema=0.9999,
        drop_path=0.1,
    ),
}
_HELP = {
    "epochs": "passes over the images",
    "batch_size": "images a step, on all devices together",
    "accumulate": "parts of a batch computed one after the other",
    "learning_rate": "peak rate of AdamW",
    "warmup_epochs": "epochs in which the rate rises from 0",
    "weight_decay": "of AdamW; not on norms and biases",
    "clip": "largest global norm of the gradient, 0: none",
    "smoothing": "of labels",
    "ema": "average of the weights, part kept at each step, 0: none",
    "drop_path": "stochastic depth of the last layer",
    "image_size": "pixels of each side",
    "rand_augment": "RandAugment's operations an image, 0: none",
    "magnitude": "of RandAugment, 0 to 10",
    "mixup": "alpha of mixup, 0: none",
    "cutmix": "alpha of cutmix, 0: none",
    "erase": "probability of random erasing",
}
_POSITIVE = ("epochs", "batch_size", "learning_rate", "accumulate", "image_size")
_AT_MOST = {"smoothing": 1, "ema": 1, "drop_path": 1, "magnitude": 10, "mixup": 1, "erase": 1}


def add_options(add):
    """--preset, and an option for each value of a recipe, which `Recipe` explains."""
    add(
        "--preset",
        choices=PRESETS,
        default="short",
        help=f"recipe: {', '.join(PRESETS)} [%(default)s]",
    )
    for field in dataclasses.fields(Recipe):
        least = field.name not in _POSITIVE
        kind = options.positive(field.type, zero=least, at_most=_AT_MOST.get(field.name))
        values = (f"{name} {getattr(preset, field.name):g}" for name, preset in PRESETS.items())
        text = f"{_HELP[field.name]} [{', '.join(values)}]"
        add("--" + field.name.replace("_", "-"), type=kind, help=text)


def of(args):
    """The preset's recipe with the values that were given."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PRESETS[args.preset], **given)


def check(recipe, model_name, replicas):
    """What is wrong with a recipe, as a sentence; or `None`."""
    unit = recipe.accumulate * replicas
    if recipe.batch_size % unit:
        return (
            f"--batch-size {recipe.batch_size} cannot be shared evenly by {replicas} devices in "
            f"--accumulate {recipe.accumulate} parts: choose a multiple of {unit}."
        )
    patch = {"vit": 16, "convmixer": 14}.get(model_name.partition("_")[0], 32)
    if recipe.image_size % patch:
        return f"--image-size {recipe.image_size} is no multiple of {patch}, as {model_name} needs."
    if recipe.drop_path and model_name.startswith("convmixer"):
        return f"{model_name} has no drop path: give --drop-path 0."
    if not recipe.warmup_epochs < recipe.epochs:
        return (
            f"--warmup-epochs {recipe.warmup_epochs:g} must be less than --epochs {recipe.epochs}."
        )
    return None


def compile_model(model, recipe, *, steps, jit="auto"):
    """Gives a model its optimizer, loss and metrics.

    Args:
        steps: Steps of the optimizer an epoch.
        jit: As --jit.
    """
    import keras

    from common.training import adamw

    more = {}
    if recipe.clip:
        more["global_clipnorm"] = recipe.clip
    if recipe.ema:
        # Keras averages after each part of a batch.
        more.update(use_ema=True, ema_momentum=recipe.ema ** (1 / recipe.accumulate))
    model.compile(
        optimizer=adamw(
            recipe.learning_rate,
            recipe.weight_decay,
            recipe.epochs * steps,
            warmup=round(recipe.warmup_epochs * steps),
            accumulate=recipe.accumulate,
            **more,
        ),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.smoothing
        ),
        # Weighted, so that what fills up the last batch of validation does not count.
        weighted_metrics=[
            # Keras's mean of losses divides by all, and this is without smoothing.
            keras.metrics.CategoricalCrossentropy(name="cross_entropy", from_logits=True),
            keras.metrics.CategoricalAccuracy(name="top1"),
            keras.metrics.TopKCategoricalAccuracy(min(5, model.output_shape[-1]), name="top5"),
        ],
        jit_compile=options.JIT[jit],
    )
