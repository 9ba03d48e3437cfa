"""Tracing leaves the model, the process and other threads as they are."""

import random
import threading

import keras
import numpy as np
import pytest
from arrays import array
from keras import layers, ops

import keras_mimetic


class MakesLayers(keras.Model):
    """Its `call` makes a layer, draws without a seed, and sets an attribute."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(32, "gelu"), layers.Dense(16)
        self.calls, self.looked = 0, 0

    @property
    def counted(self):
        self.looked += 1
        return self.first

    def call(self, x):
        self.calls += 1
        if keras.backend.backend() != "jax":
            # JAX traces no draw without a seed.
            x = x + keras.random.normal(ops.shape(x))
        return self.second(layers.Dropout(0.1)(self.first(x)))


def test_names_and_random_states_of_the_process():
    model = MakesLayers()
    model(np.ones((2, 16), "float32"))
    attributes = dict(vars(model))

    def next_layer(call):
        keras.utils.set_random_seed(0)
        call(model)
        layer = layers.Dense(4)
        layer.build((None, 4))
        number = int(layer.name.split("_")[-1])
        return number, array(layer.kernel), random.random(), np.random.random()

    before = next_layer(str)
    for call in (
        keras_mimetic.measure,
        lambda x: keras_mimetic.initialize(x, seed=0, dry_run=True),
    ):
        after = next_layer(call)
        assert after[0] == before[0] + 1
        for a, b in zip(before[1:], after[1:], strict=True):
            np.testing.assert_array_equal(a, b)
        before = after
    assert vars(model) == attributes
    assert keras_mimetic.measure(model).rows


@pytest.mark.one_backend
def test_a_model_that_trains_in_another_thread():
    x = np.ones((16, 8), "float32")
    y = inputs = keras.Input((8,))
    for _ in range(6):
        y = y + layers.Dense(8)(layers.Dense(16, "gelu")(y))
    model = keras.Model(inputs, y)
    model.compile("sgd", "mse")
    done, failed = threading.Event(), []

    def watch():
        while not done.is_set():
            try:
                keras_mimetic.measure(model)
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for _ in range(10):
            model.fit(x, x, verbose=0)
    finally:
        done.set()
        thread.join()
    assert not failed


@pytest.mark.one_backend
def test_threads_that_initialize_one_model_write_the_weights_of_one_seed():
    inputs = keras.Input((6, 16))
    y = inputs
    for _ in range(3):
        y = y + layers.MultiHeadAttention(2, 8)(y, y)
    model = keras.Model(inputs, y)
    alone = []
    for seed in range(2):
        keras_mimetic.initialize(model, seed=seed)
        alone.append(array(ops.concatenate([ops.ravel(w) for w in model.weights])))
    for _ in range(5):
        threads = [
            threading.Thread(target=keras_mimetic.initialize, args=(model, None, seed))
            for seed in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = array(ops.concatenate([ops.ravel(w) for w in model.weights]))
        assert any(np.array_equal(together, weights) for weights in alone)


@pytest.mark.one_backend
def test_columns_that_are_kept_are_exact_in_float64():
    inputs = keras.Input((6, 16), dtype="float64")
    qkv = layers.Dense(48, dtype="float64", kernel_initializer="random_normal")
    y = ops.reshape(qkv(inputs), (-1, 6, 3, 2, 8))
    q, k, v = ops.unstack(ops.transpose(y, (2, 0, 3, 1, 4)), 3)
    scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) + np.where(np.tri(6), 0.0, -1e9)
    y = ops.reshape(ops.transpose(ops.matmul(ops.softmax(scores), v), (0, 2, 1, 3)), (-1, 6, 16))
    model = keras.Model(inputs, layers.Dense(16, dtype="float64")(y))
    qkv.kernel.assign(np.random.default_rng(0).normal(size=(16, 48)))
    before = qkv.kernel.numpy()
    assert keras_mimetic.initialize(model, "attention", seed=0).written
    changed = (before != qkv.kernel.numpy()).any(axis=0)
    assert changed.tolist() == [False] * 32 + [True] * 16


@pytest.mark.one_backend
def test_a_deeply_nested_model():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, "relu"), layers.Dense(4)])
    for _ in range(70):
        x = keras.Input((4,))
        model = keras.Model(x, model(x) + x)
    assert len(keras_mimetic.initialize(model, seed=0).written) == 1


def test_very_long_filters_are_not_measured():
    model = keras.Sequential([keras.Input((None, 4)), layers.DepthwiseConv1D(700, padding="same")])
    (skipped,) = keras_mimetic.measure(model).skipped
    assert "more than 625 pixels" in skipped.reason
