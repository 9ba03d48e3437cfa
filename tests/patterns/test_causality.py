"""Recognition of causal attention."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mimetic
from keras_mimetic._find import find_sites
from keras_mimetic._patterns.causality import hides_later


def facts(model, inputs=None):
    (site,) = find_sites(model, ["attention"], inputs=inputs).sites
    return site.is_causal


def attention(**arguments):
    x = keras.Input((6, 8))
    given = {name: make(x) for name, make in arguments.items()}
    return keras.Model(x, layers.MultiHeadAttention(2, 4)(x, x, **given))


def lower(x):
    return np.tril(np.ones((1, 6, 6), bool))


def lower_and_padding(x):
    padding = ops.any(ops.not_equal(x, 0), axis=-1)
    return ops.logical_and(ops.convert_to_tensor(lower(x)), padding[:, None, :])


def compared(x):
    places = ops.arange(6)
    return (places[:, None] >= places)[None]


def in_operations(x):
    return ops.tril(ops.ones_like(x[:, :, :1]) * ops.ones((1, 1, 6)))


def window(x):
    ago = np.arange(6)[:, None] - np.arange(6)
    return ((ago >= 0) & (ago < 3))[None]


def window_and_first(x):
    return window(x) | (lower(x) & (np.arange(6) < 1))


def with_prefix(x):
    return lower(x) | (np.arange(6) < 3)


def smaller_of_two(x):
    return ops.minimum(lower(x).astype("float32"), np.triu(np.ones((1, 6, 6)), -2))


def of_positions(x):
    places = ops.cumsum(ops.ones_like(x[:, :, 0]), axis=1)
    return places[:, :, None] >= places[:, None, :]


def of_segments(x):
    segments = ops.cast(x[:, :, 0], "int32")
    return ops.equal(segments[:, :, None], segments[:, None, :])


class OfValues(layers.Layer):
    """A mask that cannot be traced."""

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], 6, 6), "bool")

    def call(self, x):
        return ops.convert_to_tensor(np.tril(np.full((1, 6, 6), ops.convert_to_numpy(x).any())))


def square(x):
    return np.ones((1, 6, 6), bool)


def band(x):
    return np.tri(6, 6, 2, dtype=bool)[None]


@pytest.mark.parametrize(
    ("arguments", "causal"),
    [
        ({}, False),
        ({"use_causal_mask": lambda x: True}, True),
        ({"use_causal_mask": lambda x: False}, False),
        ({"attention_mask": lower}, True),
        ({"attention_mask": lower_and_padding}, True),
        ({"attention_mask": compared}, True),
        ({"attention_mask": in_operations}, True),
        ({"attention_mask": window}, True),
        ({"attention_mask": window_and_first}, True),
        ({"attention_mask": smaller_of_two}, True),
        ({"attention_mask": with_prefix}, False),
        ({"attention_mask": of_segments}, False),
        ({"attention_mask": of_positions}, None),
        ({"attention_mask": lambda x: OfValues()(x)}, None),
        ({"attention_mask": square}, False),
        ({"attention_mask": band}, False),
    ],
)
def test_causal(arguments, causal):
    assert facts(attention(**arguments)) is causal


def test_a_mask_that_is_an_input():
    x, mask = keras.Input((6, 8)), keras.Input((6, 6), dtype="bool")
    y = layers.MultiHeadAttention(2, 4)(x, x, attention_mask=mask)
    model = keras.Model([x, mask], y)
    assert facts(model) is None
    report = keras_mimetic.initialize(model, "attention", seed=0)
    assert [row.path.split("/")[1] for row in report.written] == ["value", "attention_output"]
    assert all("could not be traced" in row.note for row in report.written)


@pytest.mark.parametrize(
    ("bias", "causal"),
    [
        (lambda ago: np.where(ago >= 0, -0.5 * ago, -np.inf), True),
        (lambda ago: -0.5 * abs(ago), False),
        (lambda ago: np.where(ago >= 0, 0, -1e9)[2:], True),
        (lambda ago: (ago >= 0)[:, 2:], False),
        (lambda ago: ago < 0, True),
        (lambda ago: ago <= 0, False),
    ],
)
def test_biases(bias, causal):
    ago = np.arange(6)[:, None] - np.arange(6)
    assert hides_later(bias(ago)) is causal


def test_hub_models():
    keras_hub = pytest.importorskip("keras_hub")
    arguments = {"vocabulary_size": 50, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    gpt = keras_hub.models.GPT2Backbone(**arguments, intermediate_dim=16)
    assert facts(gpt) is True
    bert = keras_hub.models.BertBackbone(**arguments, intermediate_dim=16)
    assert facts(bert) is False
    vit = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    assert facts(vit) is False
