"""State-space layers in models: found, initialized, measured."""

import functools
import math

import keras
import numpy as np
import pytest
from arrays import array
from keras import layers

import keras_mimetic
from keras_mimetic._numerics import state_space
from keras_mimetic.layers import MimeticStateSpace

OWN = {"a_log": None, "dt": None, "correlation": None, "convolution": None}
ALL = {"a_log": -6.0, "dt": 0.5, "correlation": 0.7, "convolution": "identity"}
ROLES = ("in_projection/kernel", "a_log", "dt_bias", "conv_kernel", "conv_bias")


def make(width=64, depth=2, groups=1, **arguments):
    tokens = keras.Input((None,), dtype="int32")
    x = layers.Embedding(20, width)(tokens)
    for number in range(depth):
        y = layers.RMSNormalization()(x)
        y = MimeticStateSpace(16, 32, num_groups=groups, seed=number, **{**OWN, **arguments})(y)
        x = layers.Add()((x, y))
    return keras.Model(tokens, layers.Dense(20)(x))


def state_spaces(model):
    return [layer for layer in model.layers if isinstance(layer, MimeticStateSpace)]


def values(layer):
    return {weight.path.removeprefix(layer.path + "/"): array(weight) for weight in layer.weights}


def test_all_parts_are_written_and_nothing_else():
    model = make()
    before = [array(weight) for weight in model.weights]
    report = keras_mimetic.initialize(model, {"state_space": ALL}, seed=0)
    assert not report.skipped
    written = [row.path for row in report.written]
    assert written == [f"{layer.path}/{role}" for layer in state_spaces(model) for role in ROLES]
    for weight, old in zip(model.weights, before, strict=True):
        assert (array(weight) != old).any() == (weight.path in written)
    for layer in state_spaces(model):
        new = values(layer)
        np.testing.assert_array_equal(new["a_log"], -6)
        np.testing.assert_allclose(np.log1p(np.exp(new["dt_bias"])), 0.5, rtol=1e-6)
        np.testing.assert_array_equal(new["conv_kernel"][-1], 1)
        assert not new["conv_kernel"][:-1].any()
        assert not new["conv_bias"].any()
        assert not new["in_projection/kernel"][:, -layer.num_heads :].any()
    kernels = [values(layer)["in_projection/kernel"] for layer in state_spaces(model)]
    assert (kernels[0] != kernels[1]).any()
    assert model(np.zeros((2, 5), "int32")).shape == (2, 5, 20)


def test_the_default_is_that_of_the_layer():
    model = make()
    report = keras_mimetic.initialize(model, seed=0)
    assert {row.path.split("/")[-1] for row in report.written} == {"kernel", "a_log", "dt_bias"}
    layer = MimeticStateSpace(16, 32)
    expected = {"a_log": layer.initial_a_log, "dt": layer.initial_dt}
    expected["correlation"] = layer.correlation
    measured = keras_mimetic.measure(model)
    for name, value in expected.items():
        found = [row.value for row in measured.select(figure=name)]
        assert (min(found), max(found)) == pytest.approx((value, value), abs=0.05)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("a_log", {"a_log"}),
        ("dt", {"in_projection/kernel", "dt_bias"}),
        ("correlation", {"in_projection/kernel"}),
        ("convolution", {"conv_kernel", "conv_bias"}),
    ],
)
def test_each_part_alone(name, roles):
    model = make(depth=1)
    report = keras_mimetic.initialize(model, {"state_space": {**OWN, name: ALL[name]}}, seed=0)
    layer = state_spaces(model)[0]
    assert {row.path.removeprefix(layer.path + "/") for row in report.written} == roles
    figure, value = ("present", 1) if name == "convolution" else (name, ALL[name])
    found = [row.value for row in keras_mimetic.measure(model).select(figure=figure)]
    assert (min(found), max(found)) == pytest.approx((value, value), abs=0.05)


def test_control_has_the_norms_and_no_structure():
    model, control = make(), make()
    keras_mimetic.initialize(model, {"state_space": ALL}, seed=0)
    report = keras_mimetic.initialize(control, {"state_space": ALL}, seed=0, control=True)
    for a, b in zip(state_spaces(model), state_spaces(control), strict=True):
        mimetic, noise = values(a), values(b)
        for role in ("in_projection/kernel", "conv_kernel", "conv_bias"):
            norms = [np.linalg.norm(weights[role]) for weights in (mimetic, noise)]
            assert norms[1] == pytest.approx(norms[0], rel=1e-5)
        # Mamba-2's own.
        assert (noise["a_log"] > 0).all()
        dts = np.log1p(np.exp(noise["dt_bias"]))
        assert ((dts > 9.9e-4) & (dts < 0.101)).all()
    rows = keras_mimetic.measure(control).select(figure="correlation")
    assert max(abs(row.value) for row in rows) < 0.15
    assert all(row.note.startswith("control of ") for row in report.written)


def test_seeds_and_layer_paths():
    kernels = []
    for seed in (1, 1, 2):
        model = make()
        keras_mimetic.initialize(model, seed=seed)
        kernels.append(values(state_spaces(model)[1])["in_projection/kernel"])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


def test_figures():
    model = make(depth=1, groups=2)
    layer = state_spaces(model)[0]
    fresh = keras_mimetic.measure(model)
    assert {row.structure for row in fresh.rows} == {"state_space"}
    for figure in ("correlation", "diagonal", "present"):
        for row in fresh.select(figure=figure):
            assert abs(row.value - row.untrained_mean) < 5 * row.untrained_std
    assert fresh.select(figure="present")[0].untrained_mean == pytest.approx(1 / 4, abs=0.05)
    layer.a_log.assign([0.0, 1.0, -1.0, -2.0])
    layer.dt_bias.assign([math.log(math.e**2 - 1)] * 4)
    kernel = np.array(array(layer.in_projection.kernel))
    b, c, _ = state_space.parts(kernel.shape[1], 4, 32)
    kernel[:, c] = kernel[:, b]
    kernel[:, c.start + 16 : c.stop] *= -1
    layer.in_projection.kernel.assign(kernel)
    layer.conv_kernel.assign(np.eye(4)[1][:, None] * np.ones(array(layer.conv_kernel).shape))
    measured = keras_mimetic.measure(model)

    def figures(name):
        return [row.value for row in measured.select(figure=name)]

    assert figures("a_log") == pytest.approx([0, 1, -1, -2])
    assert figures("dt") == pytest.approx([2] * 4)
    assert figures("memory") == pytest.approx([1 / 2, math.exp(-1) / 2, math.e / 2, math.e**2 / 2])
    # A group each, and the head number is the group's.
    assert figures("correlation") == pytest.approx([1, -1])
    assert [row.head for row in measured.select(figure="correlation")] == [0, 1]
    assert figures("diagonal")[0] > 1 > -1 > figures("diagonal")[1]
    assert figures("present") == [0]
    image = measured.images["state_space", measured.rows[0].layer_path, "state"]
    np.testing.assert_allclose(image, image.T, atol=1e-6)


def test_fresh_weights_have_the_groups_of_the_layer():
    # Weights of equal shapes.
    x = keras.Input((None, 32))
    layer = functools.partial(MimeticStateSpace, head_dim=16, seed=0, **OWN)
    y = layer(32, num_groups=1)(x)
    model = keras.Model(x, layer(16, num_groups=2)(y))
    alone = keras.Model(x, layer(16, num_groups=2)(x))
    first, second = keras_mimetic.measure(model), keras_mimetic.measure(alone)
    deviations = [
        [row.untrained_std for row in rows.select(figure="correlation")] for rows in (first, second)
    ]
    assert deviations[0][1:] == deviations[1]
    assert deviations[0][1] > 1.2 * deviations[0][0]


def test_the_picture_and_the_table():
    model = make()
    keras_mimetic.initialize(model, seed=0)
    measured = keras_mimetic.measure(model)
    assert "+0.9" in str(measured)
    titles = [axis.get_title() for axis in measured.plot().axes]
    assert any(title.startswith("memory of the state") for title in titles)


def test_rules_and_frozen_layers():
    model = make()
    first, second = state_spaces(model)
    second.trainable = False
    # One weight of a layer names it, those of its sublayers, too.
    rule = {rf"{first.name}/in_projection": None}
    report = keras_mimetic.initialize(model, rules=rule, seed=0)
    assert not report.written
    for layer, why in ((first, "by the rule"), (second, "frozen")):
        rows = [row for row in report.skipped if row.path.startswith(f"{layer.path}/")]
        assert rows
        assert all(row.note.startswith(why) for row in rows)
    with pytest.raises(ValueError, match="'state_space' cannot be given"):
        keras_mimetic.initialize(model, rules={"embedding": "state_space"})
    with pytest.raises(ValueError, match="'mlp' cannot be given"):
        keras_mimetic.initialize(model, rules={rf"{first.name}/in_projection": "mlp"})


def test_in_a_subclassed_model_and_alone():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.mixer = MimeticStateSpace(8, 16, **OWN)
            self.head = layers.Dense(3)

        def call(self, x):
            outputs, state = self.mixer(x, return_state=True)
            return self.head(outputs) + keras.ops.sum(state[1])

    model = Model()
    model(np.zeros((2, 5, 16), "float32"))
    report = keras_mimetic.initialize(model, seed=0)
    assert len(report.written) == 3
    assert not report.skipped
    # A layer by itself is a model, too.
    assert len(keras_mimetic.initialize(model.mixer, seed=0).written) == 3


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (OWN, ValueError, "must not be None"),
        ({"dt": 0}, ValueError, "`dt` must be None or a finite number > 0"),
        ({"a_log": "slow"}, TypeError, "`a_log` must be None or a finite number"),
        ({"correlation": 1.5}, ValueError, "`correlation` must be None or .* >= -1 and <= 1"),
        ({"convolution": "causal"}, ValueError, "`convolution` must be one of 'identity', None"),
        ({"decay": 1}, ValueError, "among 'a_log', 'dt', 'correlation', 'convolution'"),
    ],
)
def test_bad_settings(settings, error, match):
    model = make(depth=1)
    before = [array(weight) for weight in model.weights]
    with pytest.raises(error, match=match):
        keras_mimetic.initialize(model, {"state_space": settings})
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), old)
