"""LoRA of sublayers is restored by loading, with its rank."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention, MimeticStateSpace


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: MimeticMLPBlock(12, seed=0), ("fc1", "fc2")),
        (lambda: MimeticStateSpace(4, 8, seed=0), ("in_projection", "out_projection")),
        (lambda: MimeticMultiHeadAttention(2, 4, seed=0), ("query_dense", "output_dense")),
    ],
)
def test_lora_is_kept(make, names, tmp_path):
    inputs, layer = keras.Input((5, 8)), make()
    is_attention = isinstance(layer, MimeticMultiHeadAttention)
    model = keras.Model(inputs, layer(inputs, inputs) if is_attention else layer(inputs))
    for rank, name in enumerate(names, start=1):
        getattr(layer, name).enable_lora(rank, lora_alpha=4)
    x, y = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    shapes = [weight.shape for weight in model.trainable_weights]
    assert [weight.shape for weight in loaded.trainable_weights] == shapes
    again = loaded.layers[-1]
    for rank, name in enumerate(names, start=1):
        sublayer = getattr(again, name)
        assert (sublayer.lora_rank, sublayer.lora_alpha) == (rank, 4)
    expected = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(x)), expected, rtol=0, atol=2e-6)
    # Not built yet, it knows it as well.
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
