"""Arguments that are valid separately but give values that a dtype can't hold."""

import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_mimetic
from keras_mimetic._numerics.attention import query_key, value_output
from keras_mimetic.initializers import MimeticDepthwise, MimeticMean, sigma_at_depth
from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention, MimeticStateSpace


def build(layer):
    layer.build((None, None, 8))


def build_attention(**arguments):
    MimeticMultiHeadAttention(2, 4, seed=0, **arguments).build((None, 5, 8), (None, 5, 8))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: MimeticMean(scale=1e300, seed=0)((3, 3)), ["MimeticMean(", "scale=1e+300"]),
        (lambda: MimeticMean(mean=1e300, seed=0)((3, 3)), ["mean=1e+300", "float32"]),
        (lambda: MimeticMean(mean=1e6, seed=0)((3, 3), "float16"), ["mean=1000000", "float16"]),
        (lambda: MimeticMean(mean=1e39, seed=0)((3, 3), "bfloat16"), ["mean=1e+39"]),
        (
            lambda: MimeticDepthwise(1, gain=1e300, seed=0)((3, 3, 2, 1)),
            ["MimeticDepthwise(sigma=1.0, gain=1e+300)"],
        ),
        (lambda: MimeticDepthwise(1, gain=1e6, seed=0)((3, 3, 2, 1), "float16"), ["gain=1000000"]),
        (lambda: sigma_at_depth(1.0, 1e308, 1e308, 1e308), ["`sigma_0`", "sigma=inf at x=1.0"]),
        (lambda: build(MimeticMLPBlock(4, norm="layer_norm", hidden_bias=1e39)), ["hidden_bias="]),
        (lambda: build(MimeticMLPBlock(4, mean=1e6, dtype="float16")), ["mean=1000000", "16"]),
        (lambda: build(MimeticStateSpace(4, 4, dt=1e300)), ["role='dt_bias', dt=1e+300"]),
        (lambda: build(MimeticStateSpace(4, 4, dt=1e5, dtype="float16")), ["dt=100000"]),
        (lambda: MimeticStateSpace(4, 4, a_log=81), ["`a_log`", "<= 80"]),
        (lambda: build_attention(query_key=(1e300, 0)), ["query_key=(1e+300"]),
        (lambda: build_attention(value_output=(1e-300, 1e-300)), ["value_output=(1e-300"]),
        (
            lambda: build_attention(query_key=(1e12, 0), dtype="float16"),
            ["'query'", "=10000000000"],
        ),
    ],
)
def test_values_that_do_not_fit_raise_an_error_with_the_arguments(make, names):
    with pytest.raises(ValueError, match=re.escape(names[0])) as caught:
        make()
    for name in names[1:]:
        assert name in str(caught.value)


@pytest.mark.parametrize("strength", [1e-36, 1e-20, 3e-4, 5e3, 1e19, 1e36])
@pytest.mark.parametrize("identity", [0.0, -0.5])
@pytest.mark.parametrize("draw", [query_key, value_output])
def test_products_of_any_scale_are_scaled_products_of_scale_one(draw, strength, identity):
    products = []
    for scale in (1.0, strength):
        given = {"noise": scale, "identity": scale * identity, "seed": 0}
        left, right = draw(16, 16, 2, 3, **given)
        left, right = left.reshape(16, -1), right.reshape(16, -1).T
        if draw is value_output:
            right = right.T.reshape(-1, 16)
        products.append(left.astype(float) @ right.astype(float) / scale)
    largest = abs(products[0]).max()
    np.testing.assert_allclose(products[1], products[0], rtol=0, atol=1e-5 * largest)


def test_initialize_accepts_or_rejects_large_strengths():
    x = keras.Input((5, 8))
    model = keras.Model(x, keras.layers.MultiHeadAttention(2, 4)(x, x))
    keras_mimetic.initialize(model, {"attention": {"value_output": (1e25, -1e25)}}, seed=0)
    before = model.get_weights()
    assert all(np.isfinite(weight).all() for weight in before)
    with pytest.raises(ValueError, match="`value_output` must be .* between 1e-37 and 1e"):
        keras_mimetic.initialize(model, {"attention": {"value_output": (1e300, 0)}}, seed=0)
    x = keras.Input((8, 8, 4))
    # Two layers, of depths 0 and 1.
    y = keras.layers.DepthwiseConv2D(3)(keras.layers.DepthwiseConv2D(3)(x))
    depthwise = keras.Model(x, y)
    kept = depthwise.get_weights()
    widths = dict.fromkeys(("sigma_0", "velocity", "acceleration"), 1.7e308)
    with pytest.raises(ValueError, match="must give a finite sigma"):
        keras_mimetic.initialize(depthwise, {"depthwise": {**widths}}, seed=0)
    for a, b in zip(kept, depthwise.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    large = keras.models.clone_model(model)
    for weight in large.weights:
        weight.assign(1e15 * ops.convert_to_tensor(weight))
    assert all(np.isfinite(row.value) for row in keras_mimetic.measure(large).rows)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
