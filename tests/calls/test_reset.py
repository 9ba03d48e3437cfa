import concurrent.futures
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


class Scale(keras.layers.Layer):
    """Has weights of its own, and no config."""

    def __init__(self, callback):
        super().__init__()
        self.callback = callback

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale

    def get_config(self):
        raise NotImplementedError("no config")


def test_models_that_cannot_be_made_again_are_rejected_unchanged():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), Scale(print)])
    before = arrays(model.weights)
    with pytest.raises(ValueError, match="the layer 'sequential.*scale.*no config"):
        keras_mimetic.reset(model, 0)
    assert_equal(before, arrays(model.weights))
    with pytest.raises(ValueError, match="must have weights"):
        keras_mimetic.reset(keras.Sequential([keras.layers.Dense(3)]), 0)
    with pytest.raises(TypeError, match="`seed`"):
        keras_mimetic.reset(model, 1.5)


class Tower(keras.Model):
    """Has no config, and no weights but those of its layers."""

    def __init__(self, layers):
        super().__init__()
        self.inner = layers

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x


def test_a_subclassed_model_without_a_config_is_made_again_layer_by_layer():
    first = keras.layers.Dense(4)
    model = Tower([first, keras.layers.Dense(4, activation="relu"), first])
    model(np.zeros((2, 4), "float32"))
    before = arrays(model.weights)
    keras_mimetic.reset(model, 0)
    moved = [(a != b).any() for a, b in zip(before, arrays(model.weights), strict=True)]
    assert moved == [True, False, True, False]


def block(initializer):
    class Block(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 8), initializer=initializer)

        def call(self, x):
            return ops.matmul(x, self.kernel)

    return Block


def own(x):
    return ops.tanh(x)


def from_lambda(lowest):
    return lambda shape, dtype=None: ops.full(shape, lowest, dtype)


def own_model():
    """Has two classes of one name, layers named as operations, and own functions."""
    inputs = keras.Input((8,))
    x = block("glorot_uniform")()(inputs) + block("ones")()(inputs)
    x = keras.layers.Add()([x, keras.layers.Lambda(lambda x: own(x))(x)])
    x = keras.layers.Dense(8, activation=own, kernel_initializer=from_lambda(3.0))(x) + x
    return keras.Model(inputs, keras.layers.Dense(8, activation=lambda x: own(x))(x))


def test_a_functional_model_with_classes_and_functions_of_its_own():
    model = own_model()
    before = arrays(model.weights)
    for weight in model.weights:
        weight.assign(weight - 1)
    keras_mimetic.reset(model, 0)
    after = arrays(model.weights)
    drawn = [bool(np.ptp(values)) for values in before]
    assert sum(drawn) == 2
    for a, b, is_drawn in zip(before, after, drawn, strict=True):
        assert (a != b).any() == is_drawn
        np.testing.assert_allclose(a.std(), b.std(), rtol=0.5)


class Own(keras.optimizers.SGD):
    pass


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1 + ops.cast(step, "float32"))


class Share(keras.metrics.MeanSquaredError):
    pass


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: Own(0.1, momentum=0.9),
        lambda: keras.optimizers.Adam(Rate()),
        lambda: keras.optimizers.Adagrad(lambda: 0.1),
        lambda: keras.optimizers.LossScaleOptimizer(Own(Rate(), momentum=0.9)),
        lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2, use_ema=True),
    ],
)
def test_whatever_a_model_is_compiled_with(optimizer):
    model = own_model()
    made = optimizer()
    model.compile(made, lambda y, z: ops.mean(ops.square(y - z)), metrics=[Share()])
    data = np.ones((4, 8), "float32")
    model.optimizer.build(model.trainable_variables)
    before = arrays(model.optimizer.variables)
    model.fit(data, data, batch_size=2, verbose=0)
    keras_mimetic.reset(model, 0)
    assert model.optimizer is made
    assert_equal(before, arrays(model.optimizer.variables))
    model.fit(data, data, verbose=0)


def test_every_optimizer_of_a_model_starts_again():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.second = keras.optimizers.Adam()
    model.second.build(model.trainable_variables)
    model.second.iterations.assign(3)
    keras_mimetic.reset(model, 0)
    assert int(model.second.iterations.value) == 0


def fit_with_decay(model):
    decay = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 * rate)
    data = np.ones((4, 4), "float32")
    model.fit(data, data, epochs=2, verbose=0, callbacks=[decay])


def test_a_learning_rate_that_a_callback_lowered_is_that_of_the_first_run_again():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(3):
        keras_mimetic.reset(model, 0)
        assert float(model.optimizer.learning_rate.value) == pytest.approx(0.1)
        fit_with_decay(model)
    # What the user sets is kept.
    model.optimizer.learning_rate = 0.2
    for _ in range(2):
        keras_mimetic.reset(model, 0)
        assert float(model.optimizer.learning_rate.value) == pytest.approx(0.2)
        fit_with_decay(model)
    # Nobody knows with what rate this one began.
    model.compile(keras.optimizers.SGD(0.1), "mse")
    fit_with_decay(model)
    before = arrays(model.variables)
    with pytest.raises(ValueError, match="whose rate a callback has changed to 0.001 before"):
        keras_mimetic.reset(model, 0)
    assert_equal(before, arrays(model.variables))


@pytest.mark.one_backend
def test_threads_get_the_weights_of_their_seeds():
    models = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(400)]) for _ in range(4)]
    for seed, model in enumerate(models):
        keras_mimetic.reset(model, seed)
    alone = [arrays(model.weights)[0] for model in models]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(keras_mimetic.reset, models, range(4)))
    assert_equal(alone, [arrays(model.weights)[0] for model in models])


@pytest.mark.one_backend
def test_names_of_later_layers_do_not_depend_on_it(trained):
    numbers = []
    for call in (keras_mimetic.reset, keras_mimetic.measure, str):
        call(trained)
        numbers.append(int(keras.layers.Dense(3).name.split("_")[1]))
    assert np.diff(numbers).tolist() == [1, 1]


def test_every_weight_of_a_state_space_has_its_initializer():
    layer = MimeticStateSpace(4, 8, use_bias=True)
    layer.build((None, 6, 8))
    own = [weight for weight in layer.weights if weight.path.count("/") == 1]
    assert len(own) == 6
    for weight in own:
        initializer = getattr(layer, f"{weight.name}_initializer")
        again = initializer(tuple(weight.shape), weight.dtype)
        np.testing.assert_array_equal(ops.convert_to_numpy(again), ops.convert_to_numpy(weight))
