"""Exported models give the outputs of the layers, at every sequence length."""

import importlib.util
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention, MimeticStateSpace

BACKEND = keras.backend.backend()
WIDTH = 16
# What each format needs beside Keras's backend, to write it and to run it.
TOOLS = {
    ("onnx", "tensorflow"): ("tf2onnx", "onnxruntime"),
    ("onnx", "torch"): ("onnxscript", "onnxruntime"),
    ("litert", "tensorflow"): (),
    ("tf_saved_model", "tensorflow"): (),
    ("tf_saved_model", "jax"): ("tensorflow",),
}
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "tf_saved_model": ""}


def with_attention(x):
    return MimeticMultiHeadAttention(2, 8, seed=0)(x, x)


def with_mlp(x):
    # tf2onnx has no exact gelu (docs/export.md).
    block = MimeticMLPBlock(32, activation="relu", norm="layer_norm", residual=True, seed=0)
    return block(x)


def with_state_space(x):
    return MimeticStateSpace(4, 8, num_groups=2, chunk_size=4, seed=0)(x)


def run_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    return lambda x: session.run(None, {given.name: x})[0]


def run_litert(path):
    import tensorflow as tf

    # Without the delegate, which takes no other shape than the first.
    interpreter = tf.lite.Interpreter(path, num_threads=1)
    given, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(x):
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(got["index"])

    return run


def run_tf_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda x: (loaded, np.asarray(loaded.serve(x)))[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", [with_attention, with_mlp, with_state_space])
@pytest.mark.parametrize(
    ("format", "length"),
    [("onnx", None), ("onnx", 6), ("litert", None), ("litert", 6), ("tf_saved_model", None)],
)
def test_exported_outputs_equal_those_of_the_layer(format, length, layer, tmp_path):
    tools = TOOLS.get((format, BACKEND))
    if tools is None:
        pytest.skip(f"no {format} from {BACKEND}, or not of every length (docs/export.md)")
    for tool in tools:
        # Not by importing it: TensorFlow beside another backend takes long to be skipped.
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"needs {tool}")
    inputs = keras.Input((length, WIDTH))
    model = keras.Model(inputs, layer(inputs))
    model(np.zeros((1, length or 5, WIDTH), "float32"))
    path = str(tmp_path / f"model{SUFFIXES[format]}")
    model.export(path, format=format, verbose=False)
    run = getattr(sys.modules[__name__], f"run_{format}")(path)
    for batch, places in ((2, 6), (1, 1), (3, 13)):
        if length in (None, places):
            x = np.random.default_rng(0).normal(size=(batch, places, WIDTH)).astype("float32")
            expected = ops.convert_to_numpy(model(x))
            np.testing.assert_allclose(run(x), expected, rtol=0, atol=3e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere Keras's own can be exported")
@pytest.mark.filterwarnings("ignore")
def test_the_norm_equals_that_of_keras_during_export(monkeypatch):
    import torch

    block = MimeticMLPBlock(32, norm="layer_norm", seed=0)
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(2, 3, (2, 5, WIDTH)), dtype="float32")
    block(x)
    for number, weight in enumerate((block.norm.gamma, block.norm.beta)):
        weight.assign(np.random.default_rng(number).normal(size=WIDTH))
    expected = block(x)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    monkeypatch.setattr(block.norm, "call", None)
    np.testing.assert_allclose(
        ops.convert_to_numpy(block(x)), ops.convert_to_numpy(expected), rtol=0, atol=2e-6
    )
