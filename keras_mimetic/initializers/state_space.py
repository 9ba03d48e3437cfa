"""One weight of a state-space layer."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_mimetic._checks import check_number, check_positive
from keras_mimetic._numerics import state_space
from keras_mimetic._numerics.random import check_seed
from keras_mimetic.initializers.base import NumPyInitializer

_SAMPLERS: dict[str, Callable[..., np.ndarray]] = {
    "in_projection": state_space.in_projection,
    "a_log": state_space.log_decays,
    "dt_bias": state_space.dt_biases,
    "conv_kernel": state_space.conv_kernel,
    "conv_bias": state_space.conv_bias,
    "out_projection": state_space.out_projection,
}


@keras.saving.register_keras_serializable(package="keras_mimetic")
class StateSpaceWeight(NumPyInitializer):
    """Sample one of the weights of a `MimeticStateSpace`.

    Args:
        role: The weight's name in that layer; a function of
            `keras_mimetic._numerics.state_space` samples it.
        seed: An integer >= 0, the same for all weights of a layer.
        **settings: Arguments of that function, besides shape and seed.
    """

    # Biases may start at zero.
    may_be_zero = True

    def __init__(self, role: str, seed: int, **settings: Any) -> None:
        self.role = role
        self.settings = settings
        super().__init__(check_seed(seed))

    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        return _SAMPLERS[self.role](shape, seed=seed, **self.settings)

    def strengths(self) -> dict[str, Any]:
        return self.settings

    def get_config(self) -> dict[str, Any]:
        return {"role": self.role, "seed": self.seed, **self.settings}


def check_strength(name: str, value: Any, positive: bool = False) -> float | None:
    """Return `value` as a `float`, after checking that it is `None` or a finite number."""
    if value is None:
        return None
    if positive:
        return check_positive(name, value, "None or a finite number > 0")
    return check_number(name, value, "None or a finite number")


def check_a_log(name: str, value: Any) -> float | None:
    """Check that `value` is `None` or a number whose exponential float32 can hold."""
    allowed = f"None or a finite number <= {_MAX_A_LOG}"
    if value is None:
        return None
    number = check_number(name, value, allowed)
    if number > _MAX_A_LOG:
        raise ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={value}")
    return number


# Far smaller ones erase the state already.
_MAX_A_LOG = 80


def check_correlation(name: str, value: Any) -> float | None:
    """Return `value` as a `float`, after checking that it is `None` or in [-1, 1]."""
    allowed = "None or a number in [-1, 1]"
    if value is None:
        return None
    number = check_number(name, value, allowed)
    if abs(number) > 1:
        raise ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={value}")
    return number
