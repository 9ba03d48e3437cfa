"""Layers inside loops, branches and wrappers are traced."""

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


def scan(block, x):
    def step(carry, y):
        carry = block(carry + y)
        return carry, carry

    last, all_steps = ops.scan(step, ops.zeros_like(x[:, 0]), ops.transpose(x, (1, 0, 2)))
    return ops.transpose(all_steps, (1, 0, 2)) + last[:, None]


def scan_of_a_length(block, x):
    return ops.scan(lambda carry, _: (block(carry), None), x, length=3)[0]


def map_over_places(block, x):
    return ops.transpose(ops.map(block, ops.transpose(x, (1, 0, 2))), (1, 0, 2))


def while_loop(block, x):
    return ops.while_loop(lambda n, _: n < 3, lambda n, y: (n + 1, block(y)), (0, x))[1]


BODIES = {
    "scan": scan,
    "scan of a length": scan_of_a_length,
    "map": map_over_places,
    "vectorized_map": lambda block, x: ops.vectorized_map(block, x),
    "associative_scan": lambda block, x: ops.associative_scan(lambda a, b: a + block(b), x, axis=1),
    "while_loop": while_loop,
    "while_loop of one": lambda block, x: ops.while_loop(lambda y: ops.sum(y) > 0, block, x),
    "fori_loop": lambda block, x: ops.fori_loop(0, 3, lambda _, y: block(y), x),
    "cond": lambda block, x: ops.cond(ops.sum(x) > 0, lambda: block(x), lambda: x),
    "cond of a constant": lambda block, x: ops.cond(ops.ones(()) > 0, lambda: x, lambda: block(x)),
    "switch": lambda block, x: ops.switch(ops.cast(x[0, 0, 0], "int32"), [lambda y: y, block], x),
    "remat": lambda block, x: keras.remat(block)(x),
}


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


@pytest.mark.parametrize("name", BODIES)
def test_loop_bodies_are_traced(name):
    x = keras.Input((6, WIDTH), batch_size=2)
    y = Around(BODIES[name])(x)
    # What follows hangs on what the body gives.
    y = layers.Dense(WIDTH)(layers.Dense(16, "relu")(layers.LayerNormalization()(y)))
    assert written(keras.Model(x, y)) == [("layer_norm", "")] * 2


def test_both_branches_are_joined():
    class Branches(Around):
        def __init__(self):
            super().__init__(lambda block, x: x)
            self.other = Block()

        def build(self, shape):
            super().build(shape)
            self.other.build(shape)

        def call(self, x):
            return ops.cond(ops.sum(x) > 0, lambda: self.block(x), lambda: self.other(x))

    x = keras.Input((6, WIDTH), batch_size=2)
    assert written(keras.Model(x, Branches()(x))) == [("layer_norm", "")] * 2


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
