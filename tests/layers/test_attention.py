import keras
import numpy as np
import pytest
from arrays import array
from keras_checks import run_class_serialization_test, run_layer_test, traced

from keras_mimetic._numerics.attention import query_key, value_output
from keras_mimetic.initializers.attention import AttentionProjection
from keras_mimetic.layers import MimeticMultiHeadAttention

ROLES = ("query", "key", "value", "output")


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def kernels(layer):
    return {role: array(getattr(layer, f"{role}_dense").kernel) for role in ROLES}


def products(layer):
    """Return the mean diagonals of W_Q W_K^T (by head) and of W_V W_O."""
    k = kernels(layer)
    by_head = [
        np.trace(k["query"][:, h] @ k["key"][:, h].T) / len(k["query"])
        for h in range(k["query"].shape[1])
    ]
    width = len(k["value"])
    whole = k["value"].reshape(width, -1) @ k["output"].reshape(-1, k["output"].shape[-1])
    return np.array(by_head), np.trace(whole) / width


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("arguments", "weights", "generators"),
    [
        ({}, 8, 0),
        ({"use_bias": False, "query_key": (1.0, 0.5)}, 4, 0),
        ({"dropout": 0.2, "value_output": None, "output_shape": 6}, 8, 1),
    ],
)
def test_keras_layer_test(arguments, weights, generators):
    run_layer_test(
        MimeticMultiHeadAttention,
        {"num_heads": 2, "key_dim": 4, "seed": 1, **arguments},
        input_shape={"query_shape": (2, 5, 8), "value_shape": (2, 5, 8)},
        expected_output_shape=(2, 5, arguments.get("output_shape", 8)),
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=generators,
        expected_num_losses=0,
        supports_masking=True,
        run_training_check=False,
    )


def test_a_causal_layer_has_only_the_value_output_pair():
    plain = MimeticMultiHeadAttention(2, 16, query_key=None, seed=0)
    causal = MimeticMultiHeadAttention(2, 16, causal=True, seed=0)
    copy = MimeticMultiHeadAttention.from_config(causal.get_config())
    told = MimeticMultiHeadAttention(2, 16, causal=True, query_key=(0.7, 0.7), seed=0)
    both = MimeticMultiHeadAttention(2, 16, seed=0)
    for layer in (plain, causal, copy, told, both):
        layer.build((None, 5, 32), (None, 5, 32))
    for one, other in ((causal, plain), (copy, plain), (told, both)):
        for a, b in zip(one.weights, other.weights, strict=True):
            np.testing.assert_array_equal(array(a), array(b))
    assert (array(causal.query_dense.kernel) != array(both.query_dense.kernel)).any()


@pytest.mark.parametrize("arguments", [{}, {"query_key": None, "kernel_initializer": "he_normal"}])
def test_serialization(arguments):
    run_class_serialization_test(MimeticMultiHeadAttention(2, 4, seed=3, **arguments))


def test_weights_equal_those_of_the_structure():
    layer = MimeticMultiHeadAttention(4, 16, seed=0)
    layer.build((None, 10, 64), (None, 10, 64))
    by_head, whole = products(layer)
    # Of rank 16 in 64 dimensions: the largest quarter of 0.7 Z + 0.7 I.
    assert (by_head > 0.25).all()
    assert whole == pytest.approx(-0.4, abs=0.05)
    biases = [v for v in layer.trainable_variables if "bias" in v.path]
    assert len(biases) == 4
    assert all((array(bias) == 0).all() for bias in biases)


def test_equal_seeds_and_the_structure_functions():
    first, second, other = (MimeticMultiHeadAttention(2, 8, seed=s) for s in (3, 3, 4))
    for layer in (first, second, other):
        layer.build((None, 5, 16), (None, 5, 16))
    for role in ROLES:
        np.testing.assert_array_equal(kernels(first)[role], kernels(second)[role])
        assert (kernels(first)[role] != kernels(other)[role]).any()
    seed_query, seed_value = first._seeds["query"], first._seeds["value"]
    pair = query_key(16, 16, 2, 8, noise=0.7, identity=0.7, seed=seed_query)
    np.testing.assert_array_equal(pair[0], kernels(first)["query"])
    np.testing.assert_array_equal(pair[1], kernels(first)["key"])
    pair = value_output(16, 16, 2, 8, noise=0.4, identity=-0.4, seed=seed_value)
    np.testing.assert_array_equal(pair[1], kernels(first)["output"])


def test_layers_of_one_seed_share_no_memory():
    # One pair, which is the last that was sampled.
    arguments = {"query_key": None, "seed": 0}
    first, second = (MimeticMultiHeadAttention(2, 4, **arguments) for _ in range(2))
    first.build((None, 5, 8), (None, 5, 8))
    start = {role: kernel.copy() for role, kernel in kernels(first).items()}
    for role in ROLES:
        kernel = getattr(first, f"{role}_dense").kernel
        kernel.assign(np.zeros(kernel.shape, "float32"))
    second.build((None, 5, 8), (None, 5, 8))
    for role, kernel in kernels(second).items():
        np.testing.assert_array_equal(kernel, start[role])


def test_unseeded_layers_differ_and_follow_the_global_seed():
    def query():
        layer = MimeticMultiHeadAttention(2, 4)
        layer.build((None, 5, 8), (None, 5, 8))
        return kernels(layer)["query"]

    keras.utils.set_random_seed(1)
    first, second = query(), query()
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(first, query())
    assert (first != second).any()


def test_equals_keras_layer_with_other_weights():
    ours = MimeticMultiHeadAttention(2, 4, seed=0)
    plain = keras.layers.MultiHeadAttention(2, 4)
    x, y = data(2, 5, 8), data(2, 6, 8, seed=1)
    mask = np.tril(np.ones((1, 5, 6), bool))
    ours(x, y), plain(x, y)
    assert [w.path.split("/", 1)[1] for w in ours.weights] == [
        w.path.split("/", 1)[1] for w in plain.weights
    ]
    plain.set_weights(ours.get_weights())
    for arguments in (
        {},
        {"attention_mask": mask},
        {"key": data(2, 6, 8, seed=2)},
        {"use_causal_mask": True},
    ):
        np.testing.assert_allclose(
            array(ours(x, y, **arguments)), array(plain(x, y, **arguments)), atol=1e-6
        )
    scores = ours(x, y, return_attention_scores=True)[1]
    assert scores.shape == (2, 2, 5, 6)


def test_weight_files_are_compatible_with_keras_layer(tmp_path):
    class Model(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.attention = layer

        def call(self, x):
            return self.attention(x, x)

    x = data(2, 5, 8)
    ours = Model(MimeticMultiHeadAttention(2, 4, seed=0))
    plain = Model(keras.layers.MultiHeadAttention(2, 4))
    ours(x), plain(x)
    for source, target in ((ours, plain), (plain, ours)):
        source.attention.query_dense.kernel.assign(data(8, 2, 4, seed=9))
        source.save_weights(tmp_path / "a.weights.h5")
        target.load_weights(tmp_path / "a.weights.h5")
        np.testing.assert_allclose(array(source(x)), array(target(x)), atol=1e-6)
        source.attention.key_dense.kernel.assign(data(8, 2, 4, seed=8))


def test_cross_attention_gets_no_identity():
    x, y = data(2, 5, 32), data(2, 7, 32, seed=1)
    own, cross, key = (MimeticMultiHeadAttention(2, 16, seed=0) for _ in range(3))
    own(x, x)
    cross(x, y)
    key(x, x, key=data(2, 5, 32, seed=2))
    assert (products(own)[0] > 0.3).all()
    for layer in (cross, key):
        assert np.abs(products(layer)[0]).max() < 0.2
        assert abs(products(layer)[1]) < 0.15
    # A keyword counts as the position does.
    by_name = MimeticMultiHeadAttention(2, 16, seed=0)
    by_name(query=x, value=x)
    assert (products(by_name)[0] > 0.3).all()


@pytest.mark.parametrize(
    ("query_dim", "value_dim", "arguments", "shape"),
    [
        (16, 12, {}, (2, 5, 16)),
        (16, 16, {"output_shape": 6}, (2, 5, 6)),
        (16, 16, {"output_shape": (3, 4), "value_output": None}, (2, 5, 3, 4)),
        (6, 6, {"key_dim": 20, "value_dim": 20}, (2, 5, 6)),
    ],
)
def test_other_shapes(query_dim, value_dim, arguments, shape):
    layer = MimeticMultiHeadAttention(**{"num_heads": 2, "key_dim": 4, "seed": 0, **arguments})
    x = data(2, 5, query_dim)
    y = x if query_dim == value_dim else data(2, 7, value_dim)
    outputs = array(layer(x, y))
    assert outputs.shape == shape
    assert np.isfinite(outputs).all()
    assert all(np.linalg.norm(kernel) > 0.1 for kernel in kernels(layer).values())


@pytest.mark.parametrize("value_dim", [3, 11])
def test_values_of_another_width(value_dim):
    layer = MimeticMultiHeadAttention(2, 4, value_dim=value_dim, seed=0)
    layer.build((None, 5, 16), (None, 5, 16))
    k = kernels(layer)
    assert (k["value"].shape, k["output"].shape) == ((16, 2, value_dim), (2, value_dim, 16))
    product = k["value"].reshape(16, -1) @ k["output"].reshape(-1, 16)
    expected = value_output(
        16, 16, 2, value_dim, noise=0.4, identity=-0.4, seed=layer._seeds["value"]
    )
    np.testing.assert_allclose(
        product, expected[0].reshape(16, -1) @ expected[1].reshape(-1, 16), atol=1e-6
    )
    if keras.backend.backend() != "jax":  # where Keras's own layer cannot run
        x = data(2, 5, 16)
        assert layer(x, x).shape == (2, 5, 16)


def test_attention_over_two_axes():
    layer = MimeticMultiHeadAttention(2, 4, attention_axes=(1, 2), seed=0)
    x = data(2, 3, 4, 8)
    assert layer(x, x).shape == (2, 3, 4, 8)
    assert (products(layer)[0] > 0.2).all()


def test_one_pair_alone():
    layer = MimeticMultiHeadAttention(2, 16, query_key=None, seed=0)
    layer.build((None, 5, 32), (None, 5, 32))
    by_head, whole = products(layer)
    assert np.abs(by_head).max() < 0.2
    assert whole == pytest.approx(-0.4, abs=0.1)
    # Glorot's scale, of the fans that the kernel has; each projection by itself.
    k = kernels(layer)
    assert k["query"].std() == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert (k["query"] != k["key"]).all()


def test_a_gate_if_keras_supports_it():
    try:
        layer = MimeticMultiHeadAttention(2, 4, use_gate=True, seed=0)
    except (TypeError, ValueError):
        pytest.skip("this version of Keras has no gate")
    x = data(2, 5, 8)
    assert layer(x, x).shape == (2, 5, 8)
    assert (products(layer)[0] > 0.2).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16"])
def test_low_precision(policy):
    exact = MimeticMultiHeadAttention(2, 4, seed=0)
    layer = MimeticMultiHeadAttention(2, 4, seed=0, dtype=policy)
    x = data(2, 5, 8)
    exact(x, x)
    outputs = layer(x, x)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    assert np.isfinite(array(outputs)).all()
    for role in ROLES:
        expected = keras.ops.cast(kernels(exact)[role], layer.variable_dtype)
        np.testing.assert_array_equal(kernels(layer)[role], array(expected))


def test_saves_trains_and_is_built_inside_a_subclassed_model(tmp_path):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = MimeticMultiHeadAttention(2, 4, dropout=0.1, seed=3)
            self.head = keras.layers.Dense(1)

        def call(self, x):
            return self.head(self.attention(x, x))

    model = Model()
    model.compile("adam", "mse")
    before = MimeticMultiHeadAttention(2, 4, dropout=0.1, seed=3)
    before.build((None, 5, 8), (None, 5, 8))
    model.fit(data(8, 5, 8), data(8, 5, 1), batch_size=4, verbose=0)
    # Trained from the structure on: near it still.
    np.testing.assert_allclose(
        kernels(model.attention)["query"], kernels(before)["query"], atol=0.02
    )
    x = keras.Input((5, 8))
    functional = keras.Model(x, MimeticMultiHeadAttention(2, 4, seed=5)(x, x))
    functional.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        array(loaded(data(2, 5, 8))), array(functional(data(2, 5, 8))), atol=1e-6
    )


def test_lora_applies_to_the_sublayers():
    x = keras.Input((5, 8))
    model = keras.Model(x, MimeticMultiHeadAttention(2, 4, seed=5)(x, x))
    expected = array(model(data(2, 5, 8)))
    model.layers[-1].query_dense.enable_lora(2)
    np.testing.assert_allclose(array(model(data(2, 5, 8))), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"query_key": 0.7}, TypeError, r"`query_key` must be .* a pair \(noise, identity\)"),
        ({"value_output": "Auto"}, TypeError, r"`value_output` must be 'auto', None or a pair"),
        ({"causal": 1}, TypeError, "`causal` must be True or False"),
        ({"query_key": (1, 2, 3)}, ValueError, r"query_key=\(1, 2, 3\)"),
        ({"value_output": (0, 0)}, ValueError, "between 1e-06 and 1e\\+06"),
        ({"value_output": (1e30, 0)}, ValueError, "value_output=1e\\+30"),
        ({"query_key": (0, 1e-30)}, ValueError, "between 1e-06 and 1e\\+06"),
        ({"value_output": (-1, 0)}, ValueError, "noise >= 0"),
        ({"value_output": ("a", 0)}, TypeError, "value_output='a'"),
        ({"query_key": (float("inf"), 0)}, ValueError, "query_key=inf"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"seed": 1.0}, TypeError, "seed=1.0"),
        ({"seed": 2**31, "dropout": 0.1}, ValueError, "below 2"),
        ({"output_shape": (2, 3)}, ValueError, "`output_shape` must have one axis"),
        ({"kernel_initializer": "nothing"}, ValueError, "kernel_initializer='nothing'"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        MimeticMultiHeadAttention(2, 4, **arguments)


def test_cross_attention_without_noise_is_rejected():
    layer = MimeticMultiHeadAttention(2, 4, query_key=(0, 1.0))
    with pytest.raises(ValueError, match="`query_key` must have noise > 0"):
        layer(data(2, 5, 8), data(2, 6, 8))


@pytest.mark.parametrize(
    ("role", "shape"), [("key", (8, 2, 4)), ("output", (2, 4, 8)), ("value", (8, 2, 4))]
)
def test_a_single_projection(role, shape):
    initializer = AttentionProjection(role, 8, 0.7, 0.7, seed=5)
    run_class_serialization_test(initializer)
    values = traced(lambda: initializer(shape)) if role == "output" else initializer(shape)
    draw = query_key if role == "key" else value_output
    pair = draw(8, 8, 2, 4, noise=0.7, identity=0.7, seed=5)
    expected = pair[1] if role in ("key", "output") else pair[0]
    np.testing.assert_array_equal(array(values), expected)
