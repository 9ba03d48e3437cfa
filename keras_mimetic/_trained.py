"""Detection of trained models."""

import keras
import numpy as np

from keras_mimetic._graph.keras_internals import sublayers
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._rules import path_of
from keras_mimetic.layers.arguments import constant_of

# Attributes of variables that layers initialize to a constant.
_CONSTANT = ("gamma", "beta", "bias", "moving_mean", "moving_variance")
_ANEW = (
    "To train it anew, call `keras_mimetic.reset(model)` first, or build it again. force=True "
    "overwrites parts of the trained model, keeps the rest, and gives other weights than in a new "
    "one."
)


def check_no_lora(model: keras.layers.Layer) -> None:
    """Raise a `ValueError` if a model has LoRA enabled."""
    for layer in sublayers(model):
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                "Argument `model` must not have LoRA enabled: its kernels are trained. "
                f"Received: a model with LoRA in layer {path_of(layer)!r}"
            )


def why_trained(model: keras.layers.Layer) -> str:
    """Return how a model shows that it was trained, as the text of an error, or `""`."""
    for layer in sublayers(model):
        if steps := steps_of(layer):
            return (
                f"Argument `model` has been trained (the optimizer of {path_of(layer)!r} "
                f"took {steps} step{'' if steps == 1 else 's'}). {_ANEW}"
            )
    found = _trained_weight(model)
    if found is None:
        return ""
    return (
        f"Argument `model` appears to be trained: the values of {found[0].path!r} differ, "
        f"although its initializer sets all of them to {found[1]:g}. {_ANEW}"
    )


def steps_of(model: keras.layers.Layer) -> int:
    """Return the number of steps that the optimizer of a model has taken."""
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return 0
    return int(keras.ops.convert_to_tensor(optimizer.iterations))


def _trained_weight(model: keras.layers.Layer) -> tuple[keras.Variable, float] | None:
    """Return the first variable that differs from the constant of its initializer, and this."""
    # Only variables with several new absolute values count: `initialize` and users may set a bias,
    # or the part of it that belongs to a gate, to another constant, and the control of a hidden
    # bias has random signs.
    for layer in sublayers(model):
        for name in _CONSTANT:
            variable = getattr(layer, name, None)
            constant = constant_of(getattr(layer, f"{name}_initializer", None))
            if constant is None or not isinstance(variable, keras.Variable):
                continue
            if name == "bias" and getattr(layer, "unit_forget_bias", False):
                # An LSTM starts the part of its forget gate at 1.
                continue
            values = values_of(variable)
            changed = np.abs(values[values != constant])
            if changed.size and np.ptp(changed) > 0:
                return variable, constant
    return None
