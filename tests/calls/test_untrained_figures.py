import math

import keras
import numpy as np
import pytest

import keras_mimetic
from keras_mimetic._numerics.mlp import (
    energy_of_ones,
    expected_of_normals,
    expected_part,
    standardized_mean,
)
from keras_mimetic._numerics.products import diagonal, expected_diagonal
from keras_mimetic._numerics.random import fold_in, sample
from keras_mimetic._structures import depthwise


def normals(number, *shape):
    return sample("untruncated_normal", shape, fold_in(5, number))


def assert_close(values, expected, rel=0.0):
    """Check mean and standard deviation to four standard errors, which must be small."""
    mean, deviation = expected
    error = deviation / math.sqrt(len(values))
    assert abs(np.mean(values) - mean) < 4 * error
    # Generous for heavy tails.
    assert np.std(values) == pytest.approx(deviation, rel=rel + 5 / math.sqrt(2 * len(values)))


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 5), (8, 40), (30, 1)])
def test_figures_of_matrices_agree_with_samples(inputs, outputs):
    matrices = [normals(number, inputs, outputs) for number in range(1000)]
    expected = expected_of_normals(inputs, outputs)
    means, z = zip(*map(standardized_mean, matrices), strict=True)
    assert_close(means, expected["mean"])
    assert_close(z, expected["z"])
    for axis, name in enumerate(("energy_over_inputs", "energy_over_outputs")):
        if matrices[0].shape[axis] > 1:
            assert_close([energy_of_ones(m, axis) for m in matrices], expected[name], rel=0.05)


def test_matrices_too_small_for_a_finite_standard_deviation():
    assert "z" not in expected_of_normals(3, 50)
    assert "mean" not in expected_of_normals(3, 1)
    # One input has all of the energy.
    assert expected_of_normals(1, 50)["energy_over_inputs"] == (1, 0)
    assert expected_of_normals(1, 50)["energy_over_outputs"][1] > 0


@pytest.mark.parametrize(
    ("count", "rank"), [(3, 8), (4, 1), (4, 16), (8, 2), (16, 32), (40, 16), (128, 4)]
)
def test_diagonals_agree_with_samples(count, rank):
    values = [
        diagonal(normals(2 * number, count, rank), normals(2 * number + 1, rank, count))
        for number in range(800)
    ]
    # Three channels have heavy tails.
    assert_close(values, expected_diagonal(count), rel=0.05 if count > 3 else 0.2)


def test_the_diagonal_of_two_channels_has_no_finite_standard_deviation():
    assert expected_diagonal(2) is None


def test_fractions_of_the_energy_agree_with_samples():
    energies = [np.square(normals(number, 4, 6)).sum(axis=1) for number in range(800)]
    assert_close([e[-1] / e.sum() for e in energies], expected_part(6, 24))


def make():
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((6, 6, 32))
    y = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    y = keras.layers.Dense(64, activation="gelu")(keras.layers.LayerNormalization()(y))
    x = keras.layers.Add()([x, keras.layers.Dense(32)(y)])
    x = keras.layers.Reshape((36, 32))(x)
    return keras.Model(inputs, keras.layers.MultiHeadAttention(2, 16)(x, x))


def test_a_second_call_reuses_the_samples():
    model = make()
    depthwise._expected.cache_clear()
    first = keras_mimetic.measure(model)
    second = keras_mimetic.measure(model)
    assert depthwise._expected.cache_info().misses == 1
    assert second.rows == first.rows


def test_small_models_are_compared_with_untrained_weights():
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 2)(inputs, inputs))
    rows = keras_mimetic.measure(model).select(figure="diagonal")
    assert len(rows) == 2 + 2 + 1
    assert {row.untrained_std for row in rows} == {expected_diagonal(4)[1]}
