"""Layers inside wrappers are traced; loops and branches of `keras.ops` are single operations."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_mimetic._find import find_sites

WIDTH = 8


class Block(layers.Layer):
    """A residual MLP after a norm."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.norm = layers.LayerNormalization()
        self.up, self.down = layers.Dense(16, "relu"), layers.Dense(WIDTH)

    def build(self, shape):
        self.norm.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], 16))

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return x + self.down(self.up(self.norm(x)))


class Around(layers.Layer):
    """A block that a function calls."""

    def __init__(self, body):
        super().__init__()
        self.block, self.body = Block(), body

    def build(self, shape):
        self.block.build(shape)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x):
        return self.body(self.block, x)


def written(model):
    """Return the layer before each MLP, in a model that is traced completely."""
    found = find_sites(model, ["mlp"])
    assert found.opaque == []
    assert found.notes == ()
    return [(site.before, site.skip_reason) for site in found.sites]


def test_a_rematerialized_function_is_traced():
    x = keras.Input((6, WIDTH), batch_size=2)
    y = Around(lambda block, x: keras.remat(block)(x))(x)
    # What follows hangs on what the body gives.
    y = layers.Dense(WIDTH)(layers.Dense(16, "relu")(layers.LayerNormalization()(y)))
    assert written(keras.Model(x, y)) == [("layer_norm", "")] * 2


def test_a_layer_in_a_loop_is_counted_and_what_follows_is_found():
    def body(block, x):
        return ops.fori_loop(0, 3, lambda _, y: block(y), x)

    x = keras.Input((6, WIDTH), batch_size=2)
    y = layers.Dense(16, "relu")(layers.LayerNormalization()(Around(body)(x)))
    found = find_sites(keras.Model(x, layers.Dense(WIDTH)(y)), ["mlp"])
    assert [site.before for site in found.sites] == ["layer_norm"]
    assert found.notes == ("in none of these structures: 2 projections",)


def test_loops_over_constants_run():
    """A loop makes a triangular mask, so attention with it is causal."""

    class Causal(layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = layers.MultiHeadAttention(2, 4)

        def call(self, x):
            n = ops.arange(6)
            mask = ops.map(lambda row: n <= row, n)
            return self.attention(x, x, attention_mask=mask)

    x = keras.Input((6, WIDTH), batch_size=2)
    (site,) = find_sites(keras.Model(x, Causal()(x)), ["attention"]).sites
    assert site.is_causal


@pytest.mark.parametrize("named", [False, True])
def test_time_distributed_keeps_what_is_known_of_its_input(named):
    x = keras.Input((3, 6, WIDTH))
    y = layers.LayerNormalization()(x)
    wrapped = layers.TimeDistributed(layers.Dense(16, "relu"))
    y = wrapped(inputs=y) if named else wrapped(y)
    model = keras.Model(x, layers.TimeDistributed(layers.Dense(WIDTH))(y))
    assert written(model) == [("layer_norm", "")]


@pytest.mark.parametrize("both_ways", [False, True])
def test_cells_are_traced_separately(both_ways):
    @keras.saving.register_keras_serializable("test_control_flow")
    class Cell(Block):
        state_size = WIDTH

        def call(self, x, states):
            return (y := super().call(x + states[0])), [y]

    x = keras.Input((6, WIDTH))
    wrapper = layers.RNN(Cell(), return_sequences=True)
    wrapper = layers.Bidirectional(wrapper) if both_ways else wrapper
    found = find_sites(keras.Model(x, wrapper(x)), ["mlp"])
    assert [site.before for site in found.sites] == ["layer_norm"] * (2 if both_ways else 1)
    assert ["hides the context of" in why for _, _, why in found.opaque] == [True]


def test_a_function_with_a_custom_gradient_is_skipped_with_a_reason():
    @ops.custom_gradient
    def identity(x):
        return x, lambda *args, upstream=None: args[0] if upstream is None else upstream

    x = keras.Input((6, WIDTH), batch_size=2)
    around = Around(lambda block, x: block(identity(x)))
    found = find_sites(keras.Model(x, around(x)), ["mlp"])
    assert [site.before for site in found.sites] == ["layer_norm"]
    assert all(layer is around and why for layer, _, why in found.opaque)


def test_scopes_of_rematerialization():
    with keras.RematScope(mode="full"):
        model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(WIDTH)])
    model.build((2, WIDTH))
    model(np.zeros((2, WIDTH), "float32"))
    assert written(model) == [("other", "")]
