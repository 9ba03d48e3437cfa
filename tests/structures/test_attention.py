import inspect

import keras
import numpy as np
import pytest
from arrays import array
from keras import layers

import keras_mimetic
from keras_mimetic._patterns import contents
from keras_mimetic._patterns.attention import DEEP, MANY_LAYERS


def encoder(depth):
    x = inputs = keras.Input((4, 8))
    for _ in range(depth):
        x = x + layers.MultiHeadAttention(2, 4)(x, x)
    return keras.Model(inputs, x)


def queries(model):
    return [
        array(layer.query_dense.kernel)
        for layer in model.layers
        if isinstance(layer, layers.MultiHeadAttention)
    ]


@pytest.mark.parametrize("depth", [MANY_LAYERS - 1, MANY_LAYERS])
def test_deep_models_get_value_and_output_alone(depth):
    model = encoder(depth)
    before = queries(model)
    report = keras_mimetic.initialize(model, seed=0)
    is_deep = depth == MANY_LAYERS
    roles = (
        ["value", "attention_output"] if is_deep else ["query", "key", "value", "attention_output"]
    )
    assert [row.path.split("/")[-2] for row in report.rows if row.written] == depth * roles
    assert all(row.note.endswith(f"({DEEP})") for row in report.rows) == is_deep
    kept = [np.array_equal(a, b) for a, b in zip(before, queries(model), strict=True)]
    assert kept == depth * [is_deep]
    # A number writes them.
    keras_mimetic.initialize(model, structures={"attention": {"query_key": (0.7, 0.7)}}, seed=0)
    assert not any(np.array_equal(a, b) for a, b in zip(before, queries(model), strict=True))


def written_roles(report):
    return {row.path.split("/")[-2] for row in report.written}


def test_rules_skip_layers_of_a_deep_model_and_it_stays_deep():
    model = encoder(MANY_LAYERS)
    report = keras_mimetic.initialize(model, rules={f"^{model.layers[1].name}/": None}, seed=0)
    assert written_roles(report) == {"value", "attention_output"}
    assert len(report.written) == 2 * (MANY_LAYERS - 1)


class Untraceable(layers.Layer):
    def __init__(self, depth):
        super().__init__()
        self.attentions = [layers.MultiHeadAttention(2, 4) for _ in range(depth)]

    def build(self, shape):
        for attention in self.attentions:
            attention.build(shape, shape)

    def call(self, x):
        if float(keras.ops.max(keras.ops.convert_to_numpy(x))) > 1e9:
            return x
        for attention in self.attentions:
            x = x + attention(x, x)
        return x


def test_layers_that_rules_add_count():
    for depth, roles in ((MANY_LAYERS - 1, 4), (MANY_LAYERS, 2)):
        layer = Untraceable(depth)
        layer.build((None, 4, 8))
        report = keras_mimetic.initialize(layer, rules={"multi_head": "attention"}, seed=0)
        assert len(written_roles(report)) == roles


def gated(depth, **call):
    x = inputs = keras.Input((4, 8))
    for _ in range(depth):
        x = x + layers.MultiHeadAttention(2, 4, use_gate=True)(x, x, **call)
    return keras.Model(inputs, x)


@pytest.mark.skipif(
    "use_gate" not in inspect.signature(layers.MultiHeadAttention.__init__).parameters,
    reason="gates are newer than this Keras",
)
@pytest.mark.parametrize(
    "model", [lambda: gated(MANY_LAYERS), lambda: gated(1, use_causal_mask=True)]
)
def test_where_one_pair_is_impossible_and_the_other_kept(model):
    """Each weight has its own reason, and a rule loses none of them."""
    with pytest.warns(UserWarning, match="wrote no weight"):
        plain = keras_mimetic.initialize(model(), seed=0)
    with pytest.warns(UserWarning, match="wrote no weight"):
        by_rule = keras_mimetic.initialize(model(), rules={"multi_head": "attention"}, seed=0)
    for report in (plain, by_rule):
        notes = {row.path.split("/")[-2]: row.note for row in report.rows}
        assert notes["query"] == notes["key"]
        assert "query and key keep their weights" in notes["query"]
        assert notes["value"] == notes["attention_output"] == contents.GATED
    settings = {"attention": {"query_key": (0.7, 0.7)}}
    report = keras_mimetic.initialize(
        model(), structures=settings, rules={"multi_head": "attention"}, seed=0
    )
    assert written_roles(report) == {"query", "key"}
