import numpy as np
import pytest

from keras_mimetic._structures.base import noise_with_norms_of


def test_controls_have_the_norms_of_weights_and_no_structure():
    # Squares of the first overflow float32.
    weights = {"kernel": np.full((20, 30), 1e25, "float32"), "bias": np.ones(500, "float32")}
    controls = noise_with_norms_of(weights, seed=0)
    for role, values in weights.items():
        control = controls[role].astype("float64")
        assert controls[role].dtype == np.float32
        assert control.shape == values.shape
        assert np.linalg.norm(control) == pytest.approx(np.linalg.norm(values.astype("float64")))
        assert abs(control.mean()) < 0.15 * control.std()
