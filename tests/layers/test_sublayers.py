"""Quantization and LoRA of sublayers are restored by loading."""

import keras
import numpy as np
import pytest
from arrays import array

from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention, MimeticStateSpace

X = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")


def model_of(layer):
    inputs = keras.Input((5, 8))
    is_attention = isinstance(layer, MimeticMultiHeadAttention)
    return keras.Model(inputs, layer(inputs, inputs) if is_attention else layer(inputs))


def check_loading(model, path, atol):
    """Return the layer of the loaded model, whose outputs must be those of `model`."""
    expected = array(model(X))
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(array(loaded(X)), expected, rtol=0, atol=atol)
    layer = model.layers[-1]
    # A layer that is not built knows them as well.
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
    return loaded.layers[-1]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: MimeticMLPBlock(12, seed=0), ("fc1", "fc2")),
        (lambda: MimeticStateSpace(4, 8, seed=0), ("in_projection", "out_projection")),
        (lambda: MimeticMultiHeadAttention(2, 4, seed=0), ("query_dense", "output_dense")),
    ],
)
def test_lora_is_kept(make, names, tmp_path):
    model = model_of(make())
    for rank, name in enumerate(names, start=1):
        getattr(model.layers[-1], name).enable_lora(rank, lora_alpha=4)
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    layer = check_loading(model, tmp_path / "model.keras", atol=2e-6)
    shapes = [weight.shape for weight in model.layers[-1].trainable_weights]
    assert [weight.shape for weight in layer.trainable_weights] == shapes
    for rank, name in enumerate(names, start=1):
        sublayer = getattr(layer, name)
        assert (sublayer.lora_rank, sublayer.lora_alpha) == (rank, 4)


LAYERS = [
    lambda: MimeticMLPBlock(12, seed=0),
    lambda: MimeticStateSpace(4, 8, seed=0),
    lambda: MimeticMultiHeadAttention(2, 4, seed=0),
]


@pytest.mark.skipif(
    not hasattr(keras.quantizers, "Int8QuantizationConfig"), reason="an older Keras has none"
)
@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
def test_weight_only_int8_is_kept(make, tmp_path):
    model = model_of(make())
    model.quantize(config=keras.quantizers.Int8QuantizationConfig(activation_quantizer=None))
    check_loading(model, tmp_path / "model.keras", atol=1e-6)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
def test_all_projections_of_quantized_attention_are_kept(tmp_path):
    gate = {"use_gate": True} if hasattr(keras.quantizers, "Int8QuantizationConfig") else {}
    model = model_of(MimeticMultiHeadAttention(2, 4, seed=0, **gate))
    model.quantize("int8")
    layer = check_loading(model, tmp_path / "model.keras", atol=1e-6)
    assert layer.output_dense.dtype_policy.quantization_mode == "int8"
