import importlib.util
import json
import math

import keras
import numpy as np
import paths
import pytest
from arrays import array
from keras_checks import run_class_serialization_test, run_layer_test

from keras_mimetic.initializers import MimeticMean
from keras_mimetic.layers import MimeticMLPBlock

GOLDEN = paths.GOLDEN


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("arguments", "shape", "output_shape", "weights", "generators"),
    [
        ({}, (2, 6), (2, 6), 4, 0),
        ({"output_dim": 3, "use_bias": False}, (2, 5, 6), (2, 5, 3), 2, 0),
        ({"norm": "layer_norm", "residual": True}, (2, 3, 4, 6), (2, 3, 4, 6), 6, 0),
        ({"dropout": 0.2, "hidden_bias": -0.5, "activation": "relu"}, (2, 6), (2, 6), 4, 2),
    ],
)
def test_keras_layer_test(arguments, shape, output_shape, weights, generators):
    run_layer_test(
        MimeticMLPBlock,
        {"hidden_dim": 8, "seed": 1, **arguments},
        input_shape=shape,
        expected_output_shape=output_shape,
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=generators,
        expected_num_losses=0,
        supports_masking=True,
    )


@pytest.mark.parametrize("norm", [None, "layer_norm"])
@pytest.mark.parametrize("residual", [False, True])
def test_equals_layers_written_by_hand(norm, residual):
    block = MimeticMLPBlock(12, mean=0, hidden_bias=0, norm=norm, residual=residual, seed=3)
    x = data(4, 7, 6)
    outputs = block(x)
    hand = [
        keras.layers.Dense(12, "gelu", kernel_initializer=lambda *_, **__: block.fc1.kernel),
        keras.layers.Dense(6, kernel_initializer=lambda *_, **__: block.fc2.kernel),
    ]
    if norm:
        hand.insert(0, keras.layers.LayerNormalization(epsilon=1e-6))
    y = x
    for layer in hand:
        y = layer(y)
    if residual:
        y = keras.ops.add(x, y)
    np.testing.assert_allclose(array(outputs), array(y), rtol=1e-6, atol=1e-6)


def test_kernels():
    block = MimeticMLPBlock(300, 50, mean=-0.5, seed=3)
    block.build((None, 100))
    fc1, fc2 = array(block.fc1.kernel), array(block.fc2.kernel)
    std = math.sqrt(2 / 400)
    assert fc1.mean() / std == pytest.approx(-0.5, abs=0.03)
    assert fc1.std() / std == pytest.approx(1, abs=0.02)
    assert fc2.mean() / fc2.std() == pytest.approx(0, abs=0.04)
    assert abs(fc2).max() == pytest.approx(math.sqrt(6 / 350), rel=1e-3)
    # The samples equal those with mean 0; only the mean differs.
    plain = MimeticMLPBlock(300, 50, mean=0, seed=3)
    plain.build((None, 100))
    np.testing.assert_allclose(fc1 - array(plain.fc1.kernel), -0.5 * std, atol=1e-7)
    np.testing.assert_array_equal(fc2, array(plain.fc2.kernel))


def test_kernels_of_one_block_are_independent():
    block = MimeticMLPBlock(64, mean=0, seed=0)
    block.build((None, 64))
    fc1, fc2 = (array(layer.kernel).ravel() for layer in (block.fc1, block.fc2))
    assert abs(np.corrcoef(fc1, fc2)[0, 1]) < 5 / 64
    other = MimeticMLPBlock(64, mean=0, seed=1)
    other.build((None, 64))
    assert abs(np.corrcoef(fc1, array(other.fc1.kernel).ravel())[0, 1]) < 5 / 64
    assert abs(np.corrcoef(fc2, array(other.fc1.kernel).ravel())[0, 1]) < 5 / 64


@pytest.mark.parametrize(
    ("arguments", "mean", "hidden_bias"),
    [
        ({"norm": "layer_norm"}, -1, -0.5),
        ({"norm": "layer_norm", "use_bias": False}, -1, 0),
        ({"norm": "layer_norm", "bias_initializer": "ones"}, -1, 0),
        # An explicit zero initializer allows a hidden bias.
        ({"norm": "layer_norm", "bias_initializer": keras.initializers.Constant(0.0)}, -1, -0.5),
        # Each strength can be set alone.
        ({"norm": "layer_norm", "hidden_bias": 0}, -1, 0),
        ({"norm": "layer_norm", "mean": 0}, 0, -0.5),
        ({"norm": "layer_norm", "mean": 0.3}, 0.3, -0.5),
        # The block does not know its input, so the mean is safe for any input.
        ({}, -0.5 / 4, 0),
        ({"use_bias": False}, -0.5 / 4, 0),
        ({"hidden_bias": -0.3}, -0.5 / 4, -0.3),
        ({"mean": 0, "hidden_bias": 0}, 0, 0),
    ],
)
def test_auto_strengths(arguments, mean, hidden_bias):
    told = {**arguments, "mean": mean, "hidden_bias": hidden_bias}
    auto, told = (MimeticMLPBlock(32, seed=0, **given) for given in (arguments, told))
    for block in (auto, told):
        block.build((None, 16))
    for ours, theirs in zip(auto.weights, told.weights, strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))
    # As given, not as resolved: a copy resolves it again.
    assert auto.get_config()["mean"] == arguments.get("mean", "auto")
    assert auto.get_config()["hidden_bias"] == arguments.get("hidden_bias", "auto")


def test_a_norm_before_the_block_counts_as_one_inside():
    x = data(8, 32) * 3 + 1
    inside = MimeticMLPBlock(64, norm="layer_norm", seed=0)
    before = MimeticMLPBlock(64, norm="before", seed=0)
    norm = keras.layers.LayerNormalization(epsilon=1e-6)
    np.testing.assert_array_equal(array(before(norm(x))), array(inside(x)))
    assert before.norm is None
    copy = MimeticMLPBlock.from_config(before.get_config())
    np.testing.assert_array_equal(array(copy(norm(x))), array(inside(x)))


def test_mean_after_an_untrained_layer_norm_has_no_effect():
    x = data(8, 32) * 3 + 1
    outputs = {
        (norm, mean): array(MimeticMLPBlock(128, mean=mean, norm=norm, seed=0)(x))
        for norm in (None, "layer_norm")
        for mean in (0.0, -4.0)
    }
    np.testing.assert_allclose(
        outputs["layer_norm", 0.0], outputs["layer_norm", -4.0], rtol=1e-4, atol=1e-5
    )
    # Without the norm, it does.
    assert abs(outputs[None, 0.0] - outputs[None, -4.0]).max() > 1


@pytest.mark.parametrize("hidden_bias", [-0.8, 0.5])
def test_hidden_bias_is_in_standard_deviations_of_the_pre_activation(hidden_bias):
    block = MimeticMLPBlock(
        512, activation=None, mean=0, norm="layer_norm", hidden_bias=hidden_bias, seed=0
    )
    x = data(400, 64)
    block(x)
    hidden = array(block.fc1(block.norm(x)))
    assert hidden.mean() / hidden.std() == pytest.approx(hidden_bias, abs=0.05)
    assert not array(block.fc2.bias).any()


def test_one_seed_covers_kernels_and_dropout():
    x = data(4, 16)
    outputs = [array(MimeticMLPBlock(32, dropout=0.5, seed=s)(x, training=True)) for s in (3, 3, 4)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_dropout_follows_both_matrices():
    block = MimeticMLPBlock(32, activation=None, dropout=0.5, bias_initializer="ones", seed=3)
    x = data(50, 16)
    outputs = array(block(x, training=True))
    assert 0.4 < (outputs == 0).mean() < 0.6
    assert not (array(block(x)) == 0).any()


def test_none_follows_set_random_seed():
    kernels = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        block = MimeticMLPBlock(8)
        block.build((None, 4))
        kernels.append(array(block.fc1.kernel))
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


@pytest.mark.parametrize("name", ["he_normal", "orthogonal", "zeros", "random_normal"])
def test_named_fc2_initializers_use_the_seed(name):
    kernels = []
    for seed in (5, 5, 6):
        block = MimeticMLPBlock(8, fc2_initializer=name, seed=seed)
        block.build((None, 4))
        kernels.append(array(block.fc2.kernel))
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.array_equal(kernels[0], kernels[2]) == (name == "zeros")


@pytest.mark.parametrize(
    "unseeded",
    [
        keras.initializers.HeNormal,
        keras.initializers.HeNormal(),
        MimeticMean(mean=0.0),
        "he_normal",
    ],
)
def test_the_seed_covers_initializers_without_one(unseeded):
    weights = []
    for seed in (5, 5, 6):
        block = MimeticMLPBlock(8, fc2_initializer=unseeded, bias_initializer=unseeded, seed=seed)
        block.build((None, 4))
        copy = MimeticMLPBlock.from_config(json.loads(json.dumps(block.get_config())))
        copy.build((None, 4))
        for mine, theirs in zip(block.weights, copy.weights, strict=True):
            np.testing.assert_array_equal(array(mine), array(theirs))
        weights.append([array(weight) for weight in block.weights])
    for first, same, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, same)
        assert not np.array_equal(first, other)


def test_named_variance_scaling_has_its_own_scale():
    block = MimeticMLPBlock(400, 200, fc2_initializer="he_normal", seed=0)
    block.build((None, 300))
    kernel = array(block.fc2.kernel)
    assert kernel.std() == pytest.approx(math.sqrt(2 / 400), rel=0.01)
    assert abs(kernel).max() <= 2 * math.sqrt(2 / 400) / 0.8796 * (1 + 1e-5)  # truncated


def test_fc2_initializer_with_a_seed_is_used_unchanged():
    initializer = keras.initializers.HeNormal(seed=4)
    block = MimeticMLPBlock(8, fc2_initializer=initializer, seed=5)
    block.build((None, 4))
    np.testing.assert_array_equal(array(block.fc2.kernel), array(initializer((8, 4))))


def test_regularizers_reach_both_layers():
    block = MimeticMLPBlock(8, kernel_regularizer="l2", bias_regularizer="l1", seed=0)
    block(data(2, 4))
    assert len(block.losses) == 4


def test_a_constraint_reaches_both_kernels(tmp_path):
    block = MimeticMLPBlock(8, kernel_constraint=keras.constraints.UnitNorm(), seed=0)
    model = keras.Sequential([keras.Input((6,)), block])
    model.compile("sgd", "mse")
    model.fit(data(8, 6), data(8, 6, seed=1), verbose=0)
    for kernel in (block.fc1.kernel, block.fc2.kernel):
        np.testing.assert_allclose(np.linalg.norm(array(kernel), axis=0), 1, rtol=1e-5)
    clone = MimeticMLPBlock.from_config(block.get_config())
    assert isinstance(clone.kernel_constraint, keras.constraints.UnitNorm)


def test_an_unregistered_activation_is_named_when_it_is_loaded(tmp_path):
    def squared_relu(x):
        return keras.ops.square(keras.ops.relu(x))

    block = MimeticMLPBlock(8, activation=squared_relu, seed=0)
    model = keras.Sequential([keras.Input((6,)), block])
    model.save(tmp_path / "model.keras")
    with pytest.raises(TypeError, match="Could not locate function 'squared_relu'"):
        keras.saving.load_model(tmp_path / "model.keras")
    loaded = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"squared_relu": squared_relu}
    )
    np.testing.assert_array_equal(array(loaded(data(2, 6))), array(model(data(2, 6))))


def test_masks_pass_through():
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(10, 6, mask_zero=True)(inputs)
    x = MimeticMLPBlock(8, norm="layer_norm", residual=True, seed=0)(x)
    pooled = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, [x, pooled])
    tokens, mean = (array(y) for y in model(np.array([[1, 2, 0, 0]])))
    np.testing.assert_allclose(mean[0], tokens[0, :2].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"])
def test_low_precision(policy):
    block = MimeticMLPBlock(32, norm="layer_norm", residual=True, seed=0, dtype=policy)
    outputs = block(data(4, 16))
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    stored = "float32" if policy.startswith("mixed_") else policy
    assert {keras.backend.standardize_dtype(w.dtype) for w in block.weights} == {stored}
    exact = MimeticMLPBlock(32, norm="layer_norm", residual=True, seed=0)
    np.testing.assert_allclose(array(outputs), array(exact(data(4, 16))), rtol=0.1, atol=0.1)


def test_ways_of_use():
    x = data(3, 5, 6)

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.block = MimeticMLPBlock(8, norm="layer_norm", seed=0)

        def call(self, inputs):
            return self.block(inputs)

    inputs = keras.Input((None, 6))
    models = [
        keras.Sequential([MimeticMLPBlock(8, norm="layer_norm", seed=0)]),
        keras.Model(inputs, MimeticMLPBlock(8, norm="layer_norm", seed=0)(inputs)),
        Subclassed(),
    ]
    outputs = [array(model(x)) for model in models]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])
    lines = []
    models[1].summary(print_fn=lines.append, expand_nested=True)
    assert "mimetic_mlp_block" in "\n".join(lines)


def test_weight_paths():
    block = MimeticMLPBlock(8, norm="layer_norm", name="mlp")
    block.build((None, 4))
    assert [weight.path for weight in block.weights] == [
        "mlp/norm/gamma",
        "mlp/norm/beta",
        "mlp/fc1/kernel",
        "mlp/fc1/bias",
        "mlp/fc2/kernel",
        "mlp/fc2/bias",
    ]


def test_compute_output_shape():
    assert MimeticMLPBlock(8).compute_output_shape((None, 5, 6)) == (None, 5, 6)
    assert MimeticMLPBlock(8, 3).compute_output_shape([None, None, 6]) == (None, None, 3)


def test_stateless_call():
    block = MimeticMLPBlock(8, norm="layer_norm", dropout=0.3, seed=0)
    x = data(3, 6)
    expected = block(x)
    trainable = [v.value for v in block.trainable_variables]
    state = [v.value for v in block.non_trainable_variables]
    outputs, _ = block.stateless_call(trainable, state, x)
    np.testing.assert_allclose(array(outputs), array(expected), rtol=1e-6)
    zeros = [keras.ops.zeros_like(v) for v in trainable]
    outputs, _ = block.stateless_call(zeros, state, x)
    assert not array(outputs).any()


def test_config_and_clone():
    block = MimeticMLPBlock(
        8,
        activation="relu",
        mean=-0.3,
        norm="layer_norm",
        residual=True,
        dropout=0.1,
        fc2_initializer=MimeticMean(0.2, seed=1),
        kernel_regularizer=keras.regularizers.L2(1e-3),
        seed=np.int64(7),
        dtype="mixed_bfloat16",
    )
    run_class_serialization_test(block)
    config = json.loads(json.dumps(block.get_config()))
    clone = MimeticMLPBlock.from_config(config)
    for layer in (block, clone):
        layer.build((None, 6))
    for mine, theirs in zip(block.weights, clone.weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(theirs))
    unseeded = MimeticMLPBlock(8)
    fresh = MimeticMLPBlock.from_config(unseeded.get_config())
    for layer in (unseeded, fresh):
        layer.build((None, 6))
    assert not np.array_equal(array(unseeded.fc1.kernel), array(fresh.fc1.kernel))


def test_save_and_load(tmp_path):
    x = data(3, 6)
    model = keras.Sequential(
        [keras.Input((6,)), MimeticMLPBlock(8, norm="layer_norm", dropout=0.1, residual=True)]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(model(x)), array(loaded(x)))
    model.save_weights(tmp_path / "model.weights.h5")
    other = keras.models.clone_model(model)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(array(model(x)), array(other(x)))


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_load_models_saved_by_another_backend(backend):
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    loaded = keras.saving.load_model(GOLDEN / f"block_{backend}.keras", compile=False)
    with np.load(GOLDEN / "outputs.npz") as file:
        np.testing.assert_allclose(
            array(loaded(make.inputs())), file["outputs"], rtol=2e-5, atol=2e-5
        )
    # The same seeds give the same weights on this backend, bit for bit.
    for here, there in zip(make.model().weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(array(here), array(there))


def test_lora():
    model = keras.Sequential([keras.Input((6,)), MimeticMLPBlock(8, seed=0)])
    x = data(64, 6)
    before = array(model(x))
    block = model.layers[0]
    block.fc1.enable_lora(2)
    block.fc2.enable_lora(2)
    np.testing.assert_allclose(array(model(x)), before, rtol=1e-5, atol=1e-6)
    assert len(block.trainable_weights) == 6  # two factors and a bias each
    frozen = array(block.fc1._kernel)
    model.compile("sgd", "mse")
    model.fit(x, data(64, 6, seed=1), verbose=0)
    np.testing.assert_array_equal(array(block.fc1._kernel), frozen)
    assert not np.allclose(array(model(x)), before)


def test_int8_quantization_and_loading(tmp_path):
    model = keras.Sequential(
        [keras.Input((6,)), MimeticMLPBlock(32, norm="layer_norm", mean=0, seed=0)]
    )
    x = data(16, 6)
    before = array(model(x))
    model.quantize("int8")
    block = model.layers[0]
    assert keras.backend.standardize_dtype(block.fc1._kernel.dtype) == "int8"
    quantized = array(model(x))
    np.testing.assert_allclose(quantized, before, atol=0.1)
    assert not np.array_equal(quantized, before)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(loaded(x)), quantized, rtol=1e-5, atol=1e-6)
    # A copy that was not built yet remembers it too.
    config = block.get_config()
    assert MimeticMLPBlock.from_config(config).get_config()["quantized"] == config["quantized"]


def test_trains():
    x = data(256, 16)
    y = np.tanh(x[:, :1]) * x[:, 1:2]
    model = keras.Sequential(
        [MimeticMLPBlock(64, norm="layer_norm", residual=True, seed=0), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = model.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_dim": 0}, ValueError, "`hidden_dim`.*>= 1.*Received: hidden_dim=0"),
        ({"hidden_dim": -3}, ValueError, "`hidden_dim`.*Received: hidden_dim=-3"),
        ({"hidden_dim": 2.5}, TypeError, "`hidden_dim`.*Received: hidden_dim=2.5"),
        ({"hidden_dim": None}, TypeError, "`hidden_dim`.*Received: hidden_dim=None"),
        ({"hidden_dim": True}, TypeError, "`hidden_dim`.*Received: hidden_dim=True"),
        ({"output_dim": 0}, ValueError, "`output_dim`.*Received: output_dim=0"),
        ({"output_dim": "8"}, TypeError, "`output_dim`.*Received: output_dim='8'"),
        ({"activation": "glue"}, ValueError, "`activation`.*Received: activation='glue'"),
        ({"activation": 3}, ValueError, "`activation`.*Received: activation=3"),
        ({"mean": "automatic"}, TypeError, "`mean`.*'auto'.*Received: mean='automatic'"),
        ({"mean": float("nan")}, ValueError, "`mean`.*Received: mean=nan"),
        ({"mean": None}, TypeError, "`mean`.*Received: mean=None"),
        ({"hidden_bias": "x"}, TypeError, "`hidden_bias`.*Received: hidden_bias='x'"),
        ({"hidden_bias": math.inf}, ValueError, "`hidden_bias`.*Received: hidden_bias=inf"),
        ({"hidden_bias": 1, "use_bias": False}, ValueError, "`hidden_bias`.*`use_bias`"),
        ({"hidden_bias": 1, "bias_initializer": "ones"}, ValueError, "`bias_initializer`.*zeros"),
        ({"norm": "rms"}, ValueError, "`norm`.*'layer_norm'.*Received: norm='rms'"),
        ({"norm": True}, ValueError, "`norm`.*Received: norm=True"),
        ({"residual": "yes"}, TypeError, "`residual`.*Received: residual='yes'"),
        ({"use_bias": 1}, TypeError, "`use_bias`.*Received: use_bias=1"),
        ({"dropout": 1.0}, ValueError, "`dropout`.*< 1.*Received: dropout=1.0"),
        ({"dropout": -0.1}, ValueError, "`dropout`.*Received: dropout=-0.1"),
        ({"dropout": None}, TypeError, "`dropout`.*Received: dropout=None"),
        ({"dropout": float("nan")}, ValueError, "`dropout`.*Received: dropout=nan"),
        ({"seed": True}, TypeError, "`seed`.*Received: seed=True"),
        ({"seed": -1}, ValueError, "`seed`.*Received: seed=-1"),
        ({"seed": 0.5}, TypeError, "`seed`.*Received: seed=0.5"),
        ({"dtype": "int32"}, ValueError, "`dtype`.*floating.*Received: dtype='int32'"),
        ({"dtype": "int8_from_float32"}, ValueError, "`dtype`.*Model.quantize.*int8_from"),
        ({"mean": np.array([1.0, 2.0])}, TypeError, "`mean`.*Received: mean=array"),
        ({"mean": 10**400}, ValueError, "`mean`.*finite number"),
        ({"fc2_initializer": "glorot"}, ValueError, "`fc2_initializer`.*='glorot'"),
        ({"fc2_initializer": None}, ValueError, "`fc2_initializer`.*=None"),
        ({"bias_initializer": 3}, ValueError, "`bias_initializer`.*=3"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        MimeticMLPBlock(**{"hidden_dim": 8, **arguments})


def test_missing_hidden_dim():
    with pytest.raises(TypeError, match="hidden_dim"):
        MimeticMLPBlock()


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({}, (), "rank 2 or higher.*Received: input_shape"),
        ({}, (6,), "rank 2 or higher.*Received: input_shape"),
        ({}, (None, None), "known number of channels.*Received: input_shape"),
        ({"residual": True, "output_dim": 3}, (None, 6), "`output_dim`.*`residual`.*output_dim=3"),
    ],
)
def test_bad_input_shapes(arguments, shape, message):
    block = MimeticMLPBlock(8, **arguments)
    with pytest.raises(ValueError, match=message):
        block.build(shape)
    assert not block.weights
    with pytest.raises(ValueError, match=message):
        MimeticMLPBlock(8, **arguments)(keras.KerasTensor(shape))
