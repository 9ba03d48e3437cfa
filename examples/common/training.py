"""Initial weights by name, the optimizer, and one training run of the image models."""

import math
import sys

import keras

import keras_mimetic
from common import data, options
from common.models import MODELS
from keras_mimetic._numerics.random import fold_in

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


def build(model_name, init, seed, image_shape, classes):
    """Return a model of models.py with the initial weights that --init names."""
    patch = 4 if min(image_shape[:2]) >= 32 else 2
    model = MODELS[model_name](image_shape, classes, patch=patch, seed=fold_in(seed, 0))
    start(model, init, seed)
    return model


def start(model, init, seed):
    """Give a new model the initial weights that --init names."""
    if INITS[init] is not None:
        keras_mimetic.initialize(model, seed=fold_in(seed, 1), **INITS[init])


def compile_model(model, images, args, *, rate):
    """Compile a model for classification with AdamW at a peak rate."""
    steps = args.epochs * len(_batches(images, args, seed=0))
    model.compile(
        optimizer=adamw(rate, args.weight_decay, steps, warmup=max(1, steps // 10)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=options.JIT[args.jit],
    )


def train(model, images, args, *, seed, validation_freq=1):
    """Train a compiled model and return its history by metric."""
    history = model.fit(
        _batches(images, args, seed),
        shuffle=False,  # `Batches` shuffles, as a function of the seed.
        epochs=args.epochs,
        validation_data=images.validation,
        validation_freq=validation_freq,
        validation_batch_size=500,
        verbose=args.verbose,
    ).history
    if not math.isfinite(history["loss"][-1]):
        print(f"The loss became {history['loss'][-1]}: training diverged.", file=sys.stderr)
    return history


def _batches(images, args, seed):
    augment = args.augment == "on"
    return data.Batches(*images.train, batch_size=args.batch_size, seed=seed, augment=augment)


def evaluate(model, images):
    """Return the accuracy on the test images."""
    x, labels = images.test
    logits = model.predict(x, batch_size=500, verbose=0)
    return float((logits.argmax(-1) == labels).mean())


def warmup_cosine(rate, steps, warmup):
    """Return a schedule over `steps` updates: linear warm-up to `rate`, then cosine decay."""
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(rate, steps)
    rising = {"warmup_target": rate, "warmup_steps": warmup}
    return keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warmup), **rising)


def adamw(rate, weight_decay, steps, *, warmup):
    """Return AdamW with warm-up and cosine decay, and no decay on biases and norms."""
    optimizer = keras.optimizers.AdamW(
        warmup_cosine(rate, steps, warmup), weight_decay=weight_decay
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
