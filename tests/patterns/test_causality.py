"""Recognition of causal attention and of embedded tokens."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_mimetic._find import find_sites


def facts(model, inputs=None):
    (site,) = find_sites(model, ["attention"], inputs=inputs).sites
    return site.is_causal, site.has_tokens


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
        ({"attention_mask": square}, False),
        ({"attention_mask": band}, False),
    ],
)
def test_causal(arguments, causal):
    assert facts(attention(**arguments)) == (causal, False)


def test_tokens_are_embedded_inputs_and_not_positions():
    def model(embed):
        x = keras.Input((6,), dtype="int32") if embed else keras.Input((6, 8))
        y = layers.Embedding(9, 8)(x) if embed else x
        y = y + layers.Embedding(6, 8)(ops.arange(6))
        return keras.Model(x, layers.MultiHeadAttention(2, 4)(y, y))

    assert facts(model(True)) == (False, True)
    assert facts(model(False)) == (False, False)


def test_hub_models():
    keras_hub = pytest.importorskip("keras_hub")
    arguments = {"vocabulary_size": 50, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    gpt = keras_hub.models.GPT2Backbone(**arguments, intermediate_dim=16)
    assert facts(gpt) == (True, True)
    bert = keras_hub.models.BertBackbone(**arguments, intermediate_dim=16)
    assert facts(bert) == (False, True)
    vit = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    assert facts(vit) == (False, False)
