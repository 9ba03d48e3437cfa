"""Dead hidden units, counted on data by `measure`."""

import keras
import numpy as np
import pytest
from arrays import array
from keras import layers, ops

import keras_mimetic
from keras_mimetic.layers import MimeticMLPBlock

WIDTH, HIDDEN = 8, 12
# Units that each of these inputs turns on, and those that none does.
DEAD = 5


def data(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def kill(layer, count=DEAD):
    """Give the first units of a layer a bias so low that no input turns them on."""
    bias = array(layer.bias).copy()
    bias[:count] = -100
    layer.bias.assign(bias)


def fractions(model, x):
    return [row.value for row in keras_mimetic.measure(model, data=x).select(figure="dead")]


def functional(activate, shape=(WIDTH,), first=None, second=None):
    inputs = keras.Input(shape)
    up = first or layers.Dense(HIDDEN)
    model = keras.Model(inputs, (second or layers.Dense(WIDTH))(activate(up(inputs))))
    kill(up)
    return model


@pytest.mark.parametrize(
    "activate",
    [ops.relu, layers.Activation("gelu"), layers.ReLU(), lambda x: x * ops.sigmoid(1.7 * x)],
)
def test_an_activation_layer(activate):
    model = functional(activate)
    assert fractions(model, data(20, WIDTH)) == [pytest.approx(DEAD / HIDDEN)]


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_an_activation_in_the_first_layer(activation):
    model = functional(lambda x: x, first=layers.Dense(HIDDEN, activation))
    assert fractions(model, data(20, 3, WIDTH)[:, 0]) == [pytest.approx(DEAD / HIDDEN)]


def test_a_leaky_unit_is_never_off():
    assert fractions(functional(layers.LeakyReLU(0.3)), data(20, WIDTH)) == [0]


def test_pointwise_convolutions():
    convolutions = [layers.Conv2D(n, 1) for n in (HIDDEN, WIDTH)]
    model = functional(ops.relu, (4, 4, WIDTH), *convolutions)
    assert fractions(model, data(3, 4, 4, WIDTH)) == [pytest.approx(DEAD / HIDDEN)]


def test_a_unit_that_one_call_of_two_turns_on_is_not_dead():
    inputs = keras.Input((WIDTH,))
    up, down = layers.Dense(HIDDEN, "relu"), layers.Dense(WIDTH)
    model = keras.Model(inputs, down(up(1000 + down(up(inputs)))))
    kill(up)
    up.kernel.assign(np.ones((WIDTH, HIDDEN)))
    assert fractions(model, data(20, WIDTH)) == [0]


def test_a_normalization_after_the_activation_hides_the_units():
    inputs = keras.Input((WIDTH,))
    hidden = layers.LayerNormalization()(ops.relu(layers.Dense(HIDDEN)(inputs)))
    model = keras.Model(inputs, layers.Dense(WIDTH)(hidden))
    assert fractions(model, data(20, WIDTH)) == []


def test_subclassed_models_of_two_arguments_and_blocks():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.block = MimeticMLPBlock(HIDDEN, activation="relu", dropout=0.5, seed=0)

        def call(self, x, scale, training=None):
            return self.block(x * scale, training=training)

    model = Model()
    x, scale = data(20, WIDTH), data(20, 1)
    model(x, scale)
    kill(model.block.fc1)
    before = dict(vars(model.block.fc1))
    measured = keras_mimetic.measure(model, inputs=(x, scale), data=(x, scale))
    (row,) = measured.select(figure="dead")
    assert row.value == pytest.approx(DEAD / HIDDEN)
    assert "dead units" in str(measured)
    assert "41.7%" in str(measured)
    # The layers are as they were.
    assert vars(model.block.fc1) == before
    assert not keras_mimetic.measure(model, inputs=(x, scale)).select(figure="dead")


def test_an_mlp_that_a_rule_includes():
    # Skipped without the rule: its hidden layer is narrower than its input.
    model = functional(ops.relu, (2 * WIDTH,), layers.Dense(HIDDEN, name="up"))
    rules = {"up/kernel": "mlp"}
    settings = {"mlp": {"mean": -0.1, "hidden_bias": None}}
    x = data(20, 2 * WIDTH)
    report = keras_mimetic.initialize(model, settings, rules=rules, data=x, force=True)
    assert list(report.dead_units.values()) == [pytest.approx(DEAD / HIDDEN)]
    measured = keras_mimetic.measure(model, rules=rules)
    assert measured.select(part="second", figure="mean")


def test_data_that_the_model_rejects():
    model = functional(ops.relu)
    with pytest.raises(ValueError, match=r"`data` must be a batch.*shapes \(\(20, 3\),\)"):
        keras_mimetic.measure(model, data=data(20, 3))
    with pytest.raises(TypeError, match="`data` must be a batch of inputs of .* data='x'"):
        keras_mimetic.measure(model, data="x")
    with pytest.raises(ValueError, match="`data`") as caught:
        keras_mimetic.measure(model, data=data(20, 3))
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match=r"`data` must have at least one sample.*\(0, 8\)"):
        keras_mimetic.measure(model, data=data(0, WIDTH))
    with pytest.raises(ValueError, match="`data` must not contain NaN"):
        keras_mimetic.initialize(model, data=data(3, WIDTH) * np.nan, force=True)


def test_units_of_diverged_weights_are_not_dead():
    model = functional(ops.relu)
    model.layers[1].bias.assign(np.full(HIDDEN, np.nan))
    assert not keras_mimetic.measure(model, data=data(20, WIDTH)).select(figure="dead")
    assert vars(model.layers[1])["activation"] is keras.activations.linear
