"""Sites that are found, layers that are not sites, and the context of sites."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mimetic
from keras_mimetic._find import find_sites
from keras_mimetic._graph.keras_internals import sublayers
from keras_mimetic._graph.layer_paths import find_layer_paths
from keras_mimetic._graph.recorder import trace
from keras_mimetic._structures import STRUCTURES


def sites_of(model, structure, rules=None):
    return find_sites(model, [structure], rules).sites


def is_self_attention(site):
    """Return whether queries, keys and values are of one stream."""
    return not site.skip_reason and not site.skipped_pairs


def mlps(model):
    """Return (kernel shape, preceding layer) of each MLP that would be written."""
    return [
        (tuple(site.weights["kernel"].shape), site.before)
        for site in sites_of(model, "mlp")
        if not (site.skip_reason or site.default_skip)
    ]


def functional(body, shape=(6, 8)):
    x = keras.Input(shape)
    return keras.Model(x, body(x))


def expand_contract(x, hidden=16, activation="gelu", width=8):
    return layers.Dense(width)(layers.Dense(hidden, activation)(x))


LAYER_NORM = ((8, 16), "layer_norm")
OTHER = ((8, 16), "other")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda x: expand_contract(layers.LayerNormalization()(x)), [LAYER_NORM]),
        (lambda x: expand_contract(layers.LayerNormalization(axis=[-1])(x)), [LAYER_NORM]),
        (lambda x: expand_contract(layers.LayerNormalization(center=False)(x)), [LAYER_NORM]),
        (lambda x: expand_contract(layers.LayerNormalization(axis=[1, 2])(x)), [OTHER]),
        (lambda x: expand_contract(layers.LayerNormalization(axis=1)(x)), [OTHER]),
        (lambda x: expand_contract(layers.BatchNormalization()(x)), [((8, 16), "batch_norm")]),
        (lambda x: expand_contract(layers.GroupNormalization(2)(x)), [OTHER]),
        (lambda x: expand_contract(layers.UnitNormalization()(x)), [OTHER]),
        (lambda x: expand_contract(x), [OTHER]),
        # Dropout hands the zero sum on in inference; an activation does not.
        (
            lambda x: expand_contract(layers.Dropout(0.1)(layers.LayerNormalization()(x))),
            [LAYER_NORM],
        ),
        (lambda x: expand_contract(layers.ReLU()(layers.LayerNormalization()(x))), [OTHER]),
        # A norm, and then the residual stream again.
        (lambda x: expand_contract(x + layers.LayerNormalization()(x)), [OTHER]),
        # Token mixing: the norm is over the channels, the MLP over the tokens.
        (
            lambda x: layers.Dense(6)(
                layers.Dense(16, "gelu")(layers.Permute((2, 1))(layers.LayerNormalization()(x)))
            ),
            [((6, 16), "other")],
        ),
    ],
)
def test_context_of_an_mlp(body, expected):
    assert mlps(functional(body)) == expected


def test_rms_norm_is_not_a_layer_norm():
    if not hasattr(layers, "RMSNormalization"):
        pytest.skip("this version of Keras has none")
    assert mlps(functional(lambda x: expand_contract(layers.RMSNormalization()(x)))) == [OTHER]


@pytest.mark.parametrize(("weight", "value"), [("gamma", 2.0), ("beta", 0.1)])
def test_a_norm_that_is_trained(weight, value):
    model = functional(lambda x: expand_contract(layers.LayerNormalization()(x)))
    variable = getattr(model.layers[1], weight)
    variable.assign(value * np.ones(variable.shape))
    assert mlps(model) == [OTHER]


class ResponseNorm(layers.Layer):
    """The global response normalization of ConvNeXt V2, in operations."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="zeros")
        self.beta = self.add_weight(shape=(shape[-1],), initializer="zeros")

    def call(self, x):
        size = keras.ops.sqrt(keras.ops.sum(x * x, axis=1, keepdims=True) + 1e-6)
        relative = size / (keras.ops.mean(size, axis=-1, keepdims=True) + 1e-6)
        return self.gamma * (x * relative) + self.beta + x


class LayerScale(layers.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.gamma


def between(*middle):
    """Return a function that builds an MLP with these layers between its projections."""

    def body(x):
        y = layers.Dense(16)(layers.LayerNormalization()(x))
        for layer in middle:
            y = layer(y)
        return layers.Dense(8)(y)

    return body


@pytest.mark.parametrize(
    "middle",
    [
        [layers.Activation("gelu")],
        [layers.ReLU()],
        [keras.ops.silu],
        [lambda y: 0.5 * y * (1 + keras.ops.erf(y / 2**0.5))],
        [lambda y: y * keras.ops.sigmoid(y)],
        [layers.Activation("relu"), layers.Dropout(0.1)],
        [layers.Activation("gelu"), layers.LayerNormalization()],
        [layers.Activation("gelu"), ResponseNorm()],
        [layers.Lambda(lambda y: keras.ops.gelu(y))],
    ],
)
def test_between_the_projections(middle):
    assert mlps(functional(between(*middle))) == [LAYER_NORM]


@pytest.mark.parametrize(
    "middle",
    [
        [],
        [layers.Dropout(0.1)],
        [layers.Activation("linear")],
        [layers.Activation("gelu"), layers.Conv1D(16, 3, padding="same")],
        [layers.Activation("gelu"), layers.DepthwiseConv1D(3, padding="same")],
        [layers.Activation("gelu"), layers.GlobalAveragePooling1D()],
        [layers.Softmax()],
        [layers.Activation("gelu"), layers.Permute((2, 1)), layers.Dense(6)],
    ],
)
def test_layers_that_are_not_an_mlp(middle):
    assert mlps(functional(between(*middle))) == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda x: layers.Dense(8)(layers.Dense(8, "gelu")(x)), ""),
        (lambda x: layers.Dense(16)(layers.Dense(16, "gelu")(x)), ""),
        (lambda x: layers.Dense(8)(layers.Dense(4, "gelu")(x)), "narrower than its input"),
        (lambda x: layers.Dense(32)(layers.Dense(16, "gelu")(x)), "wider than its hidden"),
        (between(layers.BatchNormalization(), layers.ReLU()), ""),
        (between(layers.LayerNormalization(), layers.Dropout(0.1), keras.ops.gelu), ""),
        (between(layers.GroupNormalization(4), ops.gelu), "normalization between"),
        (
            between(layers.LayerNormalization(center=False), ops.gelu),
            "normalization between",
        ),
        (
            between(
                layers.DepthwiseConv1D(3, padding="same"), layers.BatchNormalization(), ops.relu
            ),
            "",
        ),
        (
            between(
                layers.BatchNormalization(), layers.DepthwiseConv1D(3, padding="same"), ops.relu
            ),
            "normalization between",
        ),
        (between(layers.DepthwiseConv1D(3, padding="same"), ops.gelu), "depthwise convolution"),
        (
            between(
                layers.Reshape((2, 3, 16)),
                layers.DepthwiseConv2D(3, padding="same"),
                layers.Reshape((6, 16)),
                ops.gelu,
            ),
            "depthwise convolution",
        ),
        (between(layers.Reshape((2, 3, 16)), ops.gelu, layers.Reshape((6, 16))), ""),
    ],
)
def test_mlps_of_other_kinds_are_written_or_have_a_reason(body, why):
    (site,) = sites_of(functional(body), "mlp")
    assert why in site.skip_reason
    assert bool(why) is bool(site.skip_reason)


def test_a_projection_alone_is_not_an_mlp():
    assert sites_of(functional(lambda x: layers.Dense(16, "gelu")(x)), "mlp") == []


def test_a_spatial_gate_is_reported():
    """gMLP: one half of the hidden units is mixed over positions and multiplies the other."""

    def body(x):
        u, v = ops.split(layers.Dense(16, "gelu")(layers.LayerNormalization()(x)), 2, axis=-1)
        v = layers.Permute((2, 1))(layers.LayerNormalization()(v))
        v = layers.Permute((2, 1))(layers.Dense(6)(v))
        return layers.Dense(8)(u * v)

    (site,) = sites_of(functional(body), "mlp")
    assert "gated" in site.skip_reason


class Snake(layers.Layer):
    """An activation with a weight as the left operand."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return x + self.scale * keras.ops.square(keras.ops.sin(x))


def test_activations_with_weights():
    assert mlps(functional(between(Snake()))) == [LAYER_NORM]


@pytest.mark.parametrize(
    ("move", "before"),
    [
        (layers.Reshape((2, 3, 8)), "layer_norm"),
        (lambda y: ops.reshape(y, (-1, 8)), "layer_norm"),
        (lambda y: ops.roll(y, 1, axis=1), "layer_norm"),
        (lambda y: ops.transpose(y, (1, 0, 2)), "layer_norm"),
        (
            lambda y: ops.reshape(
                ops.transpose(ops.reshape(y, (-1, 3, 2, 8)), (0, 2, 1, 3)), (-1, 3, 8)
            ),
            "layer_norm",
        ),
        (lambda y: y[:, 0], "layer_norm"),
        (lambda y: ops.concatenate([y, y], axis=1), "layer_norm"),
        (lambda y: ops.reshape(y, (-1, 3, 16)), "other"),
        (lambda y: y[..., :4], "other"),
        (lambda y: ops.roll(y, 1, axis=2), "layer_norm"),
        (lambda y: ops.concatenate([y, y], axis=2), "other"),
        (lambda y: ops.transpose(y, (0, 2, 1)), "other"),
    ],
)
def test_norms_are_found_through_moved_positions(move, before):
    model = functional(lambda x: expand_contract(move(layers.LayerNormalization()(x)), hidden=32))
    assert [kind for _, kind in mlps(model)] == [before]


def test_hidden_units_that_feed_two_layers_are_not_an_mlp():
    def body(x):
        hidden = layers.Dense(16, "gelu")(x)
        return layers.Dense(8)(hidden) + layers.Dense(8)(hidden)

    assert mlps(functional(body)) == []


def test_a_residual_bottleneck_is_not_an_mlp():
    def body(x):
        y = layers.Conv1D(32, 1)(x)
        y = layers.ReLU()(layers.Add()([y, layers.Conv1D(32, 1)(x)]))
        return layers.Conv1D(8, 1)(y)

    assert mlps(functional(body)) == []


def test_layer_scale_and_residual_after_an_mlp_do_not_matter():
    def body(x):
        return x + LayerScale()(expand_contract(layers.LayerNormalization()(x)))

    assert mlps(functional(body)) == [LAYER_NORM]


def gated(x):
    return layers.Dense(8)(layers.Dense(16, "silu")(x) * layers.Dense(16)(x))


def gated_in_one(x):
    hidden = layers.Dense(32)(x)
    return layers.Dense(8)(keras.ops.silu(hidden[..., :16]) * hidden[..., 16:])


def gated_by_split(x):
    a, b = keras.ops.split(layers.Dense(32)(x), 2, axis=-1)
    return layers.Dense(8)(keras.ops.gelu(a) * b)


def gated_by_split_and_norm(x):
    up, gate = ops.split(layers.Dense(32)(layers.RMSNormalization()(x)), 2, axis=-1)
    return layers.Dense(8)(ops.relu(gate) * up)


@pytest.mark.parametrize(
    ("body", "half"), [(gated_in_one, 0), (gated_by_split, 0), (gated_by_split_and_norm, 1)]
)
def test_numbers_reach_the_gate_of_a_fused_kernel(body, half):
    model = functional(body)
    (layer,) = (x for x in model.layers if getattr(x, "units", 0) == 32)
    kernel, bias = (np.split(x.copy(), 2, axis=-1) for x in layer.get_weights())
    assert not [s for s in sites_of(model, "mlp") if not s.default_skip]
    report = keras_mimetic.initialize(model, {"mlp": {"mean": -1, "hidden_bias": -0.5}}, seed=0)
    assert [row.shape for row in report.written] == [(8, 16), (1, 16)]
    assert all("gate part" in row.note for row in report.written)
    new_kernel, new_bias = (np.split(x, 2, axis=-1) for x in layer.get_weights())
    assert new_kernel[half].mean() < -0.1
    assert new_bias[half].max() < -0.1
    for old, new in ((kernel, new_kernel), (bias, new_bias)):
        np.testing.assert_array_equal(old[1 - half], new[1 - half])
    # What is written is measured, and its control leaves the other half, too.
    (mean,) = keras_mimetic.measure(model, "mlp").select(part="first", figure="mean")
    assert mean.value == pytest.approx(-1, abs=0.1)
    keras_mimetic.initialize(
        model, {"mlp": {"mean": -1, "hidden_bias": -0.5}}, seed=0, control=True
    )
    np.testing.assert_array_equal(
        np.split(layer.get_weights()[0], 2, axis=-1)[1 - half], kernel[1 - half]
    )


@pytest.mark.parametrize(("body", "count"), [(gated, 2), (gated_in_one, 1), (gated_by_split, 1)])
def test_gated_mlps_are_reported(body, count):
    found = sites_of(functional(body), "mlp")
    assert len(found) == count
    assert all("gated" in (site.skip_reason or site.default_skip) for site in found)


def test_numbers_reach_the_gate():
    model = functional(gated)
    with pytest.warns(UserWarning, match="wrote no weight"):
        keras_mimetic.initialize(model, "mlp", seed=0)
    settings = {"mlp": {"mean": -1, "hidden_bias": -0.5}}
    report = keras_mimetic.initialize(model, settings, seed=0)
    gate, bias = report.written
    assert (gate.note[:7], bias.note[:16]) == ("mean -1", "hidden bias -0.5")
    (linear,) = report.skipped
    assert linear.note == "the linear branch of a gated MLP"
    (site,) = (site for site in sites_of(model, "mlp") if site.default_skip)
    assert site.weights["kernel"].path == gate.path
    assert site.layer.activation is keras.activations.silu


@pytest.mark.parametrize("activation", ["sigmoid", "hard_sigmoid", "softmax", None])
def test_an_mlp_may_end_with_the_activation_of_a_classifier(activation):
    model = functional(lambda x: layers.Dense(1, activation)(layers.Dense(64, "relu")(x)), (20,))
    assert mlps(model) == [((20, 64), "other")]


def test_factors_of_channels_are_not_an_mlp():
    def squeeze_and_excite(x):
        y = layers.GlobalAveragePooling1D()(x)
        y = layers.Dense(8, "sigmoid")(layers.Dense(16, "relu")(y))
        return x * layers.Reshape((1, 8))(y)

    assert mlps(functional(squeeze_and_excite)) == []


def test_squeeze_and_excitation_is_not_a_gated_mlp():
    def body(x):
        squeezed = layers.Dense(4, "relu")(layers.GlobalAveragePooling1D(keepdims=True)(x))
        return layers.Dense(4)(x * layers.Dense(8, "sigmoid")(squeezed))

    assert sites_of(functional(body), "mlp") == []


@pytest.mark.parametrize("norm", [True, False])
def test_one_by_one_convolutions(norm):
    def body(x):
        y = layers.LayerNormalization()(x) if norm else x
        return x + layers.Conv2D(8, 1)(layers.Conv2D(16, 1, activation="gelu")(y))

    expected = [((1, 1, 8, 16), "layer_norm" if norm else "other")]
    assert mlps(functional(body, (4, 4, 8))) == expected


def test_one_by_one_convolutions_of_two_blocks():
    def convolve(x, filters, size):
        x = layers.Conv2D(filters, size, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    def neck(x):
        merged = layers.Add()([convolve(convolve(x, 8, 1), 8, 3), convolve(x, 8, 1)])
        lateral = layers.UpSampling2D()(convolve(convolve(merged, 16, 1), 16, 1))
        return convolve(lateral, 8, 3)

    assert not mlps(functional(neck, (4, 4, 8)))
    (site,) = sites_of(functional(neck, (4, 4, 8)), "mlp")
    assert "two blocks" in site.skip_reason


def test_a_weight_has_one_structure():
    def body(x):
        q, k, v = (layers.Dense(16)(x) for _ in range(3))
        mixed = ops.matmul(ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2))), v)
        h = layers.Dense(16, name="both")(mixed)
        return x + layers.Dense(16)(ops.gelu(h))

    report = keras_mimetic.initialize(functional(body, (6, 16)), seed=0)
    structures = {row.structure: row.written for row in report.rows if row.path == "both/kernel"}
    assert structures == {"attention": True, "mlp": False}
    (row,) = (row for row in report.skipped if row.structure == "mlp")
    assert row.note == "its weight has the structure 'attention'"


def test_a_network_of_coordinates_is_not_reached():
    class Places(layers.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(16, "relu"), layers.Dense(8)

        def call(self, x):
            return x + self.second(self.first(ops.ones((6, 2))))

    (site,) = sites_of(functional(lambda x: Places()(x)), "mlp")
    assert site.skip_reason == "no input of the model reaches it"


def gelu_in_operations(x):
    return x * 0.5 * (1 + ops.tanh(0.8 * (x + 0.04 * ops.power(x, 3))))


@pytest.mark.parametrize(
    ("activate", "written"),
    [
        (layers.Activation("tanh"), False),
        (ops.tanh, False),
        (ops.softsign, False),
        (layers.Activation("gelu"), True),
        (gelu_in_operations, True),
        (lambda x: 0.5 * x * (1 + ops.erf(x / 2**0.5)), True),
    ],
)
def test_activations_without_a_flat_side(activate, written):
    model = functional(lambda x: layers.Dense(8)(activate(layers.Dense(16)(x))))
    (site,) = sites_of(model, "mlp")
    assert bool(site.default_skip) is not written


def test_the_head_of_a_classifier():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, activation="relu")(x))
    for name in ("first", "second"):
        x = layers.Dense(32, "relu", name=name)(x)
    model = keras.Model(inputs, layers.Dense(10, "softmax")(x))
    with pytest.warns(UserWarning, match="wrote no weight"):
        report = keras_mimetic.initialize(model, seed=0)
    assert [row.note[:6] for row in report.rows] == ["a head", "a head"]
    report = keras_mimetic.initialize(model, {"mlp": {"mean": -1}}, seed=0)
    assert [row.path for row in report.written] == ["first/kernel", "second/kernel"]
    # A model that is nothing but MLPs has no head.
    assert len(mlps(functional(lambda x: layers.Dense(3)(expand_contract(x))))) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"kernel_size": 3}, {"kernel_size": 1, "strides": 2}, {"kernel_size": 1, "groups": 2}],
)
def test_other_convolutions_are_not_projections(arguments):
    def body(x):
        return layers.Conv2D(8, 1)(layers.Conv2D(16, activation="gelu", **arguments)(x))

    assert mlps(functional(body, (4, 4, 8))) == []


def test_einsum_dense():
    def body(x):
        y = layers.EinsumDense("abc,cd->abd", (None, 16), activation="gelu")(x)
        return layers.EinsumDense("...x,xy->...y", (8,))(y)

    assert mlps(functional(body)) == [OTHER]


def test_an_inverted_residual_is_a_depthwise_convolution_and_not_an_mlp():
    def body(x):
        y = layers.Conv2D(32, 1, activation="relu6")(x)
        y = layers.ReLU()(layers.DepthwiseConv2D(3, padding="same")(y))
        return layers.Conv2D(8, 1)(y)

    model = functional(body, (4, 4, 8))
    assert mlps(model) == []
    assert len(sites_of(model, "depthwise")) == 1


class Block(layers.Layer):
    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.norm1 = layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.norm2 = layers.LayerNormalization()
        self.up = layers.Dense(4 * width)
        self.down = layers.Dense(width)

    def call(self, x, training=False):
        y = self.norm1(x)
        x = x + self.attention(y, y, training=training)
        return x + self.down(keras.ops.gelu(self.up(self.norm2(x))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.zoom = layers.Dense(8)
        self.blocks = [Block(), Block()]
        self.head = layers.Dense(3)

    def call(self, inputs, training=False):
        x = self.zoom(inputs)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(keras.ops.mean(x, axis=1))


def nested():
    inner = keras.Sequential([keras.Input((6, 8)), Block(), Block()])
    x = keras.Input((6, 5))
    outer = keras.Model(x, layers.Dense(3)(inner(layers.Dense(8)(x))))
    return outer


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 6, 5), "float32"))
    return model


def built_by_shape():
    model = keras.Sequential([layers.Dense(8), Block(), Block(), layers.Dense(3)])
    model.build((None, 6, 5))
    return model


@pytest.mark.parametrize("make", [nested, subclassed, built_by_shape])
def test_nested_and_subclassed_models(make):
    model = make()
    assert mlps(model) == [((8, 32), "layer_norm")] * 2
    attention = sites_of(model, "attention")
    assert [is_self_attention(site) for site in attention] == [True, True]
    assert not any(site.skip_reason for site in attention)


@pytest.mark.parametrize("make", [nested, subclassed, built_by_shape])
def test_tracing_does_not_change_the_model(make):
    model = make()
    before = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in sublayers(model)]
    weights = model.get_weights()
    graph = trace(model)
    assert graph.calls
    assert not graph.opaque
    assert before == [
        (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in sublayers(model)
    ]
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    if make is nested:
        assert model.layers[-1].output.shape == (None, 6, 3)


def test_tracing_does_not_change_the_state_of_a_layer():
    class Counter(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.count.assign(self.count + 1)
            self.add_loss(keras.ops.sum(x))
            return x

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.counter = Counter()
            self.mlp = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(8)])

        def call(self, x):
            return self.mlp(self.counter(x))

    model = Model()
    model(np.zeros((2, 8), "float32"))
    assert len(mlps(model)) == 1
    assert float(keras.ops.convert_to_numpy(model.counter.count)) == 1
    losses = model.losses
    assert len(losses) == 1
    assert not isinstance(losses[0], keras.KerasTensor)


def test_layer_paths_equal_those_of_weight_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    for make in (nested, subclassed, built_by_shape):
        model = make()
        model.save_weights(tmp_path / "a.weights.h5")
        with h5py.File(tmp_path / "a.weights.h5") as file:
            files = []
            file.visit(files.append)
        # Attributes after "layers" in the alphabet stand under it in files; inputs
        # of sequential models are in no container.
        found = {
            p for p in find_layer_paths(model).values() if p and p[0] != "?" and "zoom" not in p
        }
        assert found <= set(files), found - set(files)


def test_layer_paths_do_not_depend_on_names_or_neighbors():
    class Model(keras.Model):
        def __init__(self, head):
            super().__init__()
            self.encoder = Block()
            self.head = head
            self.tail = layers.Dense(8)

        def call(self, x):
            return self.tail(self.head(self.encoder(x)))

    found = []
    for head in (layers.Dense(8), layers.Conv1D(8, 1)):
        model = Model(head)
        model(np.zeros((1, 6, 8), "float32"))
        found.append(find_layer_paths(model))
        assert found[-1][model.tail] == "tail"
        assert found[-1][model.encoder.up] == "encoder/up"
    first, second = (sorted(set(paths.values()) - {""}) for paths in found)
    assert first == second


def test_a_shared_layer_counts_once():
    norm, up, down = layers.LayerNormalization(), layers.Dense(16, "gelu"), layers.Dense(8)
    model = functional(lambda x: down(up(norm(down(up(norm(x)))))))
    assert mlps(model) == [LAYER_NORM]
    # In several contexts, the weaker one counts.
    norm, up, down = layers.LayerNormalization(), layers.Dense(16, "gelu"), layers.Dense(8)
    model = functional(lambda x: down(up(down(up(norm(x))))))
    assert mlps(model) == [OTHER]


def test_attention_and_its_inputs():
    x, y = keras.Input((6, 8)), keras.Input((4, 8))
    own = layers.MultiHeadAttention(2, 4)
    cross = layers.MultiHeadAttention(2, 4)
    shifted = layers.MultiHeadAttention(2, 4)
    both = layers.MultiHeadAttention(2, 4)
    z = own(x, x) + cross(x, y) + shifted(x, x, key=x + 1.0)
    z = both(query=z, value=z)
    z = both(z, y)
    # A position added to the keys leaves them of one stream with the queries.
    model = keras.Model([x, y], z)
    found = {id(s.layer): is_self_attention(s) for s in sites_of(model, "attention")}
    expected = [(own, True), (cross, False), (shifted, True), (both, False)]
    assert found == {id(layer): value for layer, value in expected}


def test_grouped_query_attention_is_reported():
    grouped = layers.GroupQueryAttention(4, 4, 2)
    model = functional(lambda x: grouped(x, x))
    (site,) = sites_of(model, "attention")
    assert site.layer is grouped
    assert not site.skip_reason
    assert "grouped-query" in site.default_skip


def test_depthwise_convolutions_in_the_order_of_the_network():
    def body(x):
        late = layers.DepthwiseConv2D(3, padding="same", name="late")
        y = layers.DepthwiseConv2D(5, padding="same", name="early")(x)
        y = layers.Conv2D(8, 3, groups=8, padding="same", name="grouped")(y)
        y = layers.Conv2D(8, 3, groups=4, padding="same", name="wider")(y)
        y = layers.SeparableConv2D(8, 3, padding="same", name="separable")(y)
        return late(y)

    found = sites_of(functional(body, (4, 4, 8)), "depthwise")
    names = [site.layer.name for site in found]
    assert names == ["early", "grouped", "separable", "late"]
    np.testing.assert_allclose([site.depth for site in found], [0, 1 / 3, 2 / 3, 1])
    assert tuple(found[2].weights["kernel"].shape) == (3, 3, 8, 1)


def test_one_pixel_has_no_structure():
    found = sites_of(functional(lambda x: layers.DepthwiseConv1D(1)(x)), "depthwise")
    assert ["one pixel" in site.skip_reason for site in found] == [True]
    assert found[0].depth == 0


class Branching(layers.Layer):
    """A layer whose control flow depends on values, so it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.block = Block()
        self.depthwise = layers.DepthwiseConv1D(3, padding="same")

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def build(self, shape):
        self.block(np.zeros((1, *shape[1:]), "float32"))
        self.depthwise.build(shape)

    def call(self, x):
        if float(np.asarray(keras.ops.convert_to_numpy(keras.ops.sum(x)))) > 0:
            return self.block(x)
        return self.depthwise(x)


def opaque_model():
    return functional(lambda x: layers.Dense(3)(Branching()(x)))


class LooksAtValues(layers.Layer):
    """A norm and a projection in a layer that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.project, self.norm = layers.Dense(16), layers.LayerNormalization()

    def build(self, shape):
        self.project.build(shape)
        self.norm.build(shape)

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return self.norm(self.project(x)) * float(keras.ops.convert_to_numpy(x).any())


def test_an_mlp_after_a_norm_in_an_opaque_layer():
    found = find_sites(functional(lambda x: expand_contract(LooksAtValues()(x))), ["mlp"])
    (site,) = found.sites
    assert (site.before, site.skip_reason) == ("other", "")
    assert len(found.opaque) == 1


def test_the_warning_names_three_layers_that_could_not_be_traced():
    x = inputs = keras.Input((6, 16))
    for _ in range(5):
        x = LooksAtValues()(x)
    three = ", ".join([r"looks_at_values\w*"] * 3)
    with pytest.warns(UserWarning, match=f": none were found, and {three} and 2 more could not"):
        keras_mimetic.initialize(keras.Model(inputs, x), "mlp", seed=0)


def test_unexpected_errors_are_a_row(monkeypatch):
    def fails(self, graph, layers, layer_paths):
        raise StopIteration

    model = functional(expand_contract)
    monkeypatch.setattr(STRUCTURES["attention"].__class__, "find", fails)
    report = keras_mimetic.initialize(model, seed=0)
    assert {row.structure for row in report.written} == {"mlp"}
    (row,) = report.skipped
    assert row.note == "could not be traced: StopIteration (in the search for 'attention')"
    monkeypatch.setattr("keras_mimetic._find.trace", fails)
    with pytest.warns(UserWarning, match="could not be traced"):
        report = keras_mimetic.initialize(model, seed=0)
    assert report.rows[0].note.startswith("could not be traced: TypeError")


def test_opaque_layers_are_reported_and_rules_reach_them():
    model = opaque_model()
    found = find_sites(model, ["mlp", "attention", "depthwise"])
    assert [type(layer).__name__ for layer, _, _ in found.opaque] == ["Branching"]
    by_structure = {site.structure: site for site in found.sites}
    # Its layers are traced one by one.
    assert set(by_structure) == {"mlp", "attention", "depthwise"}
    assert not any(site.skip_reason for site in found.sites)
    assert by_structure["mlp"].before == "layer_norm"
    assert is_self_attention(by_structure["attention"])

    up = model.layers[1].block.up.kernel.path
    (skipped,) = find_sites(model, ["mlp"], {up: None}).sites
    assert skipped.by_rule


def test_rules_reach_layers_without_a_traced_call():
    class Alone(layers.Layer):
        def __init__(self):
            super().__init__()
            self.up, self.attention = layers.Dense(16), layers.MultiHeadAttention(2, 4)

        def build(self, shape):
            self.up.build(shape)
            self.attention.build(shape, shape)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def call(self, x):
            raise RuntimeError("only in a graph")

    model = functional(lambda x: Alone()(x))
    found = find_sites(model, ["mlp", "attention"])
    assert [why for _, _, why in found.opaque] == ["RuntimeError: only in a graph"]
    (site,) = found.sites
    assert "rules" in site.skip_reason
    up = model.layers[1].up.kernel.path
    sites = find_sites(model, ["mlp", "attention"], {up: "mlp", "attention": "attention"}).sites
    by_structure = {site.structure: site for site in sites}
    assert not any(site.skip_reason for site in sites)
    mlp = by_structure["mlp"]
    assert (mlp.before, mlp.norm, mlp.second) == ("other", None, None)
    assert is_self_attention(by_structure["attention"])


def test_rules_override_the_finder():
    model = functional(
        lambda x: layers.Dense(8, name="second")(
            layers.Dense(8, name="first")(expand_contract(layers.LayerNormalization()(x)))
        )
    )
    named = sites_of(model, "mlp", {"first/kernel": "mlp"})
    assert [site.before for site in named] == ["layer_norm", "other"]
    up = named[0].weights["kernel"].path
    (skipped,) = sites_of(model, "mlp", {up: None})
    assert skipped.skip_reason == f"by the rule {up!r}"


@pytest.mark.parametrize(
    ("rules", "error", "match"),
    [
        ("dense", TypeError, "`rules` must be a dict"),
        ({"first": "mlps"}, ValueError, "must give each weight one of 'mlp'.*'mlps' for 'first'"),
        ({"(": "mlp"}, ValueError, r"regular expressions as keys. Received: '\('"),
        ({3: "mlp"}, ValueError, "Received: 3"),
        ({"nothing": "mlp"}, ValueError, "'nothing' matches no weight's path. .*model.weights"),
        ({"first": "attention"}, ValueError, "layer 'first' .a Dense., to which"),
        ({"first": "mlp", "first/kernel": None}, ValueError, "both match layer 'first'"),
    ],
)
def test_bad_rules(rules, error, match):
    model = functional(lambda x: layers.Dense(16, name="first")(x))
    with pytest.raises(error, match=match):
        find_sites(model, ["mlp", "attention"], rules)


class Pair(keras.Model):
    """A model with an optional second input."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 4)

    def call(self, x, memory=None, attention_mask=None):
        return self.attention(x, x if memory is None else memory)


class Both(keras.Model):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 4)
        self.up, self.down = layers.Dense(16, "relu"), layers.Dense(8)

    def call(self, x, memory):
        return self.down(self.up(self.attention(x, memory)))


def test_a_second_input_must_be_given():
    x, memory = np.zeros((2, 5, 8), "float32"), np.zeros((2, 4, 8), "float32")
    model = Both()
    model(x, memory)
    found = find_sites(model, ["attention"])
    assert all(site.skip_reason for site in found.sites)
    assert "argument 'memory' is unknown: pass `inputs`" in found.opaque[0][2]
    (site,) = find_sites(model, ["attention"], inputs=(x, memory)).sites
    assert (site.skip_reason, is_self_attention(site)) == ("cross-attention", False)
    # Only shapes and dtypes count.
    symbols = tuple(keras.KerasTensor(a.shape) for a in (x, memory))
    (site,) = find_sites(model, ["attention"], inputs=symbols).sites
    assert site.skip_reason == "cross-attention"


def test_an_optional_input_gets_its_default():
    x, memory = np.zeros((2, 5, 8), "float32"), np.zeros((2, 4, 8), "float32")
    model = Pair()
    model(x)
    found = find_sites(model, ["attention"])
    assert is_self_attention(found.sites[0])
    assert found.notes == (
        "pair was followed with the default of its argument 'memory': pass `inputs` if it gets "
        "another",
    )
    found = find_sites(model, ["attention"], inputs=(x, memory))
    assert not is_self_attention(found.sites[0])
    assert not found.notes


def test_missing_inputs():
    x = np.zeros((2, 5, 8), "float32")
    model = Pair()
    model(x)
    (site,) = find_sites(model, ["attention"], inputs=x).sites
    assert is_self_attention(site)


def test_a_model_that_requires_training():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.mlp = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(8)])

        def call(self, x, training):
            return self.mlp(x, training=training)

    model = Model()
    model(np.zeros((2, 8), "float32"), training=False)
    assert mlps(model) == [OTHER]


def test_a_single_layer():
    x = np.zeros((2, 5, 8), "float32")
    attention = layers.MultiHeadAttention(2, 4)
    attention(x, x)
    (site,) = sites_of(attention, "attention")
    assert "rules" in site.skip_reason
    (site,) = sites_of(attention, "attention", {".*": "attention"})
    assert (site.skip_reason, is_self_attention(site)) == ("", True)
    dense = layers.Dense(3)
    dense(x)
    assert sites_of(dense, "mlp") == []


def test_layers_in_a_list_that_is_called_layers():
    class Encoder(layers.Layer):
        def __init__(self):
            super().__init__()
            self.layers = [layers.MultiHeadAttention(2, 4) for _ in range(2)]

        def call(self, x):
            for layer in self.layers:
                x = x + layer(x, x)
            return x

    for _ in range(2):
        model = functional(lambda x: Encoder()(x))
        assert [site.layer_path for site in sites_of(model, "attention")] == [
            "layers/encoder/layers/multi_head_attention",
            "layers/encoder/layers/multi_head_attention_1",
        ]


def test_tracing_builds_nothing():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.up, self.down = layers.Dense(16, "relu"), layers.Dense(8)

        def build(self, shape):
            self.up.build(shape)

        def call(self, x):
            return self.down(self.up(x))

    model = Model()
    model.build((None, 8))
    found = find_sites(model, ["mlp"])
    assert len(model.weights) == 2
    assert not model.down.built
    assert "is not built" in found.opaque[0][2]
    # And it can be built as before.
    assert model(np.zeros((2, 8), "float32")).shape == (2, 8)
    assert mlps(model) == [OTHER]


def test_attributes_that_call_sets_are_restored():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.up, self.down = layers.Dense(16, "relu"), layers.Dense(8)
            self.calls = 0

        def call(self, x):
            self.calls += 1
            self.last = self.up(x)
            return self.down(self.last)

    model = Model()
    model(np.zeros((2, 8), "float32"))
    before = model.calls
    assert mlps(model) == [OTHER]
    assert model.calls == before
    assert not isinstance(model.last, keras.KerasTensor)


@pytest.mark.parametrize(
    ("middle", "gated"),
    [
        (layers.Activation("glu"), True),
        (lambda y: keras.ops.glu(y), True),
        (layers.Activation("softmax"), None),
        (layers.Activation("log_softmax"), None),
    ],
)
def test_activations_that_are_not_pointwise(middle, gated):
    model = functional(lambda x: layers.Dense(4)(middle(layers.Dense(16)(x))))
    found = sites_of(model, "mlp")
    assert [bool(site.default_skip) for site in found] == ([True] if gated else [])


@pytest.mark.parametrize("activation", ["softmax", "glu"])
def test_own_activations_that_are_not_pointwise(activation):
    model = functional(lambda x: expand_contract(x, hidden=32, activation=activation, width=4))
    assert mlps(model) == []


@pytest.mark.parametrize(
    "reduce",
    [
        lambda y: keras.ops.mean(y, axis=1),
        lambda y: keras.ops.max(y, axis=1),
        lambda y: keras.ops.mean(y, axis=1, keepdims=True),
    ],
)
def test_pooling_in_operations_is_not_a_normalization(reduce):
    assert mlps(functional(between(layers.Activation("relu"), reduce))) == []


def test_hidden_units_that_are_outputs_are_not_an_mlp():
    x = keras.Input((6, 8))
    hidden = layers.Dense(16, "relu")(x)
    assert mlps(keras.Model(x, [hidden, layers.Dense(8)(hidden)])) == []


def test_a_functional_model_with_named_inputs():
    a, b = keras.Input((8,), name="b"), keras.Input((8,), name="a")
    inner = keras.Model([a, b], [expand_contract(a), b + 0.0])

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.inner = layers.LayerNormalization(), inner

        def call(self, x):
            u, v = self.inner({"a": self.norm(x), "b": x})
            return u + v

    model = Model()
    model(np.zeros((2, 8), "float32"))
    # The MLP hangs on "b", which has no norm.
    assert mlps(model) == [OTHER]


def test_wrappers_are_reported():
    wrapped = layers.SpectralNormalization(layers.Dense(16))
    model = functional(lambda x: layers.Dense(4)(wrapped(x)))
    assert ["hides the context of" in why for _, _, why in find_sites(model, ["mlp"]).opaque] == [
        True
    ]


def test_recurrent_layers_are_not_reported():
    model = functional(lambda x: layers.Bidirectional(layers.LSTM(4))(x))
    assert find_sites(model, ["mlp"]).opaque == []


def test_self_attention_through_an_identity():
    x = keras.Input((6, 8))
    y = layers.Identity()(x)
    model = keras.Model(x, layers.MultiHeadAttention(2, 4)(x, layers.Dropout(0.1)(y)))
    (site,) = sites_of(model, "attention")
    assert is_self_attention(site)


def test_a_rule_for_another_structure_skips_the_site():
    model = functional(lambda x: layers.MultiHeadAttention(2, 4, name="own")(x, x))
    (site,) = sites_of(model, "attention", {"own/": None})
    assert site.skip_reason == "by the rule 'own/'"
    with pytest.raises(ValueError, match="cannot be given"):
        sites_of(model, "mlp", {"own/": "mlp"})
    dense = functional(lambda x: expand_contract(x))
    (site,) = sites_of(dense, "mlp")
    path = site.weights["kernel"].path
    with pytest.raises(ValueError, match="cannot be given"):
        sites_of(dense, "mlp", {path: "depthwise"})
    with pytest.raises(ValueError, match="must give each weight"):
        sites_of(dense, "mlp", {path: ["mlp"]})


def test_layers_that_also_return_none():
    class Attention(layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = layers.MultiHeadAttention(2, 4)

        def call(self, x, scores=False):
            y = self.attention(x, x)
            return (y, y) if scores else (y, None)

    class Encoder(layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = Attention()
            self.up, self.down = layers.Dense(16, "relu"), layers.Dense(8)

        def call(self, x):
            y, scores = self.attention(x)
            return y + self.down(self.up(y)), scores

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = Encoder()

        def call(self, x):
            return self.encoder(x)[0]

    model = Model()
    model(np.zeros((2, 6, 8), "float32"))
    assert mlps(model) == [OTHER]
    (site,) = sites_of(model, "attention")
    assert (site.skip_reason, is_self_attention(site)) == ("", True)


def depthwise(size=3, **arguments):
    return layers.DepthwiseConv1D(size, **{"padding": "same", **arguments})


def depths(body, shape=(16, 8)):
    return [site.depth for site in sites_of(functional(body, shape), "depthwise")]


def test_parallel_branches_have_equal_depth():
    def tower(x):
        for _ in range(3):
            x = depthwise()(x)
        return x

    found = depths(lambda x: tower(x) + tower(x))
    np.testing.assert_allclose(sorted(found), [0, 0, 0.5, 0.5, 1, 1])
    # The longest path counts.
    np.testing.assert_allclose(depths(lambda x: depthwise()(x + tower(x))), [0, 1 / 3, 2 / 3, 1])


class Hidden(layers.Layer):
    """A layer that fails when traced, but declares its output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = depthwise(), depthwise()

    def build(self, shape):
        self.first.build(shape)
        self.second.build(shape)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x):
        return float(self.second(self.first(x)))


def test_a_layer_that_fails_keeps_its_position_in_the_network():
    found = depths(lambda x: depthwise()(depthwise()(Hidden()(x))))
    np.testing.assert_allclose(found, [0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(
    ("body", "causal"),
    [
        (lambda x: layers.Conv1D(8, 3, groups=8, padding="causal")(x), True),
        (lambda x: depthwise(4, padding="valid")(layers.ZeroPadding1D((3, 0))(x)), True),
        (lambda x: depthwise(4, padding="valid")(ops.pad(x, ((0, 0), (3, 0), (0, 0)))), True),
        (lambda x: depthwise(4, padding="valid")(ops.concatenate([x[:, :3] * 0, x], 1)), True),
        (lambda x: depthwise(3, padding="valid")(layers.ZeroPadding1D((1, 1))(x)), False),
        (lambda x: depthwise(3, padding="valid")(x), False),
        (lambda x: depthwise(3)(x), False),
    ],
)
def test_causal_filters_are_skipped(body, causal):
    (site,) = sites_of(functional(body, (16, 8)), "depthwise")
    assert ("causal" in site.skip_reason) is causal


class OwnWeights(layers.Layer):
    """An MLP of weights of the layer, with a bias in each place of `biases`."""

    def __init__(self, *biases):
        super().__init__()
        self.biases = biases

    def build(self, shape):
        self.up, self.down = self.add_weight((8, 16)), self.add_weight((16, 8))
        self.bias = [self.add_weight((16,), "zeros") for _ in range(2)]

    def call(self, x):
        for number in self.biases:
            y = x @ self.up
            y = y if number is None else ops.add(self.bias[number], y)
            x = x + ops.relu(y) @ self.down
        return x


@pytest.mark.parametrize(
    ("biases", "expected"),
    [((0,), 0), ((None,), None), ((1, 1), 1), ((0, 1), None), ((0, None), None)],
)
def test_the_bias_of_a_projection_that_is_a_weight(biases, expected):
    layer = OwnWeights(*biases)
    model = functional(layer)
    (site,) = sites_of(model, "mlp")
    assert site.bias is (None if expected is None else layer.bias[expected])
    keras_mimetic.initialize(model, {"mlp": {"hidden_bias": -0.5}}, seed=0)
    changed = [bool(np.any(keras.ops.convert_to_numpy(bias))) for bias in layer.bias]
    assert changed == [expected == 0, expected == 1]
