"""One training run of the examples' models: initial weights, optimizer, `fit`."""

import math
import sys

import keras

import keras_mimetic
from common import data, options
from common.models import MODELS
from keras_mimetic._numerics.random import fold_in

_MEAN = {"mlp": {"hidden_bias": None}}
_BIAS = {"mlp": {"mean": None}}
_SPATIAL = {"attention": {}, "depthwise": {}}
# What each --init makes of a model with Keras's Glorot weights: arguments of `initialize`,
# or `None` to leave it.
INITS = {
    "default": None,
    "control": {"structures": _SPATIAL, "control": True},
    "mean": {"structures": _MEAN},
    "bias": {"structures": _BIAS},
    "mlp": {"structures": "mlp"},
    "spatial": {"structures": _SPATIAL},
    "all": {},
}


def build(model_name, init, seed, image_shape, classes):
    """A model of models.py with the initial weights that --init names."""
    patch = 4 if min(image_shape[:2]) >= 32 else 2
    model = MODELS[model_name](image_shape, classes, patch=patch, seed=fold_in(seed, 0))
    start(model, init, seed)
    return model


def start(model, init, seed):
    """Give a new model the initial weights that --init names."""
    if INITS[init] is not None:
        keras_mimetic.initialize(model, seed=fold_in(seed, 1), **INITS[init])


def fit(model, images, args, *, rate, seed):
    """Trains a model on `images` as the options in `args` say; the history, by metric."""
    compile_model(model, images, args, rate=rate)
    return train(model, images, args, seed=seed)


def compile_model(model, images, args, *, rate):
    """Gives a model its optimizer, for a peak rate, its loss and its metric."""
    steps = args.epochs * len(_batches(images, args, seed=0))
    model.compile(
        optimizer=adamw(rate, args.weight_decay, steps, warmup=max(1, steps // 10)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=options.JIT[args.jit],
    )


def start_again(model, weights):
    """Gives a compiled model other weights, and an optimizer that has taken no step."""
    model.set_weights(weights)
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
    # Of float16 training, and the one variable of an optimizer that does not start at 0.
    if hasattr(model.optimizer, "dynamic_scale"):
        model.optimizer.dynamic_scale.assign(model.optimizer.initial_scale)
    return model


def train(model, images, args, *, seed, validation_freq=1):
    """Trains a compiled model; validates every `validation_freq` epochs."""
    history = model.fit(
        _batches(images, args, seed),
        shuffle=False,  # `Batches` does, as a function of the seed
        epochs=args.epochs,
        validation_data=images.validation,
        validation_freq=validation_freq,
        validation_batch_size=500,
        verbose=args.verbose,
    ).history
    warn_if_diverged(history)
    return history


def warn_if_diverged(history):
    """Say on stderr that the last loss is not a number."""
    if not math.isfinite(history["loss"][-1]):
        print(f"The loss became {history['loss'][-1]}: training diverged.", file=sys.stderr)


def _batches(images, args, seed):
    augment = args.augment == "on"
    return data.Batches(*images.train, batch_size=args.batch_size, seed=seed, augment=augment)


def evaluate(model, images):
    """Accuracy on the test images."""
    x, labels = images.test
    logits = model.predict(x, batch_size=500, verbose=0)
    return float((logits.argmax(-1) == labels).mean())


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class PerUpdate(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule over updates of the weights, where Keras counts the parts of batches."""

    def __init__(self, schedule, parts):
        super().__init__()
        self.schedule, self.parts = schedule, parts

    def __call__(self, step):
        return self.schedule(keras.ops.floor_divide(step, self.parts))

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "parts": self.parts}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["parts"])


def adamw(rate, weight_decay, steps, *, warmup, accumulate=1, **more):
    """AdamW with linear warm-up and cosine decay; no decay on biases, norms and layer scales.

    Args:
        rate: The peak.
        steps: Updates of the weights, all in all.
        warmup: Those in which the rate rises from 0.
        accumulate: Parts of a batch, whose gradients are gathered for one update.
    """
    if warmup:
        rising = {"warmup_target": rate, "warmup_steps": warmup}
        schedule = keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warmup), **rising)
    else:
        schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    if accumulate > 1:
        schedule = PerUpdate(schedule, accumulate)
        more["gradient_accumulation_steps"] = accumulate
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay, **more)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
