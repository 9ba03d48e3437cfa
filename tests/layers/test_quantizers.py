"""Quantizers of sublayers are restored by loading."""

import keras
import numpy as np
import pytest
from arrays import array

from keras_mimetic.layers import MimeticMLPBlock, MimeticStateSpace


@pytest.mark.skipif(
    not hasattr(keras.quantizers, "Int8QuantizationConfig"), reason="an older Keras has none"
)
@pytest.mark.parametrize(
    "make", [lambda: MimeticMLPBlock(12, seed=0), lambda: MimeticStateSpace(4, 8, seed=0)]
)
def test_weight_only_int8_is_kept(make, tmp_path):
    model = keras.Sequential([keras.Input((5, 8)), make()])
    model.quantize(config=keras.quantizers.Int8QuantizationConfig(activation_quantizer=None))
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    expected = array(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(loaded(x)), expected, rtol=1e-6, atol=1e-6)
    # Not built yet, it knows them as well.
    layer = model.layers[0]
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
