"""Whether a model's weights show that it was trained."""

from typing import Any

import keras
import numpy as np

from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._tracing.keras_internals import sublayers

# Variables that layers start as a constant, each by its initializer's attribute.
_CONSTANT = ("gamma", "beta", "bias", "moving_mean", "moving_variance")
_WRITTEN = "_keras_mimetic_written"


def check_untrained(model: Any, force: bool) -> None:
    """Raise if a model has LoRA enabled or, unless `force`, if it was trained."""
    for layer in sublayers(model):
        path = layer.path or layer.name
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                "Argument `model` must not have LoRA enabled: its kernels are trained. "
                f"Received: a model whose layer {path!r} has"
            )
        iterations = getattr(getattr(layer, "optimizer", None), "iterations", None)
        steps = 0 if iterations is None else int(keras.ops.convert_to_numpy(iterations))
        if steps and not force:
            raise ValueError(
                f"Argument `model` has been trained (the optimizer of {path!r} took {steps} "
                "steps), and initializing it would lose that. Pass force=True if you mean it."
            )
    found = None if force else trained_weight(model)
    if found is not None:
        raise ValueError(
            f"Argument `model` has visibly been trained: the values of {found[0].path!r} differ, "
            f"where its initializer makes all of them {found[1]:g}. Initializing the model would "
            "lose that. Pass force=True if you mean it."
        )


def trained_weight(model: Any) -> tuple[Any, float] | None:
    """A variable that its layer starts as a constant and that is one no more.

    Biases that `initialize` starts are constant vectors, and so is what a user sets to
    one number: a variable counts only if its values differ from one another, and are
    not those that `remember` knows.

    Returns:
        The first such variable with the constant that its initializer gives, or `None`.
    """
    for layer in sublayers(model):
        for name in _CONSTANT:
            variable = getattr(layer, name, None)
            constant = _constant(getattr(layer, f"{name}_initializer", None))
            if constant is None or not isinstance(variable, keras.Variable):
                continue
            values = values_of(variable)
            if values.size and np.ptp(values) > 0 and not _is_remembered(variable, values):
                return variable, constant
    return None


def remember(variable: Any) -> None:
    """Marks values that `initialize` wrote, so that they are no sign of training."""
    setattr(variable, _WRITTEN, hash(values_of(variable).tobytes()))


def _is_remembered(variable: Any, values: np.ndarray) -> bool:
    return getattr(variable, _WRITTEN, None) == hash(values.tobytes())


def _constant(initializer: Any) -> float | None:
    if isinstance(initializer, keras.initializers.Zeros):
        return 0.0
    if isinstance(initializer, keras.initializers.Ones):
        return 1.0
    if isinstance(initializer, keras.initializers.Constant) and np.ndim(initializer.value) == 0:
        return float(initializer.value)
    return None
