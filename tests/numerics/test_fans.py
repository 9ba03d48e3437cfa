import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_mimetic._numerics.fans import fans, scaled_std
from keras_mimetic._numerics.random import DISTRIBUTIONS
from keras_mimetic.initializers import MimeticMean

shapes = st.lists(st.integers(1, 7), max_size=5).map(tuple)


@given(shapes)
def test_fans_equal_those_of_keras(shape):
    # Keras's fans, from the limit of its uniform distribution.
    for mode, fan in (("fan_in", fans(shape)[0]), ("fan_out", fans(shape)[1])):
        keras_draw = keras.initializers.VarianceScaling(1.0, mode, "uniform", seed=0)
        values = keras.ops.convert_to_numpy(keras_draw((*shape,)))
        assert abs(values).max() <= math.sqrt(3 / fan) * (1 + 1e-6)
    window = math.prod(shape[:-2])
    if len(shape) >= 2:
        assert fans(shape) == (window * shape[-2], window * shape[-1])


def test_fans_by_axes():
    assert fans((64, 4, 16), (0,), (1, 2)) == (64, 64)
    assert fans((4, 16, 32), (-3, -2), (-1,)) == (64, 32)
    with pytest.raises(ValueError, match=r"`output_axes`.*shape is \(3, 4\).*output_axes=\(2,\)"):
        fans((3, 4), (0,), (2,))
    with pytest.raises(ValueError, match=r"at most once.*output_axes=\(-2,\)"):
        fans((3, 4), (0,), (-2,))


@pytest.mark.parametrize(
    ("mode", "scale", "variance"),
    [("fan_in", 1.0, 1 / 20), ("fan_out", 2.0, 2 / 60), ("fan_avg", 1.0, 1 / 40)],
)
def test_scaled_std(mode, scale, variance):
    assert scaled_std(20, 60, scale=scale, mode=mode) == pytest.approx(math.sqrt(variance))


def test_scaled_std_of_an_empty_weight_is_finite():
    assert scaled_std(0, 0, scale=1.0, mode="fan_avg") == 1.0


@given(st.floats(-10, 10), st.sampled_from(DISTRIBUTIONS))
def test_the_mean_is_added_in_standard_deviations(mean, distribution):
    plain, shifted = (
        MimeticMean(m, distribution=distribution).sample((30, 90), 3) for m in (0.0, mean)
    )
    std = math.sqrt(1 / 60)
    assert plain.std(dtype="f8") == pytest.approx(std, rel=0.05)
    # A constant up to float32 rounding.
    np.testing.assert_allclose(shifted - plain, mean * std, atol=1e-6 * (1 + abs(mean)))
