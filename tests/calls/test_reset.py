import random

import keras
import numpy as np
import pytest
from keras import ops

import keras_mimetic
from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention, MimeticStateSpace


def network(seed=None):
    x = inputs = keras.Input((6, 8))
    x = keras.layers.BatchNormalization()(x)
    x = MimeticMultiHeadAttention(2, 4, seed=seed)(x, x)
    x = MimeticStateSpace(4, 8, seed=seed)(x)
    x = MimeticMLPBlock(12, norm="layer_norm", dropout=0.1, seed=seed)(x)
    x = keras.layers.Dropout(0.1, seed=seed or 7)(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def arrays(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def assert_equal(some, others):
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def train(model):
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32")
    model.fit(x, np.zeros((4, 6, 3), "float32"), epochs=2, shuffle=False, verbose=0)


@pytest.fixture(scope="module")
def trained():
    model = network()
    model.compile(keras.optimizers.Adam(0.01, use_ema=True, clipnorm=1.0), "mse")
    train(model)
    return model


def test_a_compiled_model_starts_again_and_runs_are_paired(trained):
    ends = []
    for seed in (1, 2, 1):
        keras_mimetic.reset(trained, seed)
        assert int(ops.convert_to_numpy(trained.optimizer.iterations)) == 0
        start = arrays(trained.weights)
        train(trained)
        ends.append((start, arrays(trained.weights)))
    # The same seed: the same start, the same dropout, the same end.
    for first, second in zip(ends[0], ends[2], strict=True):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    kernels = [start[i] for start, _ in ends[:2] for i in (-2,)]
    assert not np.allclose(*kernels)


def test_weights_equal_those_of_a_new_model(trained):
    keras_mimetic.reset(trained, 5)
    random.seed(5)
    new = network()
    assert_equal(arrays(trained.weights), arrays(new.weights))


def test_initializers_with_seeds_repeat_their_samples():
    model = network(seed=3)
    before = arrays(model.weights)
    for weight in model.weights:
        weight.assign(ops.zeros(weight.shape))
    keras_mimetic.reset(model, 0)
    # All but the last layer, which has none.
    assert_equal(arrays(model.weights)[:-2], before[:-2])


def test_the_random_state_of_the_caller_is_unchanged(trained):
    states = random.getstate(), np.random.get_state()[1].tolist()
    keras_mimetic.reset(trained, 0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


@keras.saving.register_keras_serializable(package="tests")
class Translator(keras.Model):
    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attention = MimeticMultiHeadAttention(2, 4)
        self.out = keras.layers.Dense(width, activation=lambda x: ops.tanh(x))

    def call(self, x):
        return self.out(self.attention(x, ops.flip(x, axis=1)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_subclassed_models():
    model = Translator()
    model(np.zeros((2, 6, 8), "float32"))
    before = arrays(model.weights)
    keras_mimetic.reset(model, 0)
    moved = [(a != b).any() for a, b in zip(before, arrays(model.weights), strict=True)]
    assert moved == [weight.path.endswith("kernel") for weight in model.weights]
    # Cross-attention: no identity, as before.
    query, key = (
        arrays([d.kernel])[0] for d in (model.attention.query_dense, model.attention.key_dense)
    )
    assert abs(np.einsum("dhk,dhk->", query, key)) < 4


def test_models_that_cannot_be_rebuilt_are_rejected_unchanged():
    class Closed(keras.Model):
        def __init__(self, layer_count, callback):
            super().__init__()
            self.inner = [keras.layers.Dense(4) for _ in range(layer_count)]
            self.callback = callback

        def call(self, x):
            for layer in self.inner:
                x = layer(x)
            return x

        def get_config(self):
            raise NotImplementedError("no config")

    model = Closed(2, print)
    model(np.zeros((2, 4), "float32"))
    before = arrays(model.weights)
    with pytest.raises(ValueError, match="make again from its configuration.*no config"):
        keras_mimetic.reset(model, 0)
    assert_equal(before, arrays(model.weights))
    with pytest.raises(ValueError, match="must be built"):
        keras_mimetic.reset(keras.Sequential([keras.layers.Dense(3)]), 0)
    with pytest.raises(TypeError, match="`seed`"):
        keras_mimetic.reset(model, 1.5)


def test_every_weight_of_a_state_space_has_its_initializer():
    layer = MimeticStateSpace(4, 8, use_bias=True)
    layer.build((None, 6, 8))
    own = [weight for weight in layer.weights if weight.path.count("/") == 1]
    assert len(own) == 6
    for weight in own:
        initializer = getattr(layer, f"{weight.name}_initializer")
        again = initializer(tuple(weight.shape), weight.dtype)
        np.testing.assert_array_equal(ops.convert_to_numpy(again), ops.convert_to_numpy(weight))
