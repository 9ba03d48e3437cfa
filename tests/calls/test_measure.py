import csv
import io
import math
import re
import sys

import keras
import numpy as np
import pytest
from arrays import array
from keras import layers

import keras_mimetic
from keras_mimetic.layers import MimeticMLPBlock

MEAN, HIDDEN_BIAS = -0.6, -0.4
QUERY_KEY, VALUE_OUTPUT = (0.5, 0.8), (0.6, -0.3)
SIGMA = {"sigma_0": 0.3, "velocity": 0.5, "acceleration": 1.0}
STRUCTURES = {
    "mlp": {"mean": MEAN, "hidden_bias": HIDDEN_BIAS},
    "attention": {"query_key": QUERY_KEY, "value_output": VALUE_OUTPUT},
    "depthwise": SIGMA,
}


def make(width=48, depth=3, heads=3):
    inputs = x = keras.Input((10, 10, width))
    for _ in range(depth):
        x = x + layers.DepthwiseConv2D(5, padding="same")(x)
        y = layers.LayerNormalization()(x)
        y = layers.Reshape((100, width))(y)
        y = layers.MultiHeadAttention(heads, width // heads)(y, y)
        x = x + layers.Reshape((10, 10, width))(y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = x + layers.Dense(width)(y)
    return keras.Model(inputs, x)


def one_mlp(units=64, width=16, **kwargs):
    return keras.Sequential(
        [
            keras.Input((width,)),
            layers.LayerNormalization(),
            layers.Dense(units, "relu", **kwargs),
            layers.Dense(width, name="second"),
        ]
    )


def line_of(measured, layer):
    """Return the lines of the layer in the printed table, which may have several parts."""
    return "  ".join(x for x in str(measured).splitlines() if x.split()[:1] == [layer.path])


def test_written_strengths_are_measured():
    model = make()
    keras_mimetic.initialize(model, structures=STRUCTURES, seed=0)
    measured = keras_mimetic.measure(model)
    assert not measured.skipped
    for row in measured.select(part="first", figure="mean"):
        assert row.value == pytest.approx(MEAN, abs=0.04)
        assert abs(row.untrained_mean) < 0.01
        assert 0 < row.untrained_std < 0.02
    for row in measured.select(part="first", figure="z"):
        assert row.value < -30
    for row in measured.select(part="hidden_bias", figure="mean"):
        assert row.value == pytest.approx(HIDDEN_BIAS, abs=0.02)
        assert (row.untrained_mean, row.untrained_std) == (0, 0)
    second = measured.select(part="second", figure="mean")
    assert len(second) == 3
    assert all(abs(row.value) < 0.05 for row in second)
    # Of the query-key products by head, of the value-output product as a whole.
    for part, (noise, identity) in (("query_key", QUERY_KEY), ("value_output", VALUE_OUTPUT)):
        for name, strength in (("noise", noise), ("identity", identity)):
            rows = measured.select(part=part, figure=name)
            assert len(rows) == (9 if part == "query_key" else 3)
            for row in rows:
                assert row.value == pytest.approx(strength, abs=0.06)
                assert row.untrained_mean is row.untrained_std is None
    for row in measured.select(figure="diagonal"):
        # One head has but a part of the value-output product.
        if row.part == "value_output" and row.head is not None:
            continue
        sign = 1 if row.part == "query_key" else -1
        assert sign * (row.value - row.untrained_mean) > 10 * row.untrained_std
    sigmas = [row.value for row in measured.select(figure="sigma")]
    assert sigmas == pytest.approx([0.3, 0.675, 1.3], rel=0.25)
    for row in measured.select(figure="explained"):
        assert row.value > 0.8 > 0.3 > row.untrained_mean


def test_an_untrained_model_has_untrained_figures():
    keras.utils.set_random_seed(0)
    measured = keras_mimetic.measure(make())
    beyond = [
        row
        for row in measured.rows
        if row.untrained_mean is not None
        and abs(row.value - row.untrained_mean) > 5 * row.untrained_std + 1e-6
    ]
    assert not beyond


def test_measuring_does_not_change_the_model():
    model = make(depth=1)
    before = [array(v) for v in model.variables]
    first, second = keras_mimetic.measure(model), keras_mimetic.measure(model)
    for variable, values in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), values)
    assert first.to_dicts() == second.to_dicts()


def test_figures_of_a_bias_after_a_trained_norm():
    model = one_mlp()
    norm, first, _ = model.layers
    random = np.random.default_rng(0)
    norm.gamma.assign(1 + 0.2 * random.normal(size=16))
    norm.beta.assign(0.3 * random.normal(size=16))
    first.bias.assign(random.normal(size=64) - 0.5)
    x = random.normal(size=(50_000, 16)).astype("float32")
    hidden = array(norm(x)) @ array(first.kernel) + array(first.bias)
    biases = hidden.mean(axis=0) / hidden.std(axis=0)
    mean, deviation = keras_mimetic.measure(model).select(part="hidden_bias")
    assert mean.value == pytest.approx(biases.mean(), rel=0.05)
    assert deviation.value == pytest.approx(biases.std(), rel=0.05)


def test_a_dead_hidden_unit_is_ignored():
    model = one_mlp()
    kernel = array(model.layers[1].kernel)
    kernel[:, 3] = 0
    model.layers[1].kernel.assign(kernel)
    model.layers[1].bias.assign(np.full(64, -0.2))
    (row,) = keras_mimetic.measure(model).select(part="hidden_bias", figure="mean")
    kernel = np.delete(kernel, 3, axis=1)
    others = -0.2 / np.sqrt(((kernel - kernel.mean(axis=0)) ** 2).sum(axis=0))
    assert row.value == pytest.approx(others.mean(), rel=0.05)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_a_hidden_bias_is_recovered_after_either_norm(norm):
    make_norm = {"layer": layers.LayerNormalization, "batch": layers.BatchNormalization}[norm]
    model = keras.Sequential(
        [keras.Input((64,)), make_norm(), layers.Dense(256, "gelu"), layers.Dense(64)]
    )
    keras_mimetic.initialize(model, {"mlp": {"mean": -1.5, "hidden_bias": -0.6}}, seed=0)
    measured = keras_mimetic.measure(model)
    for part, value in (("first", -1.5), ("hidden_bias", -0.6)):
        (row,) = measured.select(part=part, figure="mean")
        assert row.value == pytest.approx(value, abs=0.03)


def test_without_a_norm_there_is_no_hidden_bias():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(32, "relu"), layers.Dense(8)])
    measured = keras_mimetic.measure(model)
    assert not measured.select(part="hidden_bias")


@pytest.mark.parametrize("layout", ["depthwise", "grouped", "one_by_one"])
def test_kernels_of_several_layouts(layout):
    inputs = x = keras.Input((8, 8, 32))
    if layout == "one_by_one":
        x = layers.BatchNormalization()(x)
        x = layers.Conv2D(128, 1, activation="gelu")(x)
        model = keras.Model(inputs, inputs + layers.Conv2D(32, 1)(x))
        structures = {"mlp": {"mean": 0.5, "hidden_bias": 0.3}}
        expected = {"first": 0.5, "hidden_bias": 0.3}
    else:
        depthwise = layers.DepthwiseConv2D(5)
        layer = depthwise if layout == "depthwise" else layers.Conv2D(64, 5, groups=32)
        model = keras.Model(inputs, layer(x))
        structures = {"depthwise": {"sigma_0": 1.5}}
        expected = {"kernel": 1.5}
    keras_mimetic.initialize(model, structures=structures, seed=0)
    measured = keras_mimetic.measure(model)
    for part, value in expected.items():
        name = "sigma" if part == "kernel" else "mean"
        (row,) = measured.select(part=part, figure=name)
        assert row.value == pytest.approx(value, rel=0.15)


def test_gated_mlps_are_measured():
    inputs = keras.Input((16,))
    gate = layers.Dense(64, activation="silu", name="gate")(inputs)
    x = layers.Multiply()([gate, layers.Dense(64, name="up")(inputs)])
    model = keras.Model(inputs, layers.Dense(16)(x))
    measured = keras_mimetic.measure(model)
    rows = measured.select(part="first", figure="mean")
    assert [row.path.split("/")[-1] for row in rows] == ["gate", "up"]
    assert all("gated" in row.note for row in rows)
    assert "gated" in str(measured)


def test_cross_attention_is_measured():
    a, b = keras.Input((5, 16)), keras.Input((7, 16))
    model = keras.Model([a, b], layers.MultiHeadAttention(2, 8)(a, b))
    measured = keras_mimetic.measure(model)
    assert len(measured.select(part="query_key", figure="diagonal")) == 2


def test_products_that_are_not_square_have_no_diagonal():
    a, b = keras.Input((5, 16)), keras.Input((7, 24))
    model = keras.Model([a, b], layers.MultiHeadAttention(2, 8)(a, b))
    measured = keras_mimetic.measure(model)
    assert not measured.rows
    assert measured.skipped[0].reason == "cross-attention"


def test_rules_include_and_skip():
    inputs = keras.Input((6, 6, 16))
    x = layers.Conv2D(16, 1, name="pointwise_0")(inputs)
    x = layers.DepthwiseConv2D(3, name="spatial")(layers.Activation("gelu")(x))
    model = keras.Model(inputs, x)
    assert {row.structure for row in keras_mimetic.measure(model).rows} == {"depthwise"}
    measured = keras_mimetic.measure(model, rules={"pointwise_": "mlp", "spatial": None})
    assert {row.structure for row in measured.rows} == {"mlp"}
    (skipped,) = measured.skipped
    assert (skipped.structure, skipped.reason) == ("depthwise", "by the rule 'spatial'")
    assert "skipped:\nspatial  by the rule 'spatial'" in str(measured)


def test_structures_select_what_is_measured():
    model = make(depth=1)
    measured = keras_mimetic.measure(model, structures="depthwise")
    assert {row.structure for row in measured.rows} == {"depthwise"}
    measured = keras_mimetic.measure(model, structures=["mlp"])
    assert {row.structure for row in measured.rows} == {"mlp"}


def test_frozen_layers_and_lora_are_measured():
    model = one_mlp()
    model.trainable = False
    first = model.layers[1]
    (plain,) = keras_mimetic.measure(model).select(part="first", figure="mean")
    model.trainable = True
    first.enable_lora(4)
    first.lora_kernel_a.assign(np.ones(first.lora_kernel_a.shape))
    first.lora_kernel_b.assign(np.ones(first.lora_kernel_b.shape))
    (merged,) = keras_mimetic.measure(model).select(part="first", figure="mean")
    kernel = array(first.kernel)
    assert merged.value == pytest.approx(kernel.mean() / kernel.std(), rel=1e-4)
    assert merged.value > plain.value + 1


def test_weights_of_zeros_and_of_one_value():
    model = one_mlp()
    model.get_layer("second").kernel.assign(np.zeros((64, 16)))
    measured = keras_mimetic.measure(model)
    second = measured.select(part="second")
    assert len(second) == 4
    assert all(math.isnan(row.value) for row in second)
    line = line_of(measured, model.layers[1])
    assert line.split()[-3:-1] == ["-", "-"]
    assert "nan" not in measured.to_csv()
    model = keras.Sequential([keras.Input((6, 16)), layers.DepthwiseConv1D(3)])
    model.layers[0].kernel.assign(np.ones((3, 16, 1)))
    assert all(math.isnan(row.value) for row in keras_mimetic.measure(model).rows)


def test_weights_that_are_not_finite_are_skipped():
    model = make(depth=2)
    dense = next(x for x in model.layers if isinstance(x, layers.Dense))
    dense.kernel.assign(np.full(dense.kernel.shape, np.nan))
    measured = keras_mimetic.measure(model)
    (skipped,) = measured.skipped
    assert "not finite (kernel)" in skipped.reason
    assert len(measured.select(part="first", figure="mean")) == 1


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "float16"])
def test_low_precision(dtype):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = make(depth=1)
    finally:
        keras.config.set_dtype_policy(policy)
    keras_mimetic.initialize(model, structures=STRUCTURES, seed=0)
    measured = keras_mimetic.measure(model)
    (mean,) = measured.select(part="first", figure="mean")
    assert mean.value == pytest.approx(MEAN, abs=0.02)


class Doubled(layers.Layer):
    """A layer that calls its sublayers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = MimeticMLPBlock(64, mean=0.8, norm="layer_norm", hidden_bias=-0.5, seed=0)

    def build(self, input_shape):
        self.block.build(input_shape)
        self.built = True

    def call(self, inputs):
        return self.block(inputs) + inputs


def test_subclassed_models():
    model = keras.Sequential([keras.Input((5, 16)), Doubled()])
    measured = keras_mimetic.measure(model)
    for part, value in (("first", 0.8), ("hidden_bias", -0.5)):
        (row,) = measured.select(part=part, figure="mean")
        assert row.value == pytest.approx(value, abs=0.05)


class TwoArguments(keras.Model):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 8)

    def call(self, x, context):
        return self.attention(x, context)


def test_models_of_several_arguments_take_inputs():
    model = TwoArguments()
    x, context = np.zeros((1, 3, 16), "float32"), np.zeros((1, 4, 16), "float32")
    model(x, context)
    measured = keras_mimetic.measure(model)
    assert any("could not be traced" in skipped.reason for skipped in measured.skipped)
    measured = keras_mimetic.measure(model, inputs=(x, context))
    assert not measured.skipped
    notes = {row.structure: row.note for row in measured.rows}
    assert notes["attention"] == "cross-attention"
    assert not any(note for structure, note in notes.items() if structure != "attention")


def test_a_model_without_these_layers():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    measured = keras_mimetic.measure(model)
    assert (measured.rows, measured.skipped) == ((), ())
    assert "no weights that could have these structures were found" in str(measured)
    assert measured.to_csv().count("\n") == 1
    with pytest.raises(ValueError, match="nothing to draw"):
        measured.plot()


def test_large_figures_are_short():
    up = layers.Dense(16, "relu", bias_initializer=keras.initializers.Constant(-1e12))
    model = keras.Sequential(
        [keras.Input((8,)), layers.LayerNormalization(), up, layers.Dense(8)],
    )
    (cell,) = re.findall(r" (-\S+e\S+)", str(keras_mimetic.measure(model)))
    assert re.fullmatch(r"-\d(\.\d+)?e\+1\d\*", cell)


def test_bad_models():
    with pytest.raises(TypeError, match="`model` must be a Keras model.*Received: model='x'"):
        keras_mimetic.measure("x")
    with pytest.raises(ValueError, match="`model` must have weights.*no weights"):
        keras_mimetic.measure(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="no weights"):
        keras_mimetic.measure(keras.Sequential([keras.Input((3,)), layers.ReLU()]))
    model = one_mlp()
    model.quantize("int8")
    with pytest.raises(ValueError, match="must not be quantized.*its weights are codes"):
        keras_mimetic.measure(model)


def test_bad_arguments():
    model = one_mlp()
    with pytest.raises(ValueError, match="`structures` must name some of 'mlp'.*'mpl'"):
        keras_mimetic.measure(model, structures="mpl")
    with pytest.raises(TypeError, match="`structures` must be names"):
        keras_mimetic.measure(model, structures=3)
    with pytest.raises(TypeError, match="measuring takes no settings"):
        keras_mimetic.measure(model, structures={"mlp": {}})
    with pytest.raises(TypeError, match="`rules` must be a dict"):
        keras_mimetic.measure(model, rules=["x"])
    measured = keras_mimetic.measure(model)
    with pytest.raises(TypeError, match="attributes of a row.*Received: layer"):
        measured.select(layer="x")
    for column, known in {"structure": "mlp", "part": "first", "figure": "mean"}.items():
        with pytest.raises(ValueError, match=f"`{column}` of `select` must be one of .*'{known}'"):
            measured.select(**{column: "nothing"})
    # Known, but not in this model.
    assert measured.select(structure="depthwise") == ()
    for nothing in ((), []):
        with pytest.raises(ValueError, match="`structures` must name at least one"):
            keras_mimetic.measure(model, structures=nothing)
        with pytest.raises(ValueError, match="`structures` must name at least one"):
            keras_mimetic.initialize(model, structures=nothing)
    with pytest.raises(ValueError, match="`structures` must name at least one"):
        keras_mimetic.initialize(model, structures={})


def test_rows_as_dicts_and_csv(tmp_path):
    measured = keras_mimetic.measure(make(depth=1))
    dicts = measured.to_dicts()
    text = measured.to_csv(tmp_path / "figures.csv")
    assert (tmp_path / "figures.csv").read_text() == text
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == len(dicts) == len(measured.rows)
    for line, row in zip(read, dicts, strict=True):
        assert line.keys() == row.keys()
        assert float(line["value"]) == row["value"]
        assert line["head"] == ("" if row["head"] is None else str(row["head"]))


def test_the_table_has_one_line_per_layer_and_one_for_untrained_weights():
    model = make(depth=2)
    lines = str(keras_mimetic.measure(model)).splitlines()
    assert (
        lines[0] == "6 layers measured; * is more than 3 standard deviations from untrained weights"
    )
    blocks = "\n".join(lines[2:]).split("\n\n")
    assert [block.split()[0] for block in blocks] == ["mlp:", "attention:", "depthwise:"]
    for block in blocks:
        rows = block.splitlines()
        # Alike, so that one line does for both.
        assert rows[-1].startswith("  untrained weights")
        assert "±" in rows[-1]


def test_select_asks_for_the_name_that_was_meant():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, "relu"), layers.Dense(4)])
    with pytest.raises(ValueError, match=r"Received: figure='maen'\. Did you mean 'mean'\?"):
        keras_mimetic.measure(model).select(figure="maen")


def test_a_figure_that_untrained_weights_have_exactly_gets_a_mark():
    up, down = layers.Dense(16, "relu"), layers.Dense(8)
    model = keras.Sequential([layers.LayerNormalization(), up, down])
    model(np.ones((2, 8), "float32"))
    bias = keras_mimetic.measure(model).select(part="hidden_bias", figure="mean")[0]
    assert (bias.value, bias.untrained_mean, bias.untrained_std) == (0, 0, 0)
    assert "+0.00*" not in str(keras_mimetic.measure(model))
    keras_mimetic.initialize(model, {"mlp": {"mean": None, "hidden_bias": -0.5}}, seed=0)
    up.kernel.assign(np.random.default_rng(0).normal(size=(8, 16)))
    assert re.search(r"hidden bias\n.* -\d\.\d\d\*\n", str(keras_mimetic.measure(model)))


@pytest.mark.one_backend
def test_plot(tmp_path):
    figure_module = pytest.importorskip("matplotlib.figure")
    model = make(width=80, depth=8, heads=2)
    before = keras_mimetic.measure(model)
    keras_mimetic.initialize(model, seed=0)
    after = keras_mimetic.measure(model)
    assert all(max(image.shape) <= 64 for image in after.images.values())
    for figure, rows in ((after.plot(), 1), (after.plot(before=before), 2)):
        assert isinstance(figure, figure_module.Figure)
        figure.savefig(tmp_path / "picture.png", dpi=30)
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        strips, panels = figure.subfigs[:4], figure.subfigs[4:]
        # Six of eight layers, and a color bar.
        assert [len(strip.axes) for strip in strips] == [6 * rows + 1] * 4
        titles = [axis.get_title() for axis in strips[0].axes[:6]]
        assert titles == [f"layer {number}" for number in (1, 2, 4, 5, 7, 8)]
        drawn = [axis.get_title() for panel in panels for axis in panel.axes if axis.lines]
        assert len(drawn) == 8
        assert "effective hidden bias (bars: over units)" in drawn
    with pytest.raises(TypeError, match="`before` must be what"):
        after.plot(before=model)
    with pytest.raises(ValueError, match="`before` must have measurements of the same model"):
        after.plot(before=keras_mimetic.measure(keras.Sequential([model])))
    # The same names, other sizes.
    with pytest.raises(ValueError, match="the layer 'layers/.*' is missing or differs"):
        after.plot(before=keras_mimetic.measure(make(width=40, depth=8, heads=2)))


@pytest.mark.one_backend
def test_the_legend_has_the_color_of_the_bands():
    pytest.importorskip("matplotlib.figure")
    model = make(depth=1)
    # Panels of MLPs have no figures of the first.
    figure = keras_mimetic.measure(model).plot(before=keras_mimetic.measure(model, "attention"))
    for legend in (legend for part in figure.subfigs for legend in part.legends):
        names = [text.get_text() for text in legend.get_texts()]
        handles = dict(zip(names, legend.legend_handles, strict=True))
        bands = handles["untrained weights, ± 2 standard deviations"]
        assert bands.get_facecolor()[:3] == (0.8, 0.8, 0.8)


@pytest.mark.one_backend
def test_a_single_layer_has_one_tick():
    pytest.importorskip("matplotlib.figure")
    figure = keras_mimetic.measure(one_mlp()).plot()
    figure.draw_without_rendering()
    for panel in (axis for axis in figure.axes if axis.lines):
        low, high = panel.get_xlim()
        assert [tick for tick in panel.get_xticks() if low <= tick <= high] == [1]


@pytest.mark.one_backend
def test_the_plot_numbers_layers_in_the_order_of_the_network():
    pytest.importorskip("matplotlib")
    inputs = x = keras.Input((16,))
    for number in range(4):
        y = layers.LayerNormalization()(x) if number >= 2 else x
        x = x + layers.Dense(16)(layers.Dense(64, "relu", name=f"first_{number}")(y))
    model = keras.Model(inputs, x)
    before = keras_mimetic.measure(model)
    first = model.get_layer("first_0")
    first.kernel.assign(np.full(first.kernel.shape, np.nan))
    after = keras_mimetic.measure(model)
    figure = after.plot(before=before)
    by_title = {axis.get_title(): axis for part in figure.subfigs for axis in part.axes}
    lines = by_title["mean of the first matrix"].lines
    assert [list(line.get_xdata()) for line in lines] == [[1, 2, 3, 4], [2, 3, 4]]
    lines = by_title["effective hidden bias (bars: over units)"].lines
    assert {tuple(line.get_xdata()) for line in lines if len(line.get_xdata()) > 1} == {(3, 4)}


def test_figures_far_from_untrained_weights_are_marked():
    model = one_mlp(width=64, units=256)
    model.layers[1].kernel.assign(np.random.default_rng(0).normal(size=(64, 256)))
    mean = line_of(keras_mimetic.measure(model), model.layers[1]).split()[1]
    assert abs(float(mean)) < 0.02
    keras_mimetic.initialize(model, structures={"mlp": {"mean": 0.2}}, seed=0)
    mean = line_of(keras_mimetic.measure(model), model.layers[1]).split()[1]
    assert float(mean.removesuffix("*")) == pytest.approx(0.2, abs=0.02)
    assert mean.endswith("*")


def test_measurements_compare_and_hash():
    model = one_mlp()
    first, second = (keras_mimetic.measure(model) for _ in range(2))
    assert first != second
    assert len({first, second}) == 2
    assert first.rows == second.rows


def test_large_filters_are_measured_quickly():
    model = keras.Sequential([keras.Input((40, 40, 16)), layers.DepthwiseConv2D(17)])
    keras_mimetic.initialize(model, structures={"depthwise": {"sigma_0": 3.0}}, seed=0)
    (row,) = keras_mimetic.measure(model).select(figure="sigma")
    assert row.value == pytest.approx(3, rel=0.3)


@pytest.mark.one_backend
def test_images_are_the_products(tmp_path):
    model = make(depth=1)
    measured = keras_mimetic.measure(model)
    (attention,) = (x for x in model.layers if isinstance(x, layers.MultiHeadAttention))
    query, key, value, output = (
        array(getattr(attention, f"{role}_dense").kernel)
        for role in ("query", "key", "value", "output")
    )
    images = {key[2]: image for key, image in measured.images.items()}
    np.testing.assert_allclose(
        images["query_key"], np.einsum("ahd,bhd->ab", query, key) / 3, atol=1e-5
    )
    np.testing.assert_allclose(
        images["value_output"], np.einsum("ahd,hdb->ab", value, output), atol=1e-5
    )
    assert images["covariance"].shape == (25, 25)


def test_matplotlib_is_optional(monkeypatch):
    measured = keras_mimetic.measure(one_mlp())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "keras_mimetic._plot", raising=False)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        measured.plot()
