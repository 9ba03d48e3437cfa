"""One weight of a state-space layer."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

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
    """Sample the weight of a `MimeticStateSpace` whose name in the layer is `role`.

    A function of `keras_mimetic._numerics.state_space` samples it, with `settings` for its
    arguments besides shape and seed.
    """

    def __init__(self, role: str, seed: int, **settings: Any) -> None:
        self.role = role
        self.settings = settings
        super().__init__(check_seed(seed))

    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        return _SAMPLERS[self.role](shape, seed=seed, **self.settings)

    def get_config(self) -> dict[str, Any]:
        return {"role": self.role, "seed": self.seed, **self.settings}
