"""One run of a comparison: build a variant, train it, and return its results."""

import argparse
import time

import keras

from cifar10 import compile_model, evaluate, fit
from common import data, folders, options
from lib import variants
from lib.build_variant import build_variant

# Runs that differ only in their weights share a compiled model, because tracing and compiling
# takes as long as many steps of training.
_compiled = {}


def run(args, key):
    """Return the results of one run, by column of runs.csv.

    Args:
        args: The options of compare.py.
        key: The values that identify the run, by name.
    """
    options.set_precision(args)
    images = data.from_options(args)
    variant, seed = variants.parse(key["init"]), key["seed"]
    keras.utils.set_random_seed(seed)
    model = build_variant(key["model"], variant, seed, images, width=args.width)
    epochs = max(1, round(args.epochs * variant.schedule))
    args = argparse.Namespace(**{**vars(args), "epochs": epochs, "verbose": 0})
    kind = (key["model"], variant.shared_bias, key["learning_rate"], epochs)
    if kind in _compiled:
        model = _start_again(_compiled[kind], model.get_weights())
    else:
        compile_model(model, images, args, key["learning_rate"])
        _compiled[kind] = model
    begin = time.perf_counter()
    every = 1 if args.validate == "every" else epochs
    history = fit(model, images, args, seed, validation_freq=every)
    return {
        "validation_accuracy": history["val_accuracy"][-1],
        "seconds": round(time.perf_counter() - begin, 2),
        "test_accuracy": evaluate(model, images),
        "curve": folders.curve(history["val_accuracy"]),
        # Means over the augmented images of each epoch while it trains.
        "loss_curve": folders.curve(history["loss"]),
        "validation_loss_curve": folders.curve(history["val_loss"]),
    }


def _start_again(model, weights):
    """Give a compiled model other weights, and an optimizer that has taken no step."""
    model.set_weights(weights)
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
    # Of training in float16: the one variable of an optimizer that does not start at 0.
    if hasattr(model.optimizer, "dynamic_scale"):
        model.optimizer.dynamic_scale.assign(model.optimizer.initial_scale)
    return model
