"""MLPs with a normalization before the activation, whose beta is the hidden bias."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mimetic

NORMS = (layers.LayerNormalization, layers.BatchNormalization)


def make(norm):
    x = keras.Input((6, 16))
    y = norm(layers.Dense(64)(layers.LayerNormalization()(x)))
    return keras.Model(x, layers.Dense(16)(ops.relu(y)))


def array(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable))


@pytest.mark.parametrize("cls", NORMS)
def test_beta_starts_at_the_hidden_bias(cls):
    norm = cls()
    model = make(norm)
    dense = model.layers[2]
    before = array(dense.kernel)
    report = keras_mimetic.initialize(model, seed=0)
    (row,) = report.rows
    assert row.written
    assert (row.path, row.note) == (
        norm.beta.path,
        "hidden bias -0.5 (beta of the norm before its activation)",
    )
    np.testing.assert_array_equal(array(norm.beta), np.float32(-0.5))
    np.testing.assert_array_equal(array(dense.kernel), before)
    assert not array(dense.bias).any()
    # The hidden units' real mean, in standard deviations.
    x = np.random.default_rng(0).normal(size=(64, 6, 16))
    y = array(norm(dense(model.layers[1](x)), training=True))
    assert abs(y.mean() + 0.5) < 0.01
    assert abs(y.std() - 1) < 0.03


def test_beta_is_in_units_of_gamma():
    norm = layers.BatchNormalization()
    model = make(norm)
    gamma = np.linspace(-1, 2, 64, dtype=np.float32)
    norm.gamma.assign(gamma)
    settings = {"mlp": {"hidden_bias": -1}}
    keras_mimetic.initialize(model, settings, seed=0, force=True)
    np.testing.assert_allclose(array(norm.beta), -np.abs(gamma))
    (mean,) = keras_mimetic.measure(model).select(part="hidden_bias", figure="mean")
    assert mean.value == pytest.approx(-1)


def test_what_is_written_is_no_training():
    model = make(layers.LayerNormalization())
    keras_mimetic.initialize(model, seed=0)
    assert keras_mimetic.initialize(model, seed=1).written


@pytest.mark.parametrize("cls", NORMS)
def test_measured_beside_untrained_weights(cls):
    model = make(cls())
    (mean,) = keras_mimetic.measure(model).select(part="hidden_bias", figure="mean")
    assert (mean.value, mean.untrained_mean, mean.untrained_std) == (0, 0, 0)
    keras_mimetic.initialize(model, seed=0)
    (mean,) = keras_mimetic.measure(model).select(part="hidden_bias", figure="mean")
    assert (mean.value, mean.untrained_mean) == (-0.5, 0)


def test_control_has_the_norm_of_beta():
    norm = layers.BatchNormalization()
    model = make(norm)
    keras_mimetic.initialize(model, seed=0, control=True)
    beta = array(norm.beta)
    assert set(beta) == {-0.5, 0.5}


def test_what_is_skipped():
    norm = layers.BatchNormalization()
    model = make(norm)
    settings = {"mlp": {"hidden_bias": None, "mean": -1}}
    with pytest.warns(UserWarning, match="wrote no weight"):
        report = keras_mimetic.initialize(model, settings, seed=0)
    assert "would cancel the mean and the hidden bias" in report.rows[0].note
    norm.trainable = False
    with pytest.warns(UserWarning, match="wrote no weight"):
        report = keras_mimetic.initialize(model, seed=0)
    assert "frozen" in report.rows[0].note
    # A bias before the norm is no hidden bias.
    model = make(layers.LayerNormalization(center=False))
    assert keras_mimetic.measure(model).select(part="hidden_bias") == ()


def inverted(x, hidden=32, width=8, excite=False, strides=1):
    """Expand, depthwise, project, as in MobileNetV2 and EfficientNet."""
    y = layers.ReLU(6)(layers.BatchNormalization()(layers.Conv2D(hidden, 1)(x)))
    y = layers.ZeroPadding2D(1)(y)
    y = layers.DepthwiseConv2D(3, strides=strides)(y)
    y = layers.Activation("silu")(layers.BatchNormalization()(y))
    if excite:
        gates = layers.Conv2D(2, 1, activation="silu")(
            layers.GlobalAveragePooling2D(keepdims=True)(y)
        )
        y = layers.Multiply()([y, layers.Conv2D(hidden, 1, activation="sigmoid")(gates)])
    return layers.BatchNormalization()(layers.Conv2D(width, 1)(y))


@pytest.mark.parametrize(
    ("arguments", "is_listed"),
    [
        ({}, True),
        ({"excite": True, "strides": 2}, True),
        ({"width": 32}, False),
        ({"hidden": 8}, False),
    ],
)
def test_inverted_residuals_have_a_row(arguments, is_listed):
    x = keras.Input((8, 8, 8))
    model = keras.Model(x, inverted(x, **arguments))
    report = keras_mimetic.initialize(model, seed=0, dry_run=True)
    rows = [row for row in report.rows if row.structure == "mlp"]
    assert ["inverted residual" in row.note for row in rows] == [True] * is_listed
    assert [row.path for row in rows] == [model.layers[1].kernel.path] * is_listed
