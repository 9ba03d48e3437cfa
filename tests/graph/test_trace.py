"""A model is traced as Keras runs it, and does not change."""

import threading

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mimetic
from keras_mimetic._find import find_sites
from keras_mimetic._graph.keras_internals import sublayers
from keras_mimetic._graph.recorder import reason, trace

BACKEND = keras.backend.backend()


class Feed(layers.Layer):
    """LayerNorm, MLP, residual."""

    def __init__(self, width=8):
        super().__init__()
        self.norm = layers.LayerNormalization()
        self.mlp = keras.Sequential([layers.Dense(16, "gelu"), layers.Dense(width)])

    def call(self, x):
        return x + self.mlp(self.norm(x))


class Through(keras.Model):
    """A block after user-defined code."""

    def __init__(self, code):
        super().__init__()
        self.code = code
        self.weight = self.add_weight(shape=(8,), initializer="ones")
        self.first, self.second = Feed(), Feed()

    def call(self, x):
        return self.second(self.code(self, self.first(x)))


def through(code):
    model = Through(code)
    model(np.ones((2, 6, 8), "float32"))
    return model


def befores(model, inputs=None):
    found = find_sites(model, ["mlp"], inputs=inputs)
    return [site.before for site in found.sites if not site.skip_reason], found


def backend_function(model, x):
    if BACKEND == "torch":
        import torch

        return x + torch.relu(x)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return x + tf.nn.relu(tf.tile(x, (1, 1, 1)))
    return x + ops.relu(x)


class NoTraining(layers.Layer):
    def call(self, x):
        return x


class GivesNone(layers.Layer):
    def call(self, x, cache=None):
        return x, cache


def none_through_two(model, x):
    x, cache = GivesNone()(x)
    return GivesNone()(x, cache)[0]


def loss(model, x):
    model.add_loss(ops.mean(x))
    return x


@pytest.mark.parametrize(
    "code",
    [
        lambda model, x: model.weight * x,
        lambda model, x: model.weight + x,
        lambda model, x: model.weight - x,
        lambda model, x: ops.ones((8,)) * x,
        lambda model, x: ops.cast(model.weight, x.dtype) / x,
        lambda model, x: np.float32(2) * x,
        lambda model, x: layers.Concatenate(axis=1)([ops.ones((2, 1, 8)), x]),
        lambda model, x: sum(token[:, None] for token in ops.transpose(x, (1, 0, 2))),
        lambda model, x: NoTraining()(x, training=False),
        lambda model, x: keras.random.dropout(x, 0.1),
        lambda model, x: ops.reshape(x, (ops.shape(x)[0], -1, 8)),
        lambda model, x: model.second(x)[:, ::2],
        backend_function,
        none_through_two,
        loss,
    ],
)
def test_code_that_keras_runs_is_traced(code):
    found, every = befores(through(code), np.ones((2, 6, 8), "float32"))
    assert found == ["layer_norm"] * 2
    assert every.opaque == []


def branch(model, x):
    return x if bool(ops.any(ops.isnan(x))) else x + 0.0


def test_code_that_fails_hides_only_its_own_layers():
    model = through(branch)
    found, every = befores(model, np.ones((2, 6, 8), "float32"))
    assert found == ["layer_norm"] * 2
    ((layer, _, why),) = every.opaque
    assert layer is model
    assert why == "TypeError: A symbolic KerasTensor cannot be used as a boolean."


def test_a_weight_in_a_time_distributed_layer_has_the_same_context():
    mlp = keras.Sequential([layers.Dense(16, "gelu"), layers.Dense(8)])
    x, y = keras.Input((5, 8)), keras.Input((8,))
    feed = keras.Model(y, Feed()(y))
    model = keras.Model(x, layers.TimeDistributed(feed)(layers.TimeDistributed(mlp)(x)))
    assert befores(model)[0] == ["other", "layer_norm"]


def test_a_cell_is_traced_for_one_step():
    class Cell(layers.Layer):
        def __init__(self):
            super().__init__()
            self.state_size = 8
            self.feed = Feed()

        def build(self, shape):
            self.feed.norm.build(shape)
            self.feed.mlp.build(shape)

        def call(self, x, states):
            y = self.feed(x + states[0])
            return y, [y]

    x = keras.Input((5, 8))
    assert befores(keras.Model(x, layers.RNN(Cell())(x)))[0] == ["layer_norm"]


def test_code_that_needs_the_size_of_an_axis_of_unknown_size():
    class Sums(keras.Model):
        def __init__(self):
            super().__init__()
            self.feed = Feed()

        def build(self, shape):
            self.feed.norm.build(shape)
            self.feed.mlp.build(shape)

        def call(self, x):
            y = self.feed(x)
            return sum(y[:, n] for n in range(y.shape[1]))

    model = Sums()
    model.build((None, None, 8))
    found, every = befores(model)
    assert found == ["layer_norm"]
    assert every.opaque == []


@pytest.mark.skipif(BACKEND != "torch", reason="tensors of other backends are not written into")
def test_hidden_units_that_are_written_into_a_tensor():
    """Such a call has no outputs; RWKV-7 of KerasHub collects its steps in this way."""

    class Collects(layers.Layer):
        def __init__(self):
            super().__init__()
            self.up, self.down = layers.Dense(16), layers.Dense(8)

        def call(self, x):
            hidden = self.up(x)
            steps = ops.zeros((2, 6, 16))
            steps[:] = hidden
            return self.down(ops.relu(hidden)) + self.down(steps)

    model = keras.Sequential([Collects(), Feed()])
    model(np.ones((2, 6, 8), "float32"))
    (written,) = (call for call in trace(model).calls if not call.outputs)
    assert len(written.inputs) == 1
    found, every = befores(model)
    assert found == ["layer_norm"]
    assert every.opaque == []


class Parts(keras.Model):
    """A model with its own training step and no `call`."""

    def __init__(self):
        super().__init__()
        x = keras.Input((6, 8))
        self.encoder, self.decoder = keras.Model(x, Feed()(x)), keras.Model(x, Feed()(x))

    def train_step(self, data):
        return {}


def test_a_model_without_a_call_is_traced_layer_by_layer():
    report = keras_mimetic.initialize(Parts(), seed=0)
    assert len({row.layer_path for row in report.written}) == 2
    assert "no `call`" in report.skipped[0].note


def test_two_dry_runs_print_the_same():
    class Odd(layers.Layer):
        def __init__(self):
            super().__init__()
            self.feed = Feed()

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def build(self, shape):
            self.feed(np.zeros((1, *shape[1:]), "float32"))

        def call(self, x):
            raise ValueError(f"not with {x} of {object()}")

    x = keras.Input((6, 8))
    model = keras.Model(x, Odd()(x))
    first, second = (keras_mimetic.initialize(model, seed=0, dry_run=True) for _ in range(2))
    assert "not with <KerasTensor" in str(first)
    assert str(first) == str(second)


def test_reasons_are_the_causes_of_keras_errors():
    text = (
        "Exception encountered when calling Sequential.call().\n\n"
        "\x1b[1mInput 0 is wrong: expected shape=(None, 8), found <KerasTensor "
        "name=keras_tensor_12>\x1b[0m\n\nArguments received by Sequential.call():\n  x=1"
    )
    assert reason(ValueError(text)) == (
        "ValueError: Input 0 is wrong: expected shape=(None, 8), found <KerasTensor "
        "name=keras_tensor>"
    )


def records(model):
    return [
        (
            {name: id(x) for name, x in vars(layer).items()},
            len(layer._inbound_nodes),
            len(layer._outbound_nodes),
        )
        for layer in sublayers(model)
    ]


@pytest.mark.parametrize("code", [branch, loss, lambda model, x: model.weight * x])
def test_the_model_is_unchanged_for_several_threads(code):
    model = through(code)
    # Keras caches some of its properties when they are first read.
    keras_mimetic.initialize(model, seed=0, dry_run=True)
    before, losses = records(model), len(model.losses)
    classes = [dict(vars(cls)) for cls in (keras.layers.Layer, keras.Operation, keras.Variable)]
    errors, reports = [], []

    def look():
        try:
            reports.append(str(keras_mimetic.initialize(model, seed=0, dry_run=True)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(reports)) == 1
    for now, then in zip(records(model), before, strict=True):
        assert now == then
    assert len(model.losses) == losses
    assert classes == [
        dict(vars(cls)) for cls in (keras.layers.Layer, keras.Operation, keras.Variable)
    ]


@pytest.mark.parametrize(
    "inputs",
    [
        {"c": np.zeros((2, 6, 8))},
        np.zeros((2, 6, 8)),
        [np.zeros((2, 6, 8)), np.zeros((2, 6, 9))],
        (np.zeros((2, 6, 8)), 1, 2, 3, 4),
    ],
)
def test_invalid_inputs_raise_an_error_with_the_reason_of_keras(inputs):
    a, b = keras.Input((6, 8), name="a"), keras.Input((6, 8), name="b")
    model = keras.Model([a, b], Feed()(a + b))
    match = r"must be a valid input of the model, whose `call` takes \(inputs, .*Error: "
    with pytest.raises(ValueError, match=match):
        keras_mimetic.initialize(model, seed=0, dry_run=True, inputs=inputs)
    right = [np.zeros((2, 6, 8)), np.zeros((2, 6, 8))]
    assert keras_mimetic.initialize(model, seed=0, dry_run=True, inputs=right).written


def test_nothing_is_computed():
    """A model whose activations would not fit in memory is traced quickly."""
    x = keras.Input((2**20, 8))
    y = x
    for _ in range(20):
        y = Feed()(layers.Reshape((2**20, 8))(y))
    graph = trace(keras.Model(x, y))
    assert graph.opaque == []
    assert sum(isinstance(call.operation, layers.Dense) for call in graph.calls) == 40
