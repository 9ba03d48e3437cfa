import json
import os
import re
import subprocess
import sys
import textwrap
import tracemalloc

import keras
import numpy as np
import paths
import pytest
from arrays import array
from devices import FOUR_DEVICES
from keras import layers

import keras_mimetic
from keras_mimetic._structures import STRUCTURES

# Weights that are sampled from the seed. Kernels of MLPs are shifted and keep their samples.
DRAWN = ("attention", "depthwise")
GOLDEN = paths.GOLDEN / "initialize.npz"
# Where another process finds this module and what it imports.
FOLDERS = [str(paths.TESTS / "calls"), str(paths.HELPERS)]


def body(x, width=8):
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, width // 2)(y, y)
    y = layers.DepthwiseConv1D(3, padding="same")(x)
    y = layers.LayerNormalization()(y)
    y = layers.Dense(4 * width, activation="gelu")(y)
    return x + layers.Dense(width)(y)


def make(width=8):
    inputs = keras.Input((6, width))
    x = body(body(inputs, width), width)
    return keras.Model(inputs, layers.Dense(3)(x))


def by_place(model, report):
    """Return new weights by structure, layer path and role."""
    weights = {variable.path: array(variable) for variable in model.variables}
    found = {}
    for row in report.written:
        role = row.path.split("/")[-2 if row.structure == "attention" else -1]
        found[row.structure, row.layer_path, role] = weights[row.path]
    return found


def all_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=str(key))


def test_written_weights():
    model = make()
    before = {v.path: array(v) for v in model.variables}
    report = keras_mimetic.initialize(model, seed=0)
    after = {v.path: array(v) for v in model.variables}
    changed = {path for path in before if (before[path] != after[path]).any()}
    assert changed == {row.path for row in report.written}
    assert not report.skipped
    written = [row.structure for row in report.rows]
    # In the order of the network.
    assert written == (["attention"] * 4 + ["depthwise"] + ["mlp"] * 2) * 2
    for row in report.rows:
        assert row.shape == before[row.path].shape
        assert row.norm_before == pytest.approx(np.linalg.norm(before[row.path]), rel=1e-5)
        assert row.norm_after == pytest.approx(np.linalg.norm(after[row.path]), rel=1e-5)


def test_structures_are_measurable_in_the_weights():
    model = make(width=64)
    keras_mimetic.initialize(model, seed=0)
    norm, attention = model.layers[1], model.layers[2]
    assert isinstance(norm, layers.LayerNormalization)
    q, k = array(attention.query_dense.kernel), array(attention.key_dense.kernel)
    assert all(np.trace(q[:, h] @ k[:, h].T) / 64 > 0.3 for h in range(2))
    v, o = array(attention.value_dense.kernel), array(attention.output_dense.kernel)
    product = v.reshape(64, 64) @ o.reshape(64, 64)
    assert np.trace(product) / 64 == pytest.approx(-0.4, abs=0.05)
    ups = [x for x in model.layers if isinstance(x, layers.Dense) and x.units == 256]
    for up in ups:
        kernel = array(up.kernel)
        assert kernel.mean() / kernel.std() == pytest.approx(-1, abs=1e-4)
        # Half a standard deviation of the pre-activation.
        np.testing.assert_allclose(array(up.bias), -0.5 * array(up.kernel).std() * 8, rtol=1e-5)
    first, last = (x for x in model.layers if isinstance(x, layers.DepthwiseConv1D))
    energy = array(first.kernel)[:, :, 0] ** 2
    # sigma = 0.08: next to nothing but the center.
    assert energy[1].sum() / energy.sum() > 0.95
    energy = array(last.kernel)[:, :, 0] ** 2
    assert energy[1].sum() / energy.sum() < 0.7


def test_equal_weights_each_time_a_model_is_built(tmp_path):
    first, second = make(), make()
    assert first.layers[-1].name != second.layers[-1].name
    reports = [keras_mimetic.initialize(model, DRAWN, seed=3) for model in (first, second)]
    all_equal(by_place(first, reports[0]), by_place(second, reports[1]))

    third = make()
    third.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    all_equal(
        by_place(first, reports[0]),
        by_place(loaded, keras_mimetic.initialize(loaded, DRAWN, seed=3)),
    )
    # And after saving, the weights are in the file.
    first.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
    np.testing.assert_allclose(array(loaded(x)), array(first(x)), atol=1e-6)


def test_seeds():
    weights = []
    for seed in (1, 1, 2, 2**80, None, None):
        model = make()
        weights.append(by_place(model, keras_mimetic.initialize(model, DRAWN, seed=seed)))
    all_equal(weights[0], weights[1])
    for a, b in ((0, 2), (2, 3), (4, 5)):
        drawn = [key for key in weights[a] if key[-1] != "bias"]
        assert all((weights[a][key] != weights[b][key]).any() for key in drawn)
    # Each weight has a stream of its own.
    kernels = [w for (structure, *_), w in weights[0].items() if structure == "depthwise"]
    assert (kernels[0] != kernels[1]).any()


def test_an_unseeded_call_can_be_repeated_from_its_report():
    keras.utils.set_random_seed(4)
    first = make()
    report = keras_mimetic.initialize(first, DRAWN)
    second = make()
    again = keras_mimetic.initialize(second, DRAWN, seed=report.seed)
    all_equal(by_place(first, report), by_place(second, again))


def test_a_submodule_does_not_depend_on_its_neighbors():
    def filters():
        settings = {"velocity": 0.0, "acceleration": 0.0}  # no widths that follow the depth
        return keras.Sequential([layers.DepthwiseConv1D(3, padding="same")]), settings

    class Model(keras.Model):
        def __init__(self, head):
            super().__init__()
            self.encoder, self.settings = filters()
            self.head = head
            self.tail, _ = filters()

        def call(self, x):
            return self.tail(self.head(self.encoder(x)))

    kernels = []
    for head in (
        layers.Dense(8),
        keras.Sequential([layers.Dense(32, "relu"), layers.Dense(8, "relu")]),
    ):
        model = Model(head)
        model(np.zeros((1, 6, 8), "float32"))
        keras_mimetic.initialize(model, {"depthwise": model.settings}, seed=0)
        kernels.append([array(x.layers[0].kernel) for x in (model.encoder, model.tail)])
    for a, b in zip(*kernels, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (kernels[0][0] != kernels[0][1]).any()


def test_control():
    model, other = make(width=32), make(width=32)
    other.set_weights(model.get_weights())
    structured = keras_mimetic.initialize(model, seed=5)
    control = keras_mimetic.initialize(other, seed=5, control=True)
    assert control.control
    weights, controls = by_place(model, structured), by_place(other, control)
    assert weights.keys() == controls.keys()
    for key in weights:
        assert np.linalg.norm(controls[key]) == pytest.approx(
            np.linalg.norm(weights[key]), rel=1e-2
        ), key
        if key[0] == "mlp":
            assert abs(controls[key].mean() / controls[key].std()) < (
                0.1 if key[-1] == "kernel" else 0.3
            )
    attention = other.layers[2]
    q, k = array(attention.query_dense.kernel), array(attention.key_dense.kernel)
    assert abs(np.trace(q[:, 0] @ k[:, 0].T) / 32) < 0.15


def test_dry_run_reports_the_same_and_writes_nothing():
    model = make()
    before = model.get_weights()
    dry = keras_mimetic.initialize(model, seed=1, dry_run=True)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    real = keras_mimetic.initialize(model, seed=1)
    assert dry.rows == real.rows
    assert "would be given" in str(dry)
    assert "would be" not in str(real)


@pytest.mark.parametrize(
    "arguments", [{}, {"control": True}, {"rules": {"up/kernel": "orthogonal"}}]
)
def test_each_weight_is_read_once_and_written_once(arguments, monkeypatch):
    inputs = keras.Input((6, 8))
    x = inputs + layers.Dense(8)(layers.Dense(32, "gelu", name="up")(inputs))
    model = keras.Model(inputs, body(x))
    read, written = [], []
    cast, assign = keras.ops.cast, keras.Variable.assign
    monkeypatch.setattr(keras.ops, "cast", lambda x, dtype: (read.append(x), cast(x, dtype))[1])
    monkeypatch.setattr(
        keras.Variable, "assign", lambda x, values: (written.append(x), assign(x, values))[1]
    )
    report = keras_mimetic.initialize(model, seed=0, **arguments)
    assert sorted(x.path for x in written) == sorted({row.path for row in report.written})
    # The search for signs of training reads vectors, too.
    kernels = [x.path for x in read if isinstance(x, keras.Variable) and len(x.shape) > 1]
    assert len(kernels) == len(set(kernels)) >= 7


def test_a_dry_run_stores_no_values():
    x = inputs = keras.Input((192,))
    for _ in range(8):
        x = layers.Dense(192)(layers.Dense(768, "relu")(x))
    model = keras.Model(inputs, x)
    size = 4 * model.count_params()
    keras_mimetic.initialize(model, seed=0, dry_run=True)
    tracemalloc.start()
    assert len(keras_mimetic.initialize(model, seed=0, dry_run=True).written) == 8
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One kernel in float64 and in a few copies.
    assert peak < size / 3


def test_settings():
    model = make(width=32)
    report = keras_mimetic.initialize(
        model,
        {
            "mlp": {"mean": 0.5},
            "attention": {"query_key": (1.0, 0.0), "value_output": None},
            "depthwise": {"gain": "fan_in", "velocity": 0.0, "acceleration": 0.0},
        },
        seed=0,
    )
    notes = {row.note for row in report.rows}
    assert any("mean +0.5" in note for note in notes)
    assert {row.path.split("/")[-2] for row in report.rows if row.structure == "attention"} == {
        "query",
        "key",
    }
    assert sum("sigma 0.08" in note for note in notes) == 2
    convolutions = [x for x in model.layers if isinstance(x, layers.DepthwiseConv1D)]
    rms = np.sqrt(np.mean(array(convolutions[0].kernel) ** 2))
    assert rms == pytest.approx(3**-0.5, rel=0.4)


def test_a_name_alone():
    report = keras_mimetic.initialize(make(), "depthwise", seed=0)
    assert {row.structure for row in report.rows} == {"depthwise"}


def test_cross_attention():
    x, y = keras.Input((6, 32)), keras.Input((4, 32))
    model = keras.Model([x, y], layers.MultiHeadAttention(2, 16)(x, y))
    before = model.get_weights()
    report = keras_mimetic.initialize(model, seed=0)
    assert [row.note for row in report.rows] == ["cross-attention"] * 4
    assert not report.written
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_report():
    model = make()
    model.layers[5].trainable = False
    frozen = array(model.layers[5].kernel)
    report = keras_mimetic.initialize(model, seed=0)
    assert len(report.skipped) == 2
    for skipped in report.skipped:
        assert skipped.note == "frozen (trainable=False)"
        assert skipped.norm_after is None
    np.testing.assert_array_equal(frozen, array(model.layers[5].kernel))
    text = str(report)
    lines = text.splitlines()
    assert lines[0] == "12 weights given structure, 2 skipped; seed 0"
    # The head belongs to no site.
    assert len(lines) == 2 + 14 + 1
    for row in report.rows:
        assert sum(row.path in line and row.note in line for line in lines) == 1
    dicts = json.loads(json.dumps(report.to_dicts()))
    assert [d["path"] for d in dicts] == [row.path for row in report.rows]
    assert set(dicts[0]) == {
        *("path", "layer_path", "structure", "shape", "norm_before", "norm_after", "note"),
        "written",
    }


def mlp_after(*before, **arguments):
    """Return an MLP of 64 and 256 units after some layers, and its first layer."""
    up = layers.Dense(256, "gelu", **arguments)
    return keras.Sequential([keras.Input((64,)), *before, up, layers.Dense(64)]), up


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.RandomNormal(stddev=0.02, seed=0),
        keras.initializers.TruncatedNormal(stddev=1.0, seed=0),
        keras.initializers.Orthogonal(seed=0),
        keras.initializers.RandomUniform(0.1, 0.3, seed=0),
    ],
    ids=lambda initializer: type(initializer).__name__,
)
def test_kernels_of_mlps_are_shifted_and_keep_their_scale_and_structure(initializer):
    model, up = mlp_after(layers.LayerNormalization(), kernel_initializer=initializer)
    kernel = array(up.kernel)
    rows = keras_mimetic.initialize(model).rows
    assert [(row.path, row.note.split(";")[0]) for row in rows] == [
        (up.kernel.path, "mean -1 (after LayerNorm)"),
        (up.bias.path, "hidden bias -0.5 (after LayerNorm)"),
    ]
    shifted = array(up.kernel)
    np.testing.assert_allclose(
        shifted - shifted.mean(), kernel - kernel.mean(), atol=2e-6 * kernel.std()
    )
    assert shifted.mean() / kernel.std() == pytest.approx(-1, rel=1e-4)
    np.testing.assert_allclose(array(up.bias), -0.5 * kernel.std() * 8, rtol=1e-5)
    # A second call changes nothing, whatever its seed.
    bias = array(up.bias)
    keras_mimetic.initialize(model, seed=7)
    np.testing.assert_array_equal(array(up.kernel), shifted)
    np.testing.assert_array_equal(array(up.bias), bias)
    # The control has the norms without the shift.
    keras_mimetic.initialize(model, seed=0, control=True)
    for control, weight in ((array(up.kernel), shifted), (array(up.bias), bias)):
        assert np.linalg.norm(control) == pytest.approx(np.linalg.norm(weight), rel=1e-3)
        assert abs(control.mean()) < 0.3 * control.std()
    # A second one changes nothing either.
    kernel, bias = array(up.kernel), array(up.bias)
    keras_mimetic.initialize(model, seed=1, control=True)
    np.testing.assert_allclose(array(up.kernel), kernel, atol=1e-6 * kernel.std())
    np.testing.assert_allclose(abs(array(up.bias)), abs(bias), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("norm", [[layers.LayerNormalization], []])
def test_a_second_call_changes_no_kernel_of_low_precision(norm, dtype):
    for width in (8, 16, 24, 48, 64, 128):
        up = layers.Dense(4 * width, "gelu", dtype=dtype)
        down = layers.Dense(width, dtype=dtype)
        before = [make_layer(dtype=dtype) for make_layer in norm]
        model = keras.Sequential([keras.Input((width,)), *before, up, down])
        original = array(up.kernel)
        keras_mimetic.initialize(model)
        weights = [array(weight) for weight in model.weights]
        shifted = array(up.kernel)
        # As well as the precision allows; the spread is that of before.
        mean = -1 if norm else -0.5 / np.sqrt(width)
        assert shifted.mean() / shifted.std() == pytest.approx(mean, abs=2e-3)
        assert shifted.std() == pytest.approx(original.std(), rel=5e-3)
        keras_mimetic.initialize(model)
        for a, b in zip(weights, model.weights, strict=True):
            np.testing.assert_array_equal(a, array(b))


AFTER_LAYER_NORM, SAFE = -1, -0.5 / 8


@pytest.mark.parametrize(
    ("before", "mean", "hidden_bias"),
    [
        ([], SAFE, 0),
        ([layers.LayerNormalization], AFTER_LAYER_NORM, -0.5),
        ([layers.BatchNormalization], SAFE, -0.5),
        ([layers.RMSNormalization], SAFE, 0),
        ([lambda: layers.Dense(64)], SAFE, 0),
        # As in ConvMixer, where both were found to cost accuracy.
        ([layers.ReLU, layers.BatchNormalization], None, 0),
        ([lambda: layers.Dense(64, "gelu"), layers.LayerNormalization], None, 0),
    ],
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_the_mean_of_an_mlp_depends_on_the_preceding_layer(before, mean, hidden_bias, use_bias):
    model, up = mlp_after(*(make_layer() for make_layer in before), use_bias=use_bias)
    weights = model.get_weights()
    report = keras_mimetic.initialize(model, seed=0)
    assert len(report.written) == (mean is not None) + (use_bias and hidden_bias != 0)
    if mean is None:
        (row,) = report.skipped
        assert "after a norm of activations" in row.note
        for a, b in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        # Unless a number asks for it.
        for name, number in (("mean", -0.1), ("mean", 0), ("hidden_bias", -0.5)):
            asked = keras_mimetic.initialize(model, {"mlp": {name: number}}, seed=0)
            assert bool(asked.written) == (use_bias or name == "mean")
        return
    kernel = array(up.kernel)
    assert kernel.mean() / kernel.std() == pytest.approx(mean, abs=1e-4)
    if use_bias:
        spread = kernel.std() if mean == AFTER_LAYER_NORM else np.sqrt(np.mean(kernel**2))
        np.testing.assert_allclose(array(up.bias), hidden_bias * spread * 8, rtol=1e-5)


def test_mean_and_hidden_bias_can_each_be_none():
    for settings, role in (({"mean": None}, "bias"), ({"hidden_bias": None}, "kernel")):
        model, up = mlp_after(layers.LayerNormalization())
        (row,) = keras_mimetic.initialize(model, {"mlp": settings}, seed=0).rows
        assert row.path == getattr(up, role).path
    settings = {"mean": None, "hidden_bias": None}
    with pytest.warns(UserWarning, match="wrote no weight"):
        (row,) = keras_mimetic.initialize(model, {"mlp": settings}, seed=0).rows
    assert row.note == "`mean` and `hidden_bias` are None"


def test_a_hidden_bias_without_a_bias_is_noted():
    model, _ = mlp_after(layers.LayerNormalization(), use_bias=False)
    (row,) = keras_mimetic.initialize(model, {"mlp": {"hidden_bias": -0.6}}, seed=0).written
    assert "no bias for a hidden bias of -0.6" in row.note


def test_a_kernel_of_equal_values_is_skipped():
    model, up = mlp_after(layers.LayerNormalization(), kernel_initializer="zeros")
    (row,) = keras_mimetic.initialize(model, seed=0).rows
    assert not row.written
    assert "all values of the kernel are equal" in row.note
    assert not array(up.kernel).any()


def test_a_bias_or_kernel_that_is_frozen_alone():
    model, up = mlp_after(layers.LayerNormalization())
    before = model.get_weights()
    for frozen, other in ((up.bias, up.kernel), (up.kernel, up.bias)):
        frozen.trainable, other.trainable = False, True
        rows = keras_mimetic.initialize(model, seed=0).skipped
        assert {row.note for row in rows} == {"frozen (trainable=False)"}
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    # Weights that the settings keep may be frozen.
    report = keras_mimetic.initialize(model, {"mlp": {"mean": None}}, seed=0)
    assert [row.path for row in report.written] == [up.bias.path]


@pytest.mark.parametrize(
    ("initializer", "is_known"),
    [
        ("glorot_uniform", True),
        (keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"), True),
        (keras.initializers.RandomNormal(stddev=0.3), True),
        (keras.initializers.RandomUniform(-0.3, 0.3), True),
        (keras.initializers.TruncatedNormal(stddev=0.3), True),
        ("ones", False),
    ],
)
def test_filters_keep_their_scale(initializer, is_known):
    layer = layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=initializer)
    model = keras.Sequential([keras.Input((8, 8, 32)), layer])
    before = array(layer.kernel)
    for seed in (0, 1):
        (row,) = keras_mimetic.initialize(model, "depthwise", seed=seed).rows
        after = array(layer.kernel)
        expected = np.sqrt(np.mean(before**2))
        assert np.sqrt(np.mean(after**2)) == pytest.approx(expected, rel=0.25)
        assert "norm changes" not in row.note
    # Equal both times: the scale is that of the initializer, not of its sample.
    first = array(layer.kernel)
    layer.kernel.assign(before[::-1])
    keras_mimetic.initialize(model, "depthwise", seed=1)
    if is_known:
        np.testing.assert_array_equal(array(layer.kernel), first)


@pytest.mark.parametrize("initializer", ["glorot_uniform", "ones", keras.initializers.Orthogonal()])
@pytest.mark.parametrize("channels", [4, 96])
@pytest.mark.parametrize("control", [False, True])
def test_the_scale_of_filters_does_not_depend_on_a_sample(initializer, channels, control):
    # Wide filters, whose pixels are correlated.
    settings = {"depthwise": {"sigma_0": 8.0, "velocity": 0, "acceleration": 0}}
    layer = layers.DepthwiseConv2D(7, padding="same", depthwise_initializer=initializer)
    model = keras.Sequential([keras.Input((8, 8, channels)), layer])
    for seed in range(20):
        keras_mimetic.initialize(model, settings, seed=seed, control=control)
        once = array(layer.kernel)
        keras_mimetic.initialize(model, settings, seed=seed, control=control)
        np.testing.assert_allclose(array(layer.kernel), once, rtol=1e-5)


def test_a_loaded_scale_is_kept_and_zero_filters_are_skipped():
    layer = layers.DepthwiseConv2D(3, padding="same")
    model = keras.Sequential([keras.Input((8, 8, 32)), layer])
    layer.kernel.assign(10 * layer.kernel)
    (row,) = keras_mimetic.initialize(model, "depthwise", seed=0).rows
    assert row.norm_after / row.norm_before == pytest.approx(1, rel=0.2)
    (row,) = keras_mimetic.initialize(model, {"depthwise": {"gain": "keras"}}, seed=0).rows
    assert "norm changes by a factor of 0.0" in row.note or "factor of 0.1" in row.note
    layer.kernel.assign(0 * layer.kernel)
    (row,) = keras_mimetic.initialize(model, "depthwise", seed=0).rows
    assert (row.written, row.note) == (False, "its filters are zero: set `gain` to write them")


def test_a_change_of_attention_norms_is_noted():
    inputs = keras.Input((6, 64))
    small = keras.initializers.RandomNormal(stddev=0.002)
    attention = layers.MultiHeadAttention(4, 16, kernel_initializer=small)
    model = keras.Model(inputs, attention(inputs, inputs))
    report = keras_mimetic.initialize(model, "attention", seed=0)
    assert all("norm changes by a factor of" in row.note for row in report.rows)


def test_a_model_without_sites():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    report = keras_mimetic.initialize(model, seed=0)
    assert report.rows == ()
    assert "no layers for these structures" in str(report)


def test_rules():
    inputs = keras.Input((6, 8))
    x = layers.Dense(8, name="mix")(inputs)
    model = keras.Model(inputs, layers.Dense(8)(layers.Dense(16, "relu", name="up")(x)))
    settings = {"mlp": {"hidden_bias": None}}
    rules = {"^mix/": "mlp", "^up/": None}
    report = keras_mimetic.initialize(model, settings, seed=0, rules=rules)
    assert [(row.path, row.written) for row in report.rows] == [
        ("mix/kernel", True),
        ("up/kernel", False),
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
def test_low_precision(dtype):
    exact = make()
    keras.config.set_dtype_policy(dtype)
    try:
        model = make()
    finally:
        keras.config.set_dtype_policy("float32")
    weights = by_place(model, keras_mimetic.initialize(model, DRAWN, seed=1))
    expected = by_place(exact, keras_mimetic.initialize(exact, DRAWN, seed=1))
    for key in expected:
        rounded = array(keras.ops.cast(expected[key], model.layers[5].variable_dtype))
        np.testing.assert_array_equal(weights[key], rounded)
    outputs = model(np.ones((2, 6, 8), "float32"))
    assert np.isfinite(array(outputs)).all()


def test_trained_models_need_force():
    model = make()
    model.compile("sgd", "mse")
    keras_mimetic.initialize(model, seed=0)  # compiled, but not trained
    x, y = np.zeros((4, 6, 8), "float32"), np.zeros((4, 6, 3), "float32")
    model.fit(x, y, verbose=0)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"trained .the optimizer of .* took 1 step\).*force"):
        keras_mimetic.initialize(model, seed=1)
    keras_mimetic.initialize(model, seed=1, dry_run=True)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    keras_mimetic.initialize(model, seed=1, force=True)
    model.fit(x, y, verbose=0)


def test_initialize_works_after_compile():
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32")
    model = make()
    model.compile("sgd", "mse")
    before = model.predict(x, verbose=0)
    keras_mimetic.initialize(model, seed=1)
    after = model.predict(x, verbose=0)
    np.testing.assert_allclose(after, array(model(x)), atol=1e-5)
    assert abs(after - before).max() > 1e-3


class Unbuilt(keras.Model):
    """Has no weights before its first call."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(32, "gelu"), layers.Dense(8)

    def call(self, x):
        return self.second(self.first(x))


class _OwnTable(keras.Model):
    """A model that makes a weight before its first call."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(8,), initializer="ones", name="scale")
        self.up, self.down = layers.Dense(32, "gelu"), layers.Dense(8)

    def call(self, x):
        return x + self.down(self.up(x * self.scale))


def test_a_model_with_some_weights_is_built_by_its_inputs():
    report = keras_mimetic.initialize(_OwnTable(), "mlp", inputs=np.ones((2, 8), "float32"), seed=0)
    assert [row.path.rsplit("/", 1)[-1] for row in report.written] == ["kernel"]
    assert keras_mimetic.measure(_OwnTable(), "mlp", inputs=np.ones((2, 8), "float32")).rows


def test_a_model_without_weights_is_built_by_its_inputs():
    with pytest.raises(ValueError, match="call it once.*ops.zeros.*get `inputs`") as caught:
        keras_mimetic.initialize(Unbuilt(), seed=0)
    # The error shows a line that works.
    model = Unbuilt()
    line = re.search(r"`(model\(.*?)`", str(caught.value)).group(1)
    exec(line.replace("(1, 32, 32, 3)", "(1, 8)"))
    assert keras_mimetic.initialize(model, seed=0).written
    for inputs in (np.ones((2, 8), "float32"), keras.KerasTensor((None, 8)), keras.Input((8,))):
        assert keras_mimetic.initialize(Unbuilt(), seed=0, inputs=inputs).written
        assert keras_mimetic.measure(Unbuilt(), inputs=inputs).rows
    with pytest.raises(ValueError, match=r"`inputs` must be a valid input.*shapes \(2,\)"):
        keras_mimetic.initialize(Unbuilt(), seed=0, inputs=np.ones(2, "float32"))


def test_force_tells_what_trained_norms_take_away():
    model, _ = mlp_after(layers.LayerNormalization())
    model.compile("sgd", "mse")
    model.fit(np.random.rand(4, 64), np.ones((4, 64)), batch_size=4, verbose=0)
    with pytest.raises(ValueError, match=r"took 1 step\)\. To train it anew, call `ker"):
        keras_mimetic.initialize(model, seed=0)
    report = keras_mimetic.initialize(model, seed=0, force=True)
    assert "1 MLP after a trained LayerNormalization: no hidden bias" in str(report)
    assert [row.path.split("/")[-1] for row in report.written] == ["kernel"]
    keras_mimetic.reset(model, 0)
    report = keras_mimetic.initialize(model, seed=0)
    assert len(report.written) == 2
    assert not report.notes


def test_rejected_models():
    unbuilt = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match="`model` must have weights"):
        keras_mimetic.initialize(unbuilt)
    with pytest.raises(TypeError, match="`model` must be a Keras model or layer.*None"):
        keras_mimetic.initialize(None)
    # Small, since to quantize a layer compiles much on JAX.
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5), layers.Dense(3)])
    model.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="must not have LoRA enabled"):
        keras_mimetic.initialize(model)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5), layers.Dense(3)])
    model.quantize("int8")
    before = model.get_weights()
    with pytest.raises(ValueError, match="must not be quantized"):
        keras_mimetic.initialize(model)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"structures": ("mlps",)}, ValueError, "name some of 'mlp', 'attention', 'depthwise'"),
        ({"structures": 3}, TypeError, "structures=3"),
        (
            {"structures": {"mlp": 3}},
            TypeError,
            "structure 'mlp' must be a dict of 'mean', .* Received: 3",
        ),
        (
            {"structures": {"mlp": {"std": 1}}},
            ValueError,
            "among 'mean', .* Received: 'std'",
        ),
        (
            {"structures": {"attention": None}},
            TypeError,
            "To leave the structure out, leave out its name. Received: None",
        ),
        ({"structures": {"mlp": {"mean": "big"}}}, TypeError, "mean='big'"),
        ({"structures": {"attention": {"query_key": 1}}}, TypeError, "query_key=1"),
        (
            {"structures": {"attention": {"query_key": None, "value_output": None}}},
            ValueError,
            "must not both be None",
        ),
        ({"structures": {"depthwise": {"gain": "he"}}}, TypeError, "gain='he'"),
        ({"structures": {"depthwise": {"sigma_0": 0}}}, ValueError, "sigma_0=0"),
        ({"structures": {"depthwise": {"velocity": -9}}}, ValueError, "width > 0 at every depth"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"seed": "a"}, TypeError, "seed='a'"),
        ({"control": 1}, TypeError, "control=1"),
        ({"dry_run": None}, TypeError, "dry_run=None"),
        ({"rules": {"x": "y"}}, ValueError, "'y' for 'x'"),
    ],
)
def test_bad_arguments_change_nothing(arguments, error, match):
    model = make()
    before = model.get_weights()
    with pytest.raises(error, match=match):
        keras_mimetic.initialize(model, **arguments)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_failure_restores_the_model(monkeypatch):
    model = make()
    before = model.get_weights()
    variables = [v for v in model.variables if "depthwise" in v.path and "kernel" in v.path]
    broken = variables[-1]
    cls, assign = type(broken), type(broken).assign
    failed = []

    def failing(self, value):
        if self is broken and not failed:
            failed.append(True)
            raise MemoryError("no room")
        return assign(self, value)

    monkeypatch.setattr(cls, "assign", failing)
    with pytest.raises(MemoryError):
        keras_mimetic.initialize(model, seed=0)
    assert failed
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_equal_weights_on_every_backend():
    golden = np.load(GOLDEN)
    model = make()
    weights = by_place(model, keras_mimetic.initialize(model, DRAWN, seed=7))
    assert {"|".join(key) for key in weights} == set(golden.files)
    for key, values in weights.items():
        if key[0] != "attention":
            np.testing.assert_allclose(values, golden["|".join(key)], atol=1e-6)
    for (_, place, role), values in weights.items():
        if role == "query":
            ours = [values, weights["attention", place, "key"]]
            theirs = [golden[f"attention|{place}|{r}"] for r in ("query", "key")]
            a, b = (np.einsum("dhk,ehk->hde", *pair) for pair in (ours, theirs))
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.one_backend
def test_another_process_gives_the_same(tmp_path):
    script = (
        "import sys, numpy as np; sys.path[:0] = sys.argv[2:]; import test_initialize as t;"
        "m = t.make(); w = t.by_place(m, t.keras_mimetic.initialize(m, t.DRAWN, seed=7));"
        "np.savez(sys.argv[1], **{'|'.join(k): v for k, v in w.items()})"
    )
    path = tmp_path / "other.npz"
    subprocess.run([sys.executable, "-c", script, str(path), *FOLDERS], check=True)
    other = np.load(path)
    model = make()
    weights = by_place(model, keras_mimetic.initialize(model, DRAWN, seed=7))
    for key, values in weights.items():
        np.testing.assert_array_equal(values, other["|".join(key)])


class AddPositions(keras.layers.Layer):
    def build(self, input_shape):
        self.table = self.add_weight(shape=input_shape[1:])

    def call(self, x):
        return x + self.table


def test_every_structure_has_a_control_of_its_norms():
    base = make()
    sequences = keras.Input((None, 32))
    mixed = keras_mimetic.layers.MimeticStateSpace(8, 16, seed=0)(sequences)
    tokens = keras.Input((16,), dtype="int32")
    embedded = AddPositions()(layers.Embedding(10, 8)(tokens))
    model = keras.Model([base.inputs, sequences, tokens], [base.outputs, mixed, embedded])
    for name, entry in STRUCTURES.items():
        assert entry.check(dict(entry.defaults)).keys() == entry.defaults.keys()
        settings = {name: {"rms": 1} if name == "position" else {}}
        report = keras_mimetic.initialize(model, settings, seed=0, dry_run=True)
        control = keras_mimetic.initialize(model, settings, seed=0, dry_run=True, control=True)
        assert report.written
        for a, b in zip(report.rows, control.rows, strict=True):
            # Decays and steps are logarithms, and have no structureless twin of their norm.
            if a.path.split("/")[-1] not in ("a_log", "dt_bias"):
                assert a.norm_after == pytest.approx(b.norm_after, rel=1e-2)


def test_rules_and_initializers_meet():
    def build():
        inputs = keras.Input((4, 8))
        x = layers.LayerNormalization()(inputs)
        x = inputs + layers.Dense(8)(layers.Dense(16, "gelu", name="up")(x))
        y = layers.Dense(8)(layers.Dense(16, "gelu", name="up_again")(x))
        return keras.Model(inputs, layers.Dense(3, name="head")(x + y))

    # A weight has one row, and is counted once.
    report = keras_mimetic.initialize(build(), seed=0, rules={"up/kernel": "orthogonal"})
    paths = [row.path for row in report.rows]
    assert len(paths) == len(set(paths))
    assert "1 redrawn by rules" in str(report)
    # One rule skips what another one would draw.
    with pytest.raises(ValueError, match="Rules 'up/' and 'kernel' both match 'up/kernel'"):
        keras_mimetic.initialize(build(), seed=0, rules={"up/": None, "kernel": "zeros"})
    with pytest.raises(ValueError, match="Rule '\\^head/' cannot draw 'head/bias'"):
        keras_mimetic.initialize(build(), seed=0, rules={"^head/": "orthogonal"})
    with pytest.warns(UserWarning, match="the rule 'up' skips all layers of 'mlp'"):
        keras_mimetic.initialize(build(), seed=0, rules={"up": None, "head/kernel": "zeros"})


def test_rules_with_initializers():
    def build():
        x = inputs = keras.Input((4, 8))
        x = layers.Dense(8, name="stem")(x)
        for name in ("a", "b"):
            y = layers.Dense(16, "gelu", name=f"up_{name}")(x)
            x = x + layers.Dense(8, name=f"down_{name}")(y)
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    models = [build() for _ in range(2)]
    rules = {
        r"stem/kernel": "orthogonal",
        r"^head/": keras.initializers.Constant(0.5),
        r"down_.*kernel": keras.initializers.RandomNormal(stddev=0.1),
        r"up_a/kernel": "he_normal",
    }
    reports = [keras_mimetic.initialize(model, "mlp", seed=3, rules=rules) for model in models]
    for name in ("stem", "head", "up_a", "down_a", "down_b"):
        kernels = [array(model.get_layer(name).kernel) for model in models]
        np.testing.assert_array_equal(*kernels)
    model = models[0]
    stem = array(model.get_layer("stem").kernel)
    np.testing.assert_allclose(stem @ stem.T, np.eye(8), atol=1e-5)
    assert (array(model.get_layer("head").kernel) == 0.5).all()
    downs = [array(model.get_layer(f"down_{name}").kernel) for name in "ab"]
    assert downs[0].std() == pytest.approx(0.1, rel=0.3)
    assert not np.array_equal(*downs)
    drawn = {row.path: row.note for row in reports[0].rows if row.structure == "initializer"}
    assert drawn["stem/kernel"] == "orthogonal, by the rule 'stem/kernel'"
    assert len(drawn) == 6
    # A structure is written where no rule redraws, and left where one does.
    of_mlps = {row.path: row for row in reports[0].rows if row.structure == "mlp"}
    assert of_mlps["up_b/kernel"].written
    assert "up_a/kernel" not in of_mlps
    assert "rules: 'stem/kernel' 1 layer, '^head/' 1 layer, 'down_.*kernel' 2 layers" in str(
        reports[0]
    )


def test_frozen_weights_are_not_redrawn():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="first"), layers.Dense(3)])
    model.layers[0].trainable = False
    report = keras_mimetic.initialize(model, seed=0, rules={"kernel": "zeros"})
    assert [row.written for row in report.rows] == [False, True]
    assert "frozen" in report.skipped[0].note


def test_a_rule_that_skips_all_layers_of_a_structure_warns():
    x = inputs = keras.Input((4, 8))
    for _ in range(2):
        x = x + layers.MultiHeadAttention(2, 4)(x, x)
        x = x + layers.Dense(8)(layers.Dense(16, "gelu")(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    with pytest.warns(UserWarning, match="the rule 'head' skips all layers of 'attention'"):
        report = keras_mimetic.initialize(model, seed=0, rules={"head": None})
    assert "'head' 3 layers" in str(report)
    # Also if there is but one.
    x = layers.Dense(3, name="head")(layers.MultiHeadAttention(2, 4)(inputs, inputs))
    model = keras.Model(inputs, x)
    with pytest.warns(UserWarning, match="the rule 'head' skips all layers of 'attention'"):
        keras_mimetic.initialize(model, seed=0, rules={"head": None})


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(8),
        layers.Bidirectional(layers.LSTM(8)),
        layers.RNN([layers.LSTMCell(8), layers.LSTMCell(8)]),
        layers.GRU(8),
    ],
)
def test_untrained_recurrent_layers_are_not_trained(layer):
    inputs = keras.Input((5, 8))
    x = layers.LayerNormalization()(layer(inputs))
    x = layers.Dense(8)(layers.Dense(32, "relu")(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization()(x)))
    assert len(keras_mimetic.initialize(model, "mlp", seed=0).written) == 2


@pytest.mark.parametrize("name", ["gamma", "beta", "bias", "moving_mean", "moving_variance"])
def test_weights_that_appear_trained_need_force(name, tmp_path):
    inputs = keras.Input((6, 8))
    x = body(layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile("sgd", "mse")
    variable = next(v for v in model.variables if v.path.endswith(name))
    keras_mimetic.initialize(model, seed=0)
    # A constant is what a user, or `initialize`, sets.
    variable.assign(np.full(variable.shape, 2.0))
    keras_mimetic.initialize(model, seed=0)
    keras_mimetic.initialize(model, seed=0, control=True)
    keras_mimetic.initialize(model, seed=0)
    variable.assign(np.linspace(1, 2, int(np.prod(variable.shape))).reshape(variable.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    for trained in (model, loaded):
        before = trained.get_weights()
        with pytest.raises(ValueError, match=f"appears to be trained: the values of '.*{name}'"):
            keras_mimetic.initialize(trained, seed=1)
        for a, b in zip(before, trained.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        keras_mimetic.initialize(trained, seed=1, dry_run=True)
        assert keras_mimetic.initialize(trained, seed=1, force=True).written


def test_writing_nothing_warns():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.warns(UserWarning, match="wrote no weight. It looked for MLPs, .*none were found"):
        keras_mimetic.initialize(model, seed=0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, "relu"), layers.Dense(8)])
    with pytest.warns(
        UserWarning, match="1 layer found and skipped; print the report for the reasons"
    ):
        keras_mimetic.initialize(model, "mlp", seed=0)


def test_warnings_point_to_the_code_of_the_user():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.warns(UserWarning, match="wrote no weight") as caught:
        keras_mimetic.initialize(model, seed=0)
    assert [w.filename for w in caught if "wrote no" in str(w.message)] == [__file__]


def test_a_rule_for_a_structure_that_is_left_out_is_noted():
    model = make()
    report = keras_mimetic.initialize(model, "depthwise", seed=0, rules={"^dense": "mlp"})
    assert "the rule '^dense' has no effect, since `structures` leaves out 'mlp'" in report.notes
    with pytest.warns(UserWarning, match="skips all layers of 'mlp'"):
        assert not keras_mimetic.initialize(model, seed=0, rules={"^dense": None}).notes[1:]


def test_structures_that_are_not_there_are_noted():
    settings = {"depthwise": {"sigma_0": 0.1}, "state_space": {}}
    report = keras_mimetic.initialize(make(), settings, seed=0)
    assert "no layers found for 'state_space'" in report.notes
    assert not any("no layers" in note for note in keras_mimetic.initialize(make()).notes)


class Conditioned(keras.Model):
    """A model with an argument that must be passed by name."""

    def __init__(self):
        super().__init__()
        self.norm = layers.LayerNormalization()
        self.up, self.down = layers.Dense(32, "gelu"), layers.Dense(8)

    def call(self, x, *, scale):
        return self.down(self.up(self.norm(x))) * scale


def test_arguments_by_name():
    x, scale = np.ones((2, 8), "float32"), np.ones((2, 1), "float32")
    model = Conditioned()
    model(x, scale=scale)
    with pytest.warns(UserWarning, match="conditioned could not be traced; print the report"):
        (row,) = keras_mimetic.initialize(model, seed=0).rows
    assert "'scale' is unknown: pass `inputs`" in row.note
    report = keras_mimetic.initialize(model, seed=0, inputs={"x": x, "scale": scale})
    assert [row.note for row in report.written] == [
        "mean -1 (after LayerNorm)",
        "hidden bias -0.5 (after LayerNorm)",
    ]
    with pytest.raises(ValueError, match=r"takes \(x, scale\). Received: arrays of shapes"):
        keras_mimetic.initialize(model, seed=0, inputs={"x": x})


def test_the_headline_counts_a_fused_kernel_once():
    inputs = keras.Input((6, 8))
    fused = layers.Dense(24)
    q, k, v = keras.ops.split(fused(inputs), 3, axis=-1)
    y = layers.Dense(8)(layers.Attention(use_scale=False)([q, v, k]))
    report = keras_mimetic.initialize(keras.Model(inputs, y), "attention", seed=0)
    assert [row.path for row in report.written].count(fused.kernel.path) == 3
    assert str(report).startswith("2 weights given structure")


class Experts(layers.Layer):
    """A layer that holds matrices itself."""

    def build(self, shape):
        self.up = self.add_weight(shape=(2, shape[-1], 16))
        self.down = self.add_weight(shape=(2, 16, shape[-1]))

    def call(self, x):
        hidden = keras.ops.relu(keras.ops.einsum("btc,ecd->betd", x, self.up))
        return keras.ops.einsum("betd,edc->btc", hidden, self.down)


def test_matrices_without_a_site_are_counted():
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, layers.Dense(3)(Experts()(body(layers.Dense(8)(inputs)))))
    report = keras_mimetic.initialize(model, seed=0, dry_run=True)
    assert report.notes == (
        "in none of these structures: 2 projections, 2 matrices of custom layers",
    )
    assert str(report).endswith(report.notes[0])


def test_a_trained_part_needs_force():
    base = keras.Sequential([keras.Input((8,)), layers.Dense(32, "relu"), layers.Dense(8)])
    base.compile("sgd", "mse")
    base.fit(np.zeros((4, 8), "float32"), np.zeros((4, 8), "float32"), verbose=0)
    model = keras.Sequential([keras.Input((8,)), base, layers.Dense(1)])
    with pytest.raises(ValueError, match="has been trained"):
        keras_mimetic.initialize(model, seed=0)
    assert keras_mimetic.initialize(model, seed=0, force=True).written


def test_an_attribute_that_is_called_optimizer():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.up, self.down = layers.Dense(16, "relu"), layers.Dense(8)
            self.up.optimizer = "adam"

        def call(self, x):
            return self.down(self.up(x))

    model = Model()
    model(np.zeros((2, 8), "float32"))
    assert len(keras_mimetic.initialize(model, seed=0).written) == 1


def test_the_report_of_a_model_without_a_path():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.up, self.down = layers.Dense(16, "relu"), layers.Dense(8)

        def call(self, x):
            return self.down(self.up(x))

    model = Model()
    model.up.build((None, 8))
    model.down.build((None, 16))
    model.built = True
    report = keras_mimetic.initialize(model, seed=0)
    assert "pass `inputs`" in str(report)
    x = np.zeros((2, 8), "float32")
    report = keras_mimetic.initialize(model, seed=0, inputs=x)
    assert len(report.written) == 1


def test_values_that_do_not_fit_are_rejected():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, "relu", dtype="float16"),
            layers.Dense(8, dtype="float16"),
        ]
    )
    before = model.get_weights()
    with pytest.raises(ValueError, match="do not fit into its dtype, float16"):
        keras_mimetic.initialize(model, {"mlp": {"mean": 1e6}}, seed=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    (row,) = keras_mimetic.initialize(model, {"mlp": {"mean": -0.5}}, seed=0).rows
    assert row.norm_after == pytest.approx(np.linalg.norm(array(model.layers[0].kernel)), rel=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX shards through Keras")
def test_sharded_models():
    code = """
        import sys, keras, numpy as np
        sys.path[:0] = sys.argv[1:]
        import test_initialize as t
        plain = t.make()
        expected = t.by_place(plain, t.keras_mimetic.initialize(plain, t.DRAWN, seed=7))
        mesh = keras.distribution.DeviceMesh((1, 4), ("batch", "model"))
        layout = keras.distribution.LayoutMap(mesh)
        layout["dense.*kernel"] = ("model", None)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
        )
        model = t.make()
        weights = t.by_place(model, t.keras_mimetic.initialize(model, t.DRAWN, seed=7))
        t.all_equal(weights, expected)
        kernel = model.layers[5].kernel.value
        assert kernel.addressable_shards[0].data.shape == (2, 32), kernel.sharding
    """
    env = {**os.environ, "XLA_FLAGS": FOUR_DEVICES}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *FOLDERS],
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


class Scaled(Unbuilt):
    """Cannot be traced with its optional argument."""

    def call(self, x, scale=None):
        return super().call(x if scale is None else x * float(array(scale).mean()))


def test_inputs_that_a_built_model_cannot_take():
    x = np.ones((2, 8), "float32")
    model = Scaled()
    model(x)
    before = model.get_weights()
    for inputs, shown in (
        ({"images": x}, r"\{'images': \(2, 8\)\}"),
        ({"x": x, "sacle": x}, "'sacle'"),
        (np.ones((2, 9), "float32"), r"shapes \(2, 9\).*value 8"),
    ):
        for call in (keras_mimetic.initialize, keras_mimetic.measure):
            with pytest.raises(ValueError, match=rf"`inputs` .* takes \(x, scale\).*{shown}"):
                call(model, inputs=inputs)
    for shape in ((1, 8), (None, 8)):
        with pytest.raises(ValueError, match=r"such as inputs=keras.ops.zeros\(\(1, 8\)\)"):
            keras_mimetic.initialize(model, inputs=shape)
    # Not the fault of the inputs.
    with pytest.warns(UserWarning, match="scaled could not be traced"):
        keras_mimetic.initialize(model, seed=0, inputs=(x, x))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_dry_run_of_a_trained_model_tells_that_the_real_one_raises():
    model, _ = mlp_after(layers.LayerNormalization())
    assert not keras_mimetic.initialize(model, seed=0, dry_run=True).notes
    model.compile("sgd", "mse")
    model.fit(np.random.rand(4, 64), np.ones((4, 64)), batch_size=4, verbose=0)
    report = keras_mimetic.initialize(model, seed=0, dry_run=True)
    assert "without `dry_run` this call raises an error: Argument `model` has been" in str(report)
    report = keras_mimetic.initialize(model, seed=0, dry_run=True, force=True)
    assert "without `dry_run`" not in str(report)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ({"structures": "mpl"}, "mlp"),
        ({"structures": {"mlp": {"maen": -1}}}, "mean"),
        ({"rules": {"kernel": "orthogonale"}}, "orthogonal"),
        ({"rules": {"kernel": "mimetic_depthwise"}}, "depthwise"),
    ],
)
def test_errors_ask_for_the_name_that_was_meant(arguments, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        keras_mimetic.initialize(make(), **arguments)
