import keras
import numpy as np
import pytest
from arrays import array
from keras import layers

import keras_mimetic

STRUCTURES = {
    "mlp": {"mean": -0.8, "hidden_bias": -0.6, "only_after_norm": True},
    "attention": {"query_key": (0.5, 0.9), "value_output": (0.3, -0.7)},
    "depthwise": {"sigma_0": 0.4, "velocity": 0.6, "acceleration": 0.8},
}


def make(width=64, depth=3, heads=2, kernel_size=7, use_bias=True):
    inputs = x = keras.Input((12, width))
    for _ in range(depth):
        x = x + layers.DepthwiseConv1D(kernel_size, padding="same")(x)
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu", use_bias=use_bias)(y)
        x = x + layers.Dense(width)(y)
    return keras.Model(inputs, x)


def trained_like():
    model = make()
    keras_mimetic.initialize(model, structures=STRUCTURES, seed=0)
    return model


def test_strengths_transfer_to_another_width_and_depth():
    model = make(width=96, depth=5, heads=4)
    report = keras_mimetic.mimic(trained_like(), model, seed=1)
    assert not report.skipped
    assert {row.path.split("/")[-1] for row in report.written} == {"kernel", "bias"}
    settings = keras_mimetic.measure(model).settings()
    assert settings["mlp"] == pytest.approx(STRUCTURES["mlp"], abs=0.03)
    for pair, strengths in STRUCTURES["attention"].items():
        assert settings["attention"][pair] == pytest.approx(strengths, abs=0.05)
    measured = keras_mimetic.measure(model)
    sigmas = [row.value for row in measured.select(figure="sigma")]
    assert sigmas == pytest.approx([0.4, 0.575, 0.8, 1.075, 1.4], rel=0.35)


def test_mimic_equals_initialize_with_measured_settings():
    trained = trained_like()
    measured = keras_mimetic.measure(trained)
    models = [make(width=32) for _ in range(3)]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    reports = [
        keras_mimetic.mimic(trained, models[0], seed=3),
        keras_mimetic.mimic(measured, models[1], seed=3),
        keras_mimetic.initialize(models[2], structures=measured.settings(), seed=3),
    ]
    written = [{row.path for row in report.written} for report in reports]
    weights = [
        [array(v) for v in model.variables if v.path in paths]
        for model, paths in zip(models, written, strict=True)
    ]
    # A block's kernel and bias of its MLP, four of its attention, one of its convolution.
    assert [len(arrays) for arrays in weights] == [3 * 7] * 3
    for first, second, third in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)
    notes = [[row.note for row in report.rows] for report in reports]
    assert notes[0] == notes[1] == notes[2]


def test_arguments_are_passed_on():
    trained = keras_mimetic.measure(trained_like())
    model, other = make(width=32, depth=1), make(width=32, depth=1)
    other.set_weights(model.get_weights())
    before = [array(v) for v in model.variables]
    report = keras_mimetic.mimic(trained, model, seed=0, dry_run=True)
    for variable, values in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), values)
    assert report.dry_run
    report = keras_mimetic.mimic(trained, model, seed=0, control=True, rules={"depthwise": None})
    assert report.control
    assert [row.note for row in report.skipped] == ["by the rule 'depthwise'"]
    plain = keras_mimetic.mimic(trained, other, seed=0)
    norms = [
        [row.norm_after for row in result.written if row.structure == "mlp"]
        for result in (report, plain)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    model.compile("sgd", "mse")
    model.fit(np.zeros((2, 12, 32)), np.zeros((2, 12, 32)), verbose=0)
    with pytest.raises(ValueError, match="force=True"):
        keras_mimetic.mimic(trained, model)
    keras_mimetic.mimic(trained, model, force=True)


def test_strengths_after_norms_are_not_written_elsewhere():
    inputs = keras.Input((64,))
    plain = keras.Model(inputs, layers.Dense(64)(layers.Dense(256, "relu")(inputs)))
    report = keras_mimetic.mimic(trained_like(), plain, seed=0)
    (row,) = report.written
    assert row.note == "mean -0.0625 (no LayerNorm or BatchNorm directly before)"
    settings = keras_mimetic.measure(trained_like()).settings()["mlp"]
    assert settings["only_after_norm"] is True
    keras_mimetic.initialize(plain, {"mlp": {"mean": -1}}, seed=0)
    assert "only_after_norm" not in keras_mimetic.measure(plain).settings()["mlp"]


def test_an_mlp_without_a_bias_says_so():
    model = make(width=32, depth=1, use_bias=False)
    report = keras_mimetic.mimic(trained_like(), model, seed=0)
    (kernel,) = [row for row in report.written if row.structure == "mlp"]
    assert "no bias for a hidden bias of -0.6" in kernel.note


def test_structures_without_measurements_are_skipped():
    keras.utils.set_random_seed(0)
    model = make()  # untrained, so sigma cannot be fitted
    other = make(width=32, depth=2)
    report = keras_mimetic.mimic(model, other, seed=0)
    assert {row.structure for row in report.written} == {"mlp", "attention"}


def test_cross_attention_is_skipped():
    inputs = keras.Input((5, 16))
    trained = keras.Model(inputs, layers.MultiHeadAttention(1, 16)(inputs, inputs))
    for role in ("query", "key"):
        dense = getattr(trained.layers[1], f"{role}_dense")
        dense.kernel.assign(np.eye(16)[:, None])
    a, b = keras.Input((5, 32)), keras.Input((7, 32))
    model = keras.Model([a, b], layers.MultiHeadAttention(2, 16)(a, b))
    report = keras_mimetic.mimic(trained, model, seed=0)
    assert not report.written
    assert {row.note for row in report.skipped} == {"cross-attention"}


def test_models_without_measurable_structures():
    nothing = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="`trained` must have MLPs.*0 layers measured"):
        keras_mimetic.mimic(nothing, make(depth=1))
    with pytest.raises(TypeError, match="`trained` must be a Keras model or layer"):
        keras_mimetic.mimic("vit", make(depth=1))
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        keras_mimetic.mimic(trained_like(), "vit")
    quantized = keras.Sequential([keras.Input((8,)), layers.Dense(32, "relu"), layers.Dense(8)])
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="`trained` must not be quantized"):
        keras_mimetic.mimic(quantized, make(depth=1))
