import math

import keras
import numpy as np
import pytest

import keras_mimetic
from keras_mimetic import _measure
from keras_mimetic._numerics.mlp import (
    energy_of_ones,
    expected_of_normals,
    expected_part,
    standardized_mean,
)
from keras_mimetic._numerics.products import diagonal, expected_diagonal
from keras_mimetic._numerics.random import fold_in, sample


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
    assert "energy_over_inputs" not in expected_of_normals(1, 50)
    assert "energy_over_outputs" in expected_of_normals(1, 50)


@pytest.mark.parametrize(("count", "rank"), [(16, 32), (40, 16), (128, 4)])
def test_diagonals_agree_with_samples(count, rank):
    values = [
        diagonal(normals(2 * number, count, rank), normals(2 * number + 1, rank, count))
        for number in range(800)
    ]
    assert_close(values, expected_diagonal(count, rank), rel=0.02)
    assert expected_diagonal(count, 511 // count) is None
    assert expected_diagonal(15, 1000) is None


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


def test_a_second_call_reuses_the_samples(monkeypatch):
    model = make()
    _measure._sampled.clear()
    cold = keras_mimetic.measure(model)
    assert len(_measure._sampled) == 1  # of the filters: all others are in closed form
    monkeypatch.setattr(_measure, "_sample_figures", None)
    warm = keras_mimetic.measure(model)
    assert warm.rows == cold.rows


def test_closed_forms_and_samples_agree_in_a_report(monkeypatch):
    model = make()
    closed = keras_mimetic.measure(model, ("mlp", "attention"))
    for name in ("mlp", "attention"):
        structure = _measure.STRUCTURES[name]
        monkeypatch.setattr(structure, "expected", lambda site, shapes: {})
    drawn = keras_mimetic.measure(model, ("mlp", "attention"))
    for row, other in zip(closed.rows, drawn.rows, strict=True):
        assert (row.figure, row.value) == (other.figure, other.value)
        if row.untrained_mean is None:
            assert other.untrained_mean is None
            continue
        assert other.untrained_mean == pytest.approx(
            row.untrained_mean, abs=0.5 * row.untrained_std
        )
        assert other.untrained_std == pytest.approx(row.untrained_std, rel=0.35)


def test_layers_of_different_kinds_do_not_share_samples():
    def built(norm):
        inputs = keras.Input((3,))
        x = keras.layers.Dense(4, activation="gelu")(norm(inputs))
        return keras.Model(inputs, keras.layers.Dense(3)(x))

    _measure._sampled.clear()
    for norm in (keras.layers.LayerNormalization(), keras.layers.BatchNormalization()):
        keras_mimetic.measure(built(norm), ("mlp",))
        keras_mimetic.measure(built(norm), ("mlp",))
    assert len(_measure._sampled) == 2
