import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from keras_checks import run_class_serialization_test, run_layer_test
from state_space_checks import (
    BACKEND,
    MIMETIC,
    OWN,
    STARTS,
    WEIGHTS,
    WIDTH,
    all_close,
    array,
    built,
    by_hand,
    by_steps,
    close,
    data,
    stirred,
    values,
)

from keras_mimetic.layers import MimeticStateSpace


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ({}, 8),
        ({**OWN, "num_groups": 2, "use_bias": True, "chunk_size": 2}, 10),
    ],
)
def test_keras_layer_test(arguments, weights):
    run_layer_test(
        MimeticStateSpace,
        {"state_dim": 3, "head_dim": 4, "seed": 1, **arguments},
        input_shape=(2, 5, 8),
        expected_output_shape=(2, 5, 8),
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=0,
        supports_masking=True,
    )


def test_weight_paths():
    layer = built(name="mixer", use_bias=True)
    assert {weight.path for weight in layer.weights} == {
        f"mixer/{name}" for name in (*WEIGHTS, "in_projection/bias", "out_projection/bias")
    }


def test_compute_output_shape():
    layer = MimeticStateSpace(head_dim=8)
    assert layer.compute_output_shape((None, None, 16)) == (None, None, 16)
    assert layer.compute_output_shape([2, 5, 16]) == (2, 5, 16)


def test_stateless_call():
    layer = stirred()
    x = data(2, 10, WIDTH)
    trainable = [v.value for v in layer.trainable_variables]
    outputs, _ = layer.stateless_call(trainable, [], x)
    np.testing.assert_allclose(array(outputs), array(layer(x)), rtol=1e-5, atol=1e-6)
    outputs, _ = layer.stateless_call([ops.zeros_like(v) for v in trainable], [], x)
    assert not array(outputs).any()


def test_config_and_clone():
    layer = MimeticStateSpace(
        state_dim=np.int64(5),
        head_dim=4,
        expand=3,
        num_groups=2,
        conv_width=2,
        a_log=-3,
        dt=0.5,
        correlation=-0.2,
        convolution=None,
        use_bias=True,
        chunk_size=7,
        seed=np.int64(7),
        dtype="mixed_bfloat16",
    )
    run_class_serialization_test(layer)
    run_class_serialization_test(MimeticStateSpace(**OWN))
    config = json.loads(json.dumps(layer.get_config()))
    clone = MimeticStateSpace.from_config(config)
    assert clone.get_config() == layer.get_config()
    for each in (layer, clone):
        each.build((None, None, WIDTH))
    assert clone.get_config() == layer.get_config()
    assert values(layer).keys() == values(clone).keys()
    for mine, theirs in zip(layer.weights, clone.weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(theirs))


@pytest.mark.parametrize(
    "arguments",
    [
        # Different in all.
        {"state_dim": 3, "head_dim": 4, "expand": 1, "num_groups": 2, "conv_width": 3}
        | {"use_bias": True, "chunk_size": 9, "go_backwards": True, "seed": 5, **OWN},
        {"state_dim": 4, "head_dim": 5, "expand": 3, "num_groups": 3, "conv_width": 2}
        | {"use_bias": False, "chunk_size": 8, "go_backwards": False, "seed": None, **MIMETIC},
    ],
)
def test_every_argument_is_in_the_config(arguments):
    config = MimeticStateSpace(**arguments).get_config()
    assert set(config) - set(arguments) == {"name", "trainable", "dtype"}
    assert {name: config[name] for name in arguments} == arguments


def test_defaults():
    config = MimeticStateSpace().get_config()
    assert {name: config[name] for name in MIMETIC} == {**MIMETIC, "convolution": None}
    numbers = ("state_dim", "head_dim", "expand", "num_groups", "conv_width", "chunk_size")
    assert [config[name] for name in numbers] == [128, 64, 2, 1, 4, 64]
    assert config["use_bias"] is False
    assert config["seed"] is None


def test_ways_of_use():
    x = data(2, 10, WIDTH)
    arguments = {"state_dim": 5, "head_dim": 8, "seed": 0, **MIMETIC}

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.mixer = MimeticStateSpace(**arguments)

        def call(self, inputs):
            return self.mixer(inputs)

    inputs = keras.Input((None, WIDTH))
    functional = keras.Model(inputs, MimeticStateSpace(**arguments)(inputs))
    models = [
        keras.Sequential([MimeticStateSpace(**arguments)]),
        functional,
        Subclassed(),
        keras.models.clone_model(functional),
    ]
    expected = array(built()(x))
    for model in models:
        close(model(x), expected)
    close(functional.predict(x, verbose=0), expected)
    lines = []
    functional.summary(print_fn=lines.append, expand_nested=True)
    assert "mimetic_state_space" in "\n".join(lines)


class _Residual(keras.layers.Layer):
    """A block of the user's: Keras traces its `call` with sizes that are not known."""

    def __init__(self, inner):
        super().__init__()
        self.norm, self.inner = keras.layers.RMSNormalization(), inner

    def call(self, x):
        return x + self.inner(self.norm(x))


def test_unknown_length_in_a_block():
    inputs = keras.Input((None, WIDTH))
    layer = stirred(chunk_size=2)
    block = _Residual(layer)
    model = keras.Model(inputs, block(inputs))
    assert model.output_shape == (None, None, WIDTH)
    x = data(2, 5, WIDTH)
    close(model(x), x + array(layer(block.norm(x))))


@pytest.mark.parametrize("merge_mode", ["concat", None])
def test_both_directions(merge_mode, tmp_path):
    wrapper = keras.layers.Bidirectional(MimeticStateSpace(5, 8), merge_mode=merge_mode)
    inputs = keras.Input((6, WIDTH))
    model = keras.Model(inputs, wrapper(inputs))
    model.save(tmp_path / "model.keras")
    x = data(2, 6, WIDTH)
    found = keras.saving.load_model(tmp_path / "model.keras")(x)
    forward, backward = wrapper.forward_layer(x), array(wrapper.backward_layer(x))[:, ::-1]
    assert not np.allclose(array(forward), backward)
    if merge_mode == "concat":
        found = ops.split(found, 2, axis=-1)
    all_close(found, (array(forward), backward))


def test_states_in_a_functional_model(tmp_path):
    inputs = keras.Input((None, WIDTH))
    conv_state, ssm_state = (keras.Input(part.shape[1:]) for part in built().get_initial_state(1))
    layer = stirred(chunk_size=4)
    outputs, state = layer(inputs, initial_state=(conv_state, ssm_state), return_state=True)
    model = keras.Model((inputs, conv_state, ssm_state), (outputs, *state))
    x = data(2, 10, WIDTH)
    expected, after = layer(x, return_state=True)
    for each in (model, None):
        if each is None:
            model.save(tmp_path / "model.keras")
            each = keras.saving.load_model(tmp_path / "model.keras")
        first, *state = each((ops.convert_to_tensor(x[:, :5]), *layer.get_initial_state(2)))
        second, *state = each((ops.convert_to_tensor(x[:, 5:]), *state))
        close(ops.concatenate((first, second), axis=1), array(expected))
        all_close(state, after)
    assert [part.shape for part in model.outputs] == [
        (None, None, WIDTH),
        (None, 3, 2 * WIDTH + 10),
        (None, 4, 8, 5),
    ]


@pytest.mark.parametrize("given", ["mask", "initial_state"])
def test_is_built_by_a_call_with_more_than_inputs(given):
    x = data(2, 5, WIDTH)
    arguments = {"mask": np.ones((2, 5), bool), "initial_state": built().get_initial_state(2)}
    layer = MimeticStateSpace(state_dim=5, head_dim=8, seed=0, **MIMETIC)
    close(layer(x, **{given: arguments[given]}), array(built()(x)))


def test_save_and_load(tmp_path):
    x = data(2, 10, WIDTH)
    model = keras.Sequential([keras.Input((None, WIDTH)), stirred(chunk_size=4, use_bias=True)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(model(x)), array(loaded(x)))
    model.save_weights(tmp_path / "model.weights.h5")
    other = keras.models.clone_model(model)
    assert abs(array(other(x)) - array(model(x))).max() > 0.1
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(array(model(x)), array(other(x)))


@pytest.mark.parametrize("start", ["mimetic", "Mamba-2's own"])
def test_trains(start):
    # The mean of what was seen so far.
    x = data(64, 10, WIDTH)
    y = np.cumsum(x[..., :1], axis=1) / np.arange(1, 11)[:, None]
    model = keras.Sequential([built(**STARTS[start]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = model.fit(x, y, batch_size=64, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    # No weight is left behind.
    fresh = values(built(**STARTS[start]))
    assert all((value != fresh[name]).any() for name, value in values(model.layers[0]).items())


@pytest.mark.parametrize("jit_compile", [False, True] if BACKEND == "tensorflow" else ["auto"])
def test_trains_on_batches_of_different_lengths(jit_compile):
    class Batches(keras.utils.PyDataset):
        lengths = (10, 5, 10)

        def __len__(self):
            return len(self.lengths)

        def __getitem__(self, index):
            tokens = np.random.default_rng(index).integers(0, 10, (2, self.lengths[index]))
            return tokens, tokens

    def compiled(chunk, **arguments):
        model = keras.Sequential(
            [
                keras.Input((None,), dtype="int32"),
                keras.layers.Embedding(10, WIDTH, mask_zero=True),
                built(chunk_size=chunk),
                keras.layers.Dense(10, kernel_initializer="zeros"),
            ]
        )
        model.layers[0].embeddings.assign(data(10, WIDTH))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, **arguments)
        return model

    model, other = (
        compiled(4, jit_compile=jit_compile),
        compiled(64, run_eagerly=BACKEND == "tensorflow"),
    )
    model.fit(Batches(), shuffle=False, verbose=0)
    for index in range(len(Batches())):
        other.train_on_batch(*Batches()[index])
    all_close(model.weights, other.weights, 1e-4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="lengths that are not known when traced")
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("start", ["mimetic", "Mamba-2's own", "strong decay"])
def test_unknown_lengths_in_a_graph(start, chunk):
    import tensorflow as tf

    layer = stirred(chunk_size=chunk, num_groups=2, **STARTS[start])
    graph = tf.function(
        lambda x, mask: layer(x, mask=mask, return_state=True),
        input_signature=[tf.TensorSpec((None, None, WIDTH)), tf.TensorSpec((None, None), tf.bool)],
    )
    for length in (0, 1, 3, 4, 5, 16, 33, 64, 65, 301):
        x = data(2, length, WIDTH)
        mask = np.random.default_rng(0).uniform(size=(2, length)) < 0.9
        outputs, state = graph(x, mask)
        expected, after = by_hand(layer, x, mask=mask)
        close(array(outputs)[mask], expected[mask])
        all_close(state, after)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="batches that are not known when traced")
def test_states_of_known_batch_in_a_graph():
    import tensorflow as tf

    layer = stirred()
    conv_state, ssm_state = (tf.Variable(part) for part in layer.get_initial_state(2))

    @tf.function(input_signature=[tf.TensorSpec((None, 5, WIDTH))])
    def run(x):
        _, state = layer(x, initial_state=(conv_state, ssm_state), return_state=True)
        return layer.step(x[:, 0], (conv_state, ssm_state))[0], *state

    x = data(2, 5, WIDTH)
    expected, state = by_hand(layer, x)
    outputs, *found = run(x)
    close(outputs, expected[:, 0])
    all_close(found, state)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"])
@pytest.mark.parametrize("start", ["mimetic", "Mamba-2's own"])
def test_low_precision(policy, start):
    layer = built(dtype=policy, **STARTS[start])
    x = data(2, 10, WIDTH)
    outputs = layer(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    stored = "float32" if policy.startswith("mixed_") else policy
    assert {keras.backend.standardize_dtype(w.dtype) for w in layer.weights} == {stored}
    expected = array(built(**STARTS[start])(x))
    close(outputs, expected, 0.03)
    close(by_steps(layer, x)[0], expected, 0.03)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_trains_in_low_precision(policy):
    x = data(64, 10, WIDTH)
    model = keras.Sequential([built(dtype=policy), keras.layers.Dense(1, dtype="float32")])
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = model.fit(x, x[..., :1], batch_size=64, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_lora():
    layer = built()
    model = keras.Sequential([keras.Input((10, WIDTH)), layer])
    x = data(2, 10, WIDTH)
    before = array(model(x))
    layer.in_projection.enable_lora(2)
    layer.out_projection.enable_lora(2)
    close(model(x), before)
    assert len(layer.trainable_weights) == 6 + 4  # two factors each for two kernels
    frozen = array(layer.in_projection._kernel)
    model.compile("sgd", "mse")
    model.fit(x, data(2, 10, WIDTH, seed=1), verbose=0)
    np.testing.assert_array_equal(array(layer.in_projection._kernel), frozen)
    assert not np.allclose(array(model(x)), before)


def test_int8_quantization_and_loading(tmp_path):
    model = keras.Sequential([keras.Input((None, WIDTH)), built()])
    x = data(2, 10, WIDTH)
    before = array(model(x))
    model.quantize("int8")
    layer = model.layers[0]
    for projection in (layer.in_projection, layer.out_projection):
        assert keras.backend.standardize_dtype(projection._kernel.dtype) == "int8"
    quantized = array(model(x))
    close(quantized, before, 0.05)
    assert not np.array_equal(quantized, before)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    close(loaded(x), quantized)
    # A copy that was not built yet remembers it too.
    config = layer.get_config()
    assert MimeticStateSpace.from_config(config).get_config()["quantized"] == config["quantized"]


# What is not allowed.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *(
            case
            for name in (
                "state_dim",
                "head_dim",
                "expand",
                "num_groups",
                "conv_width",
                "chunk_size",
            )
            for case in (
                ({name: 0}, ValueError, f"`{name}` must be an integer >= 1.*Received: {name}=0"),
                ({name: 2.0}, TypeError, f"`{name}`.*Received: {name}=2.0"),
                ({name: None}, TypeError, f"`{name}`.*Received: {name}=None"),
                ({name: True}, TypeError, f"`{name}`.*Received: {name}=True"),
            )
        ),
        ({"a_log": "x"}, TypeError, "`a_log` must be None or a finite number.*a_log='x'"),
        ({"a_log": math.inf}, ValueError, "`a_log` must be None or a finite number.*a_log=inf"),
        ({"a_log": True}, TypeError, "`a_log`.*Received: a_log=True"),
        ({"dt": 0}, ValueError, "`dt` must be None or a finite number > 0.*dt=0"),
        ({"dt": -1.0}, ValueError, "`dt`.*Received: dt=-1.0"),
        ({"dt": math.nan}, ValueError, "`dt`.*Received: dt=nan"),
        ({"dt": "auto"}, TypeError, "`dt`.*Received: dt='auto'"),
        ({"correlation": 1.1}, ValueError, "`correlation`.* <= 1.*correlation=1.1"),
        ({"correlation": -2}, ValueError, "`correlation`.*Received: correlation=-2"),
        ({"correlation": math.nan}, ValueError, "`correlation`.*Received: correlation=nan"),
        ({"correlation": "b"}, TypeError, "`correlation`.*Received: correlation='b'"),
        ({"convolution": "none"}, ValueError, "`convolution`.*'identity', None.*='none'"),
        ({"convolution": True}, ValueError, "`convolution`.*Received: convolution=True"),
        ({"use_bias": 1}, TypeError, "`use_bias` must be True or False.*use_bias=1"),
        ({"seed": -1}, ValueError, "`seed`.*Received: seed=-1"),
        ({"seed": 0.5}, TypeError, "`seed`.*Received: seed=0.5"),
        ({"seed": True}, TypeError, "`seed`.*Received: seed=True"),
        ({"dtype": "int32"}, ValueError, "`dtype`.*floating.*Received: dtype='int32'"),
        ({"dtype": "int8_from_float32"}, ValueError, "`dtype`.*Model.quantize.*int8_from"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        MimeticStateSpace(**arguments)


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({}, (None, 16), r"\(batch, length, channels\).*Received: input_shape=\(None, 16\)"),
        ({}, (2, 3, 4, 16), r"\(batch, length, channels\).*Received: input_shape"),
        ({}, (None, None, None), "known number of channels.*Received: input_shape"),
        ({}, (None, None, 15), "`head_dim` must divide `expand` times.*head_dim=8, expand=2"),
        ({"head_dim": 64}, (None, None, 16), "`head_dim`.*Received: head_dim=64"),
        ({"num_groups": 3}, (None, None, 16), "`num_groups` must divide.*=3, with 4 heads"),
        ({"num_groups": 8}, (None, None, 16), "`num_groups` must divide.*=8, with 4 heads"),
    ],
)
def test_bad_input_shapes(arguments, shape, message):
    layer = MimeticStateSpace(**{"head_dim": 8, **arguments})
    for use in (layer.build, layer.compute_output_shape):
        with pytest.raises(ValueError, match=message):
            use(shape)
    assert not layer.weights
    with pytest.raises(ValueError, match=message):
        MimeticStateSpace(**{"head_dim": 8, **arguments})(keras.KerasTensor(shape))


@pytest.mark.parametrize("shape", [(5, WIDTH), (2, 5, WIDTH + 1), (2, 5, 1, WIDTH)])
def test_other_inputs_than_it_was_built_for(shape):
    with pytest.raises(ValueError, match="incompatible with the layer"):
        built()(data(*shape))


@pytest.mark.parametrize("shape", [(2,), (2, WIDTH + 1), (2, 1, WIDTH)])
def test_other_inputs_of_a_step(shape):
    layer = built()
    with pytest.raises(ValueError, match="`step` of layer.*takes inputs of shape"):
        layer.step(data(*shape), layer.get_initial_state(2))


def test_before_it_is_built():
    layer = MimeticStateSpace(head_dim=8)
    state = built().get_initial_state(2)
    with pytest.raises(ValueError, match="no weights yet.*before `step`"):
        layer.step(data(2, WIDTH), state)
    with pytest.raises(ValueError, match="no weights yet, and its state no shape"):
        layer.get_initial_state(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda conv, ssm: ssm, "must be a pair of tensors"),
        (lambda conv, ssm: (conv,), "must be a pair of tensors"),
        (
            lambda conv_state, ssm_state: (conv_state, ssm_state, ssm_state),
            "must be a pair of tensors",
        ),
        (
            lambda conv_state, ssm_state: (None, None),
            "pair of tensors.*: tuple of NoneType, NoneType",
        ),
        (lambda conv, ssm: [0.0, 0], "pair of tensors.*Received: list of float, int"),
        (lambda conv, ssm: {"conv_state": conv}, "must be a pair of tensors"),
        (
            lambda conv_state, ssm_state: (ssm_state, conv_state),
            r"shapes \(2, 3, 42\) and \(2, 4, 8, 5\)",
        ),
        (lambda conv, ssm: (conv[:, 1:], ssm), r"Received: \(2, 2, 42\)"),
        (lambda conv, ssm: (conv, ssm[:, :3]), r"Received: \(2, 3, 8, 5\)"),
        (lambda conv, ssm: (conv, ssm[0]), r"Received: \(4, 8, 5\)"),
        (lambda conv, ssm: (conv[:1], ssm[:1]), r"Received: \(1, 3, 42\)"),
    ],
)
def test_other_states(change, message):
    layer = built()
    state = change(*layer.get_initial_state(2))
    with pytest.raises(ValueError, match=message):
        layer(data(2, 5, WIDTH), initial_state=state)
    with pytest.raises(ValueError, match=message):
        layer.step(data(2, WIDTH), state)


@pytest.mark.parametrize("shape", [(2, 5, 1), (5,), (2, 4), (1, 5), (2, 1)])
def test_other_masks(shape):
    with pytest.raises(ValueError, match=r"`mask` must have the shape \(batch, length\)"):
        built()(data(2, 5, WIDTH), mask=np.ones(shape, bool))
