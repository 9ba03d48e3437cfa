import keras
import numpy as np
import pytest
from arrays import array
from keras import layers

import keras_mimetic
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
