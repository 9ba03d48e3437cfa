"""`initialize` and `measure` on models from other projects.

What must be found is found, what must not be touched is not, outputs stay finite,
and what was written is measured.
"""

import keras
import numpy as np
import pytest
from arrays import array
from keras import layers

import keras_mimetic


def check(model, expected, inputs):
    """Initialize a model, check the number of written weights by structure, return the report."""
    before = {v.path: array(v) for v in model.variables}
    assert len(before) == len(model.variables)
    report = keras_mimetic.initialize(model, seed=0)
    counts = {}
    for row in report.written:
        counts[row.structure] = counts.get(row.structure, 0) + 1
    assert counts == expected, str(report)
    changed = {v.path for v in model.variables if (array(v) != before[v.path]).any()}
    assert changed == {row.path for row in report.written}
    check_measured(model, report)
    outputs = model(inputs, training=False)
    for output in keras.tree.flatten(outputs):
        assert np.isfinite(array(output)).all()
    return report


def check_measured(model, report):
    measured = keras_mimetic.measure(model)
    places = {(row.structure, row.layer_path) for row in measured.rows if not row.note}
    noted = {row.note for row in measured.rows if row.note}
    assert places == {
        (row.structure, row.layer_path) for row in report.rows if row.note not in noted
    }
    biases = {x.layer_path: x.note.split()[2] for x in report.written if "hidden bias" in x.note}
    for row in measured.select(part="hidden_bias", figure="mean", note=""):
        assert row.value == pytest.approx(float(biases[row.layer_path]), abs=0.05)
    for row in measured.select(part="query_key", figure="diagonal"):
        # Cross-attention is skipped, and causal attention keeps query and key.
        plain = row.note != "cross-attention" and not any(
            x.layer_path == row.layer_path and "causal" in x.note for x in report.written
        )
        assert not plain or row.value > row.untrained_mean + 5 * row.untrained_std
    for row in measured.select(part="kernel", figure="explained"):
        assert row.value > row.untrained_mean + 2 * row.untrained_std


def images(size, count=1):
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype("float32")


def test_applications_convnext():
    model = keras.applications.ConvNeXtTiny(weights=None, input_shape=(32, 32, 3), classes=10)
    report = check(model, {"mlp": 36, "depthwise": 18}, images(32))
    assert not report.skipped
    notes = {row.path: row.note for row in report.rows}
    assert set(notes) == {
        f"convnext_tiny_stage_{stage}_block_{block}_{weight}"
        for stage, blocks in enumerate((3, 3, 9, 3))
        for block in range(blocks)
        for weight in (
            *("depthwise_conv/kernel", "pointwise_conv_1/kernel", "pointwise_conv_1/bias"),
        )
    }
    assert all("after LayerNorm" in note for path, note in notes.items() if "pointwise" in path)
    # In the order of the network.
    first = notes["convnext_tiny_stage_0_block_0_depthwise_conv/kernel"]
    last = notes["convnext_tiny_stage_3_block_2_depthwise_conv/kernel"]
    assert ("depth 0.00" in first, "depth 1.00" in last) == (True, True)


def test_applications_mobilenet():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=10)
    report = check(model, {"depthwise": 17}, images(32))
    # Expand, depthwise, project is listed, but for the first block, which does not expand.
    assert len(report.skipped) == 16
    assert all("inverted residual" in row.note for row in report.skipped)
    assert all("expand/kernel" in row.path for row in report.skipped)


@pytest.mark.parametrize("name", ["ViTBackbone", "DeiTBackbone"])
def test_hub_vision_transformers(name):
    keras_hub = pytest.importorskip("keras_hub")
    hidden = {"ViTBackbone": "mlp_dim", "DeiTBackbone": "intermediate_dim"}[name]
    model = getattr(keras_hub.models, name)(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        **{hidden: 64},
    )
    report = check(model, {"mlp": 4, "attention": 8, "position": 1}, images(32))
    assert not report.skipped
    assert all("LayerNorm" in row.note for row in report.rows if row.structure == "mlp")
    assert not any("cross" in row.note for row in report.rows)


@pytest.mark.parametrize("normalize_first", [True, False])
def test_hub_transformer_encoder(normalize_first):
    keras_hub = pytest.importorskip("keras_hub")
    x = keras.Input((7, 16))
    y = x
    for _ in range(2):
        y = keras_hub.layers.TransformerEncoder(64, 2, normalize_first=normalize_first)(y)
    data = np.random.default_rng(0).normal(size=(2, 7, 16)).astype("float32")
    report = check(keras.Model(x, y), {"mlp": 4, "attention": 8}, data)
    assert {row.path.split("/")[1] for row in report.rows if row.structure == "mlp"} == {
        "feedforward_intermediate_dense"
    }
    assert all("LayerNorm" in row.note for row in report.rows if row.structure == "mlp")


def test_hub_transformer_decoder_with_cross_attention():
    keras_hub = pytest.importorskip("keras_hub")
    x, y = keras.Input((5, 16)), keras.Input((7, 16))
    z = keras_hub.layers.TransformerDecoder(64, 2)(x, y)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(2, n, 16)).astype("float32") for n in (5, 7)]
    report = check(keras.Model([x, y], z), {"mlp": 2, "attention": 2}, data)
    cross = {row.path.split("/")[1] for row in report.skipped if row.note == "cross-attention"}
    assert cross == {"cross_attention"}


def test_hub_gpt2():
    keras_hub = pytest.importorskip("keras_hub")
    model = keras_hub.models.GPT2Backbone(
        vocabulary_size=50,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=64,
        max_sequence_length=9,
    )
    ids = np.arange(18).reshape(2, 9)
    data = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    report = check(model, {"mlp": 4, "attention": 4}, data)
    assert not report.skipped
    assert not any("cross" in row.note for row in report.rows)
    assert all("causal" in row.note for row in report.rows if row.structure == "attention")


def conv_mixer(size=32, filters=16, depth=3, kernel_size=5, patch_size=2, classes=10):
    """Build a ConvMixer as in the keras.io example."""

    def activation_block(x):
        x = layers.Activation("gelu")(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((size, size, 3))
    x = layers.Rescaling(scale=1.0 / 255)(inputs)
    x = layers.Conv2D(filters, kernel_size=patch_size, strides=patch_size)(x)
    x = activation_block(x)
    for _ in range(depth):
        x0 = x
        x = layers.DepthwiseConv2D(kernel_size=kernel_size, padding="same")(x)
        x = layers.Add()([activation_block(x), x0])
        x = layers.Conv2D(filters, kernel_size=1)(x)
        x = activation_block(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def test_conv_mixer():
    report = check(conv_mixer(), {"depthwise": 3}, images(32))
    assert not report.skipped


class Patches(layers.Layer):
    def __init__(self, patch_size):
        super().__init__()
        self.patch_size = patch_size

    def call(self, x):
        batch, height, width, channels = keras.ops.shape(x)
        p = self.patch_size
        x = keras.ops.image.extract_patches(x, size=p)
        return keras.ops.reshape(x, (batch, (height // p) * (width // p), p * p * channels))


class PatchEncoder(layers.Layer):
    def __init__(self, count, width):
        super().__init__()
        self.count = count
        self.projection = layers.Dense(units=width)
        self.position = layers.Embedding(input_dim=count, output_dim=width)

    def call(self, patch):
        positions = keras.ops.expand_dims(keras.ops.arange(0, self.count, step=1), axis=0)
        return self.projection(patch) + self.position(positions)


def vision_transformer(size=24, patch=8, width=16, heads=2, depth=2, classes=10):
    """Build a Vision Transformer as in the keras.io example, including its MLP head."""

    def mlp(x, hidden_units, rate):
        for units in hidden_units:
            x = layers.Dense(units, activation=keras.activations.gelu)(x)
            x = layers.Dropout(rate)(x)
        return x

    inputs = keras.Input((size, size, 3))
    encoded = PatchEncoder((size // patch) ** 2, width)(Patches(patch)(inputs))
    for _ in range(depth):
        x1 = layers.LayerNormalization(epsilon=1e-6)(encoded)
        attention = layers.MultiHeadAttention(num_heads=heads, key_dim=width, dropout=0.1)(x1, x1)
        x2 = layers.Add()([attention, encoded])
        x3 = layers.LayerNormalization(epsilon=1e-6)(x2)
        x3 = mlp(x3, [width * 2, width], 0.1)
        encoded = layers.Add()([x3, x2])
    representation = layers.LayerNormalization(epsilon=1e-6)(encoded)
    representation = layers.Dropout(0.5)(layers.Flatten()(representation))
    features = mlp(representation, [2 * 9 * width, 64], 0.5)
    return keras.Model(inputs, layers.Dense(classes)(features))


def test_vision_transformer():
    written = {"mlp": 4, "attention": 8, "position": 1}
    report = check(vision_transformer(), written, images(24))
    notes = [row.note for row in report.written if row.structure == "mlp"]
    assert all("(after LayerNorm)" in note for note in notes)
    # Of the head's layers the last hidden one is narrower than its input.
    head, narrow = (row.note for row in report.skipped)
    assert "a head" in head
    assert "narrower" in narrow


def test_gpt_like_subclassed_model():
    class CausalBlock(layers.Layer):
        def __init__(self, width, heads):
            super().__init__()
            self.norm1, self.norm2 = layers.LayerNormalization(), layers.LayerNormalization()
            self.attention = layers.MultiHeadAttention(heads, width // heads, dropout=0.1)
            self.mlp = keras.Sequential(
                [layers.Dense(4 * width, activation="gelu"), layers.Dense(width)]
            )

        def call(self, x, training=None):
            y = self.norm1(x)
            x = x + self.attention(y, y, use_causal_mask=True, training=training)
            return x + self.mlp(self.norm2(x))

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = layers.Embedding(50, 16), layers.Embedding(9, 16)
            self.blocks = [CausalBlock(16, 2) for _ in range(2)]
            self.norm = layers.LayerNormalization()

        def call(self, ids, training=None):
            length = keras.ops.shape(ids)[1]
            x = self.tokens(ids) + self.positions(keras.ops.arange(length))
            for block in self.blocks:
                x = block(x, training=training)
            return keras.ops.matmul(self.norm(x), keras.ops.transpose(self.tokens.embeddings))

    model = Model()
    ids = np.arange(18).reshape(2, 9).astype("int32")
    model(ids)
    report = check(model, {"mlp": 4, "attention": 4}, ids)
    assert [row.structure for row in report.skipped] == ["position"]
    assert all("LayerNorm" in row.note for row in report.rows if row.structure == "mlp")
