import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from keras_checks import run_class_serialization_test, run_layer_test, traced

from keras_mimetic.layers import MimeticStateSpace
from keras_mimetic.layers.selective_scan import scan_in_chunks, scan_one
from keras_mimetic.structures import state_space

BACKEND = keras.backend.backend()
WIDTH = 16
# All parts of the structure on, and off.
MIMETIC = {"a_log": -8.0, "step": 1.0, "correlation": 0.9, "convolution": "identity"}
OWN = {"a_log": None, "step": None, "correlation": None, "convolution": None}
STARTS = {
    "mimetic": MIMETIC,
    "Mamba-2's own": OWN,
    "strong decay": {"a_log": 2.5, "step": 0.5},
    "large steps": {"a_log": -3.0, "step": 50.0},
}
starts = pytest.mark.parametrize("start", STARTS)
WEIGHTS = {
    "in_projection/kernel",
    "out_projection/kernel",
    "conv_kernel",
    "conv_bias",
    "a_log",
    "step_bias",
    "skip",
    "norm_scale",
}


def array(tensor):
    tensor = ops.convert_to_tensor(tensor)
    if keras.backend.standardize_dtype(tensor.dtype) != "float64":
        tensor = ops.cast(tensor, "float32")
    return np.asarray(ops.convert_to_numpy(tensor))


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def built(seed=0, **arguments):
    """A fresh layer of four heads, for inputs of WIDTH channels."""
    arguments = {"state_dim": 5, "head_dim": 8, "seed": seed, **MIMETIC, **arguments}
    layer = MimeticStateSpace(**arguments)
    layer.build((None, None, WIDTH))
    return layer


def stirred(**arguments):
    """The same with every weight moved, as after training."""
    layer = built(**arguments)
    for number, weight in enumerate(layer.weights):
        weight.assign(array(weight) + 0.3 * data(*weight.shape, seed=100 + number))
    return layer


def values(layer):
    return {w.path.removeprefix(f"{layer.name}/"): array(w) for w in layer.weights}


def close(actual, expected, relative=1e-5):
    """To so much of the largest value."""
    actual, expected = array(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    largest = abs(expected).max(initial=1e-30)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * largest)


def all_close(actual, expected, relative=1e-5):
    for a, b in zip(actual, expected, strict=True):
        close(a, array(b), relative)


def recurrence(x, step, decay, b, c, state):
    """What `scan_in_chunks` computes, place by place in float64."""
    x, step, decay, b, c, state = (np.float64(z) for z in (x, step, decay, b, c, state))
    b, c = (np.repeat(z, x.shape[2] // z.shape[2], axis=2) for z in (b, c))
    y = np.empty(x.shape)
    for t in range(x.shape[1]):
        state = np.exp(step[:, t] * decay)[..., None, None] * state
        state = state + np.einsum("bh,bhp,bhn->bhpn", step[:, t], x[:, t], b[:, t])
        y[:, t] = np.einsum("bhpn,bhn->bhp", state, c[:, t])
    return y, state


def by_hand(layer, inputs, state=None, mask=None):
    """The whole layer so, after the equations of its docstring: outputs and state."""
    w = {name: np.float64(value) for name, value in values(layer).items()}
    (batch, length, width), taps = inputs.shape, layer.conv_width
    inner, shared = layer.expand * width, layer.num_groups * layer.state_dim
    mask = np.ones((batch, length)) if mask is None else np.float64(mask)

    def silu(z):
        return z / (1 + np.exp(-z))

    projected = inputs.astype(float) @ w["in_projection/kernel"] + w.get("in_projection/bias", 0)
    gate, convolved, steps = np.split(projected, (inner, 2 * inner + 2 * shared), axis=-1)
    window, memory = (np.float64(array(z)) for z in state or layer.get_initial_state(batch))
    seen = np.concatenate((window, convolved * mask[..., None]), axis=1)
    convolved = np.zeros_like(convolved)
    for t in range(length):
        convolved[:, t] = (w["conv_kernel"] * seen[:, t : t + taps]).sum(1) + w["conv_bias"]
    x, b, c = np.split(silu(convolved), (inner, inner + shared), axis=-1)
    x = x.reshape(batch, length, inner // layer.head_dim, layer.head_dim)
    b, c = (z.reshape(batch, length, layer.num_groups, layer.state_dim) for z in (b, c))
    steps = np.logaddexp(0, steps + w["step_bias"]) * mask[..., None]
    y, memory = recurrence(x, steps, -np.exp(w["a_log"]), b, c, memory)
    y = (y + w["skip"][:, None] * x).reshape(batch, length, inner) * silu(gate)
    y = y.reshape(batch, length, layer.num_groups, inner // layer.num_groups)
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
    y = y.reshape(batch, length, inner) * w["norm_scale"]
    outputs = y @ w["out_projection/kernel"] + w.get("out_projection/bias", 0)
    return outputs, (seen[:, length:], memory)


def by_steps(layer, inputs, state=None):
    """Outputs and state after `step` for each place."""
    state = layer.get_initial_state(ops.shape(inputs)[0]) if state is None else state
    outputs = []
    for t in range(inputs.shape[1]):
        y, state = layer.step(inputs[:, t], state)
        outputs.append(y)
    return ops.stack(outputs, axis=1), state


def scan_arguments(length, groups, decay, step, seed=0):
    r = np.random.default_rng(seed)
    shapes = {"x": (2, length, 4, 3), "b": (2, length, groups, 5), "c": (2, length, groups, 5)}
    x, b, c = (r.normal(size=shape) for shape in shapes.values())
    steps = step * r.uniform(0, 2, (2, length, 4))
    state = r.normal(size=(2, 4, 3, 5))
    decay = -decay * r.uniform(0.5, 1.5, 4)
    return [np.float32(z) for z in (x, steps, decay, b, c, state)]


def scan(given, chunk):
    given = [ops.convert_to_tensor(z) for z in given]
    if BACKEND == "jax":  # much faster than one operation after the other
        import jax

        return jax.jit(scan_in_chunks, static_argnums=6)(*given, chunk)
    return scan_in_chunks(*given, chunk)


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


# The recurrence, and the layer around it.


@pytest.mark.parametrize(
    ("length", "groups"),
    [(0, 1), (1, 2), (7, 1), (8, 2), (9, 4), (31, 1), (32, 1), (33, 2), (50, 2), (64, 4)],
)
def test_scan_is_the_recurrence(length, groups):
    given = scan_arguments(length, groups, decay=0.3, step=1.0)
    all_close(scan(given, 8), recurrence(*given))


@pytest.mark.parametrize("chunk", [1, 2, 5, 21, 22, 64])
def test_any_chunk_gives_the_recurrence(chunk):
    given = scan_arguments(21, 2, decay=0.3, step=1.0)
    all_close(scan(given, chunk), recurrence(*given))


@pytest.mark.parametrize("decay", [1e-4, 1.0, 16.0])
@pytest.mark.parametrize("step", [0.0, 1e-3, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("chunk", [4, 64])
def test_scan_with_any_decay_and_step(decay, step, chunk):
    given = scan_arguments(100, 2, decay, step)
    all_close(scan(given, chunk), recurrence(*given))


@pytest.mark.parametrize("larger", [1e3, 1e5, 1e9])
@pytest.mark.parametrize("chunk", [1, 64])
def test_scan_with_small_steps_after_large_ones(chunk, larger):
    # Where the logarithm of the decay since the chunk's beginning is far from that
    # between two places.
    given = scan_arguments(64, 1, decay=16.0, step=1e-3)
    given[1][:, :32] *= larger
    given[0][:, :32] /= larger  # so that all places write as much
    all_close(scan(given, chunk), recurrence(*given), 1e-6)


def test_long_sequences():
    given = scan_arguments(3000, 1, decay=1e-4, step=1.0)
    all_close(scan(given, 16), recurrence(*given))


def test_one_place_is_the_recurrence():
    given = scan_arguments(1, 2, decay=0.3, step=1.0)
    x, step, decay, b, c, state = map(ops.convert_to_tensor, given)
    y, after = scan_one(x[:, 0], step[:, 0], decay, b[:, 0], c[:, 0], state)
    all_close((y[:, None], after), recurrence(*given))


@starts
@pytest.mark.parametrize("length", [0, 1, 4, 5, 10])
def test_layer_is_what_its_docstring_says(start, length):
    layer = stirred(chunk_size=4, **STARTS[start])
    x = data(2, length, WIDTH)
    outputs, state = layer(x, return_state=True)
    expected, after = by_hand(layer, x)
    close(outputs, expected)
    all_close(state, after)
    close(layer(x), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_groups": 2, "use_bias": True, "conv_width": 1, "chunk_size": 1},
        {"conv_width": 7, "expand": 1, "head_dim": 16},
        {"state_dim": 1, "head_dim": 1, "num_groups": 16},
    ],
)
def test_settings_are_what_its_docstring_says(arguments):
    layer = stirred(**{**OWN, "chunk_size": 4, **arguments})
    x = data(2, 5, WIDTH)
    outputs, state = layer(x, return_state=True)
    expected, after = by_hand(layer, x)
    close(outputs, expected)
    all_close(state, after)
    all_close(by_steps(layer, x)[1], after)


@starts
def test_float64(start):
    if BACKEND == "jax":
        pytest.skip("JAX has float64 only when it is configured for it")
    layer = stirred(chunk_size=8, dtype="float64", **STARTS[start])
    x = data(2, 30, WIDTH)
    outputs, state = layer(x, return_state=True)
    expected, after = by_hand(layer, x)
    # Elsewhere Keras multiplies matrices of float64 in float32.
    relative = 1e-10 if BACKEND == "tensorflow" else 1e-5
    close(outputs, expected, relative)
    all_close(state, after, relative)
    close(by_steps(layer, x)[0], expected, relative)
    assert {keras.backend.standardize_dtype(part.dtype) for part in state} == {"float64"}


@starts
def test_chunks_do_not_change_results(start):
    x = data(2, 10, WIDTH)
    expected, after = stirred(chunk_size=4, **STARTS[start])(x, return_state=True)
    for chunk in (1, 1000):
        outputs, state = stirred(chunk_size=chunk, **STARTS[start])(x, return_state=True)
        close(outputs, array(expected))
        all_close(state, after)


class PlaceByPlace(keras.layers.Layer):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.built = True

    def call(self, inputs):
        return by_steps(self.layer, inputs)[0]


def test_gradients_are_those_of_the_steps():
    def gradients(layer, wrap):
        # A Dense layer in front: its kernel gets what goes back to the inputs.
        front = keras.layers.Dense(WIDTH, kernel_initializer="identity")
        model = keras.Sequential([keras.Input((5, WIDTH)), front, wrap(layer)])
        model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=BACKEND == "tensorflow")
        weights = (*front.weights, *layer.weights)
        for start in STARTS.values():
            moved = stirred(**settings, **start)
            before = [np.eye(WIDTH), np.zeros(WIDTH), *map(array, moved.weights)]
            for weight, value in zip(weights, before, strict=True):
                weight.assign(value)
            model.train_on_batch(data(2, 5, WIDTH), data(2, 5, WIDTH, seed=1))
            yield [array(weight) - old for weight, old in zip(weights, before, strict=True)]

    settings = {"num_groups": 2, "use_bias": True}
    expected = list(gradients(built(**settings), PlaceByPlace))
    assert all(np.isfinite(gradient).all() for start in expected for gradient in start)
    for chunk in (2, 64):
        found = gradients(built(chunk_size=chunk, **settings), lambda layer: layer)
        for mine, theirs in zip(found, expected, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                # Rounding of the weights that were moved, besides.
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * abs(b).max() + 1e-6)


@starts
def test_is_causal(start):
    layer = stirred(chunk_size=4, **STARTS[start])
    x = data(2, 10, WIDTH)
    expected = array(layer(x))
    for t in (0, 3, 4, 8):
        changed = x.copy()
        changed[:, t + 1 :] += 1
        outputs = array(layer(changed))
        np.testing.assert_array_equal(outputs[:, : t + 1], expected[:, : t + 1])
        assert (outputs[:, t + 1] != expected[:, t + 1]).any()


# States.


@pytest.mark.parametrize(
    ("start", "trace"), [*((start, False) for start in STARTS), ("mimetic", True)]
)
def test_steps_are_the_call(start, trace):
    layer = stirred(chunk_size=4, **STARTS[start])
    x = data(2, 5, WIDTH)
    expected, after = layer(x, return_state=True)
    run = traced if trace else lambda function: function()
    outputs, state = run(lambda: by_steps(layer, ops.convert_to_tensor(x)))
    close(outputs, array(expected))
    all_close(state, after)


@pytest.mark.parametrize(("first", "length"), [(0, 10), (10, 10), (5, 10), (1, 5), (4, 5)])
def test_goes_on_from_a_state(first, length):
    layer = stirred(chunk_size=4, **OWN)
    x = data(2, length, WIDTH)
    whole, after = layer(x, return_state=True)
    head, state = layer(x[:, :first], return_state=True)
    close(head, array(whole)[:, :first])
    tail, end = layer(x[:, first:], initial_state=state, return_state=True)
    close(tail, array(whole)[:, first:])
    all_close(end, after)
    np.testing.assert_array_equal(
        array(layer(x[:, first:], initial_state=list(state))), array(tail)
    )
    if first < length:
        outputs, end = by_steps(layer, x[:, first:], state)
        close(outputs, array(whole)[:, first:])
        all_close(end, after)


def test_goes_on_from_a_state_in_a_trace():
    layer = stirred(chunk_size=4)
    x = data(2, 10, WIDTH)

    def both():
        head, state = layer(ops.convert_to_tensor(x[:, :5]), return_state=True)
        tail = layer(ops.convert_to_tensor(x[:, 5:]), initial_state=state)
        return ops.concatenate((head, tail), axis=1)

    close(traced(both), array(layer(x)))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "bfloat16"])
def test_steps_in_a_loop_of_the_backend(policy):
    # Where no type and no shape may change on the way.
    layer = stirred(dtype=policy)
    x = ops.cast(data(2, WIDTH), layer.compute_dtype)
    start = (ops.zeros_like(x), layer.get_initial_state(2))
    found = ops.while_loop(
        lambda *_: True, lambda _, state: layer.step(x, state), start, maximum_iterations=5
    )
    expected = start
    for _ in range(5):
        expected = layer.step(x, expected[1])
    relative = 1e-5 if policy == "float32" else 0.02
    close(found[0], array(expected[0]), relative)
    all_close(found[1], expected[1], relative)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_a_state_is_taken_as_it_is(policy):
    layer = stirred(dtype=policy)
    _, state = layer(data(2, 10, WIDTH), return_state=True)
    assert [keras.backend.standardize_dtype(part.dtype) for part in state] == [
        layer.compute_dtype,
        "float32",
    ]
    # Over no place at all, it does not change; and no part of it is rounded.
    _, same = layer(data(2, 0, WIDTH), initial_state=state, return_state=True)
    for mine, theirs in zip(same, state, strict=True):
        np.testing.assert_array_equal(array(mine), array(theirs))


def test_initial_state():
    layer = stirred()
    x = data(2, 10, WIDTH)
    window, memory = layer.get_initial_state(2)
    assert window.shape == (2, 3, 2 * WIDTH + 2 * 5)
    assert memory.shape == (2, 4, 8, 5)
    assert not array(window).any()
    assert not array(memory).any()
    np.testing.assert_array_equal(array(layer(x, initial_state=(window, memory))), array(layer(x)))


@pytest.mark.parametrize(("a_log", "step"), [(-8.0, 1.0), (-3.0, 0.5), (0.0, 0.1)])
def test_keeps_what_a_log_and_step_say(a_log, step):
    layer = built(a_log=a_log, step=step, chunk_size=4)
    x = np.zeros((2, 10, WIDTH), "float32")
    x[:, 0] = data(2, WIDTH)
    _, (_, first) = layer(x[:, :1], return_state=True)
    _, (_, last) = layer(x, return_state=True)
    close(last, array(first) * math.exp(-math.exp(a_log) * step * 9))


# Masks.


@pytest.mark.parametrize("start", ["mimetic", "Mamba-2's own"])
@pytest.mark.parametrize(("left", "right"), [(0, 5), (5, 0), (1, 4)])
def test_padding_changes_nothing(start, left, right):
    layer = stirred(chunk_size=4, **STARTS[start])
    x, padded = data(2, 5, WIDTH), data(2, 10, WIDTH, seed=1)
    places = slice(left, 10 - right)
    padded[:, places] = x
    mask = np.zeros((2, 10), bool)
    mask[:, places] = True
    expected, after = layer(x, return_state=True)
    outputs, state = layer(padded, mask=mask, return_state=True)
    close(array(outputs)[:, places], array(expected))
    close(state[1], array(after[1]))
    if not right:
        close(state[0], array(after[0]))
        y = data(2, WIDTH, seed=2)
        close(layer.step(y, state)[0], array(layer.step(y, after)[0]))


@pytest.mark.parametrize("convert", [ops.convert_to_tensor, np.float32, np.ndarray.tolist])
def test_masks_of_any_kind(convert):
    layer = stirred(chunk_size=4)
    x, mask = data(2, 10, WIDTH), np.arange(10) >= np.array([[5], [2]])
    expected = array(layer(x, mask=mask))
    assert (expected != array(layer(x))).any()
    np.testing.assert_array_equal(array(layer(x, mask=convert(mask))), expected)


def test_each_sequence_has_its_own_padding():
    layer = stirred(chunk_size=4)
    x = data(2, 10, WIDTH)
    spans = [(5, 10), (3, 8)]
    mask = np.array([[start <= t < end for t in range(10)] for start, end in spans])
    outputs = layer(x, mask=mask)
    for row, (start, end) in enumerate(spans):
        close(array(outputs)[row, start:end], array(layer(x[:, start:end]))[row])


def test_masked_places_give_zeros_and_do_not_move():
    layer = stirred(chunk_size=4, **OWN)
    x = data(2, 10, WIDTH)
    mask = np.array([list("0110010101"), list("1010101001")]) == "1"
    outputs, state = layer(x, mask=mask, return_state=True)
    expected, after = by_hand(layer, x, mask=mask)
    close(array(outputs)[mask], expected[mask])
    all_close(state, after)
    # Nothing of what stands there counts.
    other, same = layer(np.where(mask[..., None], x, 9), mask=mask, return_state=True)
    close(array(other)[mask], expected[mask])
    all_close(same, after)
    # Without a convolution it is as if the places were not there.
    layer = stirred(chunk_size=4, conv_width=1)
    outputs, state = layer(x, mask=mask, return_state=True)
    expected, after = layer(x[mask].reshape(2, 5, WIDTH), return_state=True)
    close(array(outputs)[mask], array(expected).reshape(10, WIDTH))
    close(state[1], array(after[1]))


def test_nothing_but_masked_places_leave_the_memory():
    layer = stirred()
    x = data(2, 10, WIDTH)
    _, state = layer(x, return_state=True)
    mask = np.zeros((2, 10), bool)
    _, after = layer(x, initial_state=state, mask=mask, return_state=True)
    np.testing.assert_array_equal(array(after[1]), array(state[1]))
    assert not array(after[0]).any()


def test_masks_arrive_and_are_handed_on():
    tokens = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(10, WIDTH, mask_zero=True)
    layer = stirred(chunk_size=4)
    outputs = layer(embedding(tokens))
    model = keras.Model(tokens, [outputs, keras.layers.GlobalAveragePooling1D()(outputs)])
    given = np.array([[0, 0, 0, 0, 0, 1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 0, 0, 0, 0, 0]])
    places, mean = (array(y) for y in model(given))
    alone = array(layer(embedding(given[given > 0].reshape(2, 5))))
    close(places[0, 5:], alone[0])
    close(places[1, :5], alone[1])
    close(mean, alone.mean(1))


def test_masks_arrive_beside_a_state():
    layer = stirred(chunk_size=4)
    tokens = np.array([[0, 0, 0, 0, 0, 1, 2, 3, 4, 5]] * 2)
    embedded = keras.layers.Embedding(10, WIDTH, mask_zero=True)(tokens)
    _, state = layer(data(2, 5, WIDTH), return_state=True)
    outputs, after = layer(embedded, initial_state=state, return_state=True)
    expected, told = layer(array(embedded), initial_state=state, mask=tokens > 0, return_state=True)
    close(outputs, array(expected))
    all_close(after, told)


def test_compute_mask():
    layer = built()
    mask = ops.ones((2, 5), dtype="bool")
    assert layer.compute_mask(data(2, 5, WIDTH), mask) is mask
    assert layer.compute_mask(data(2, 5, WIDTH)) is None


# Parity with another implementation.


@pytest.fixture
def mamba2():
    """Makes Hugging Face's Mamba-2, and our layer with its weights."""
    if BACKEND != "torch":
        pytest.skip("their implementation is for torch")
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()

    def make(groups, use_bias):
        torch.manual_seed(0)
        config = transformers.Mamba2Config(
            num_heads=4,
            head_dim=8,
            hidden_size=WIDTH,
            state_size=5,
            n_groups=groups,
            chunk_size=16,
            use_bias=use_bias,
        )
        theirs = Mamba2Mixer(config, layer_idx=0).eval()
        ours = built(num_groups=groups, use_bias=use_bias, chunk_size=8)
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
            ours.in_projection.kernel.assign(theirs.in_proj.weight.T)
            ours.out_projection.kernel.assign(theirs.out_proj.weight.T)
            if use_bias:
                ours.in_projection.bias.assign(theirs.in_proj.bias)
                ours.out_projection.bias.assign(theirs.out_proj.bias)
            ours.conv_kernel.assign(theirs.conv1d.weight[:, 0].T)
            ours.conv_bias.assign(theirs.conv1d.bias)
            ours.a_log.assign(theirs.A_log)
            ours.step_bias.assign(theirs.dt_bias)
            ours.skip.assign(theirs.D)
            ours.norm_scale.assign(theirs.norm.weight)
        return theirs, ours

    yield make
    transformers.logging.set_verbosity(verbosity)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("length", [1, 16, 37])
def test_same_outputs_as_transformers(mamba2, groups, use_bias, length):
    theirs, ours = mamba2(groups, use_bias)
    x = ops.convert_to_tensor(data(2, length, WIDTH))
    close(ours(x), array(theirs(x)), 1e-4)


def test_same_outputs_as_transformers_with_padding(mamba2):
    theirs, ours = mamba2(1, False)
    x = ops.convert_to_tensor(data(2, 20, WIDTH))
    mask = ops.convert_to_tensor(np.arange(20) >= np.array([[0], [6]]))
    expected = array(theirs(x, attention_mask=mask))
    outputs = array(ours(x, mask=mask))
    close(outputs[0], expected[0], 1e-4)
    close(outputs[1, 6:], expected[1, 6:], 1e-4)


# Where it starts.


def test_mimetic_start():
    layer = MimeticStateSpace(12, 8, num_groups=2, use_bias=True, seed=0, **MIMETIC)
    layer.build((None, None, 200))
    w = {name: np.float64(value) for name, value in values(layer).items()}
    heads, inner, shared = 50, 400, 24
    assert (w["in_projection/kernel"].shape, w["out_projection/kernel"].shape) == (
        (200, 2 * inner + 2 * shared + heads),
        (inner, 200),
    )
    b, c, steps = state_space.parts(2 * inner + 2 * shared + heads, heads, shared)
    kernel = w["in_projection/kernel"]
    correlations = [np.corrcoef(x, y)[0, 1] for x, y in zip(kernel.T[b], kernel.T[c], strict=True)]
    np.testing.assert_allclose(correlations, 0.9, atol=0.06)
    assert not kernel[:, steps].any()
    np.testing.assert_allclose(kernel[:, : steps.start].std(0) * math.sqrt(600), 1, atol=0.15)
    np.testing.assert_allclose(w["out_projection/kernel"].std() * math.sqrt(1200), 1, atol=0.02)
    np.testing.assert_array_equal(w["a_log"], np.full(heads, -8))
    np.testing.assert_allclose(np.logaddexp(0, w["step_bias"]), np.ones(heads), rtol=1e-6)
    np.testing.assert_array_equal(w["conv_kernel"], np.eye(4)[:, -1:] * np.ones(inner + 2 * shared))
    for name in ("conv_bias", "in_projection/bias", "out_projection/bias"):
        assert not w[name].any()
    for name in ("skip", "norm_scale"):
        np.testing.assert_array_equal(w[name], np.ones_like(w[name]))


def test_own_start():
    layer = MimeticStateSpace(state_dim=12, head_dim=1, seed=0, **OWN)
    layer.build((None, None, 200))
    w = {name: np.float64(value) for name, value in values(layer).items()}
    kernel = w["in_projection/kernel"]
    np.testing.assert_allclose(kernel.std(0) * math.sqrt(600), 1, atol=0.15)
    b, c, _ = state_space.parts(kernel.shape[1], 400, 12)
    assert abs(np.corrcoef(kernel[:, b].ravel(), kernel[:, c].ravel())[0, 1]) < 0.1
    for name in ("conv_kernel", "conv_bias"):
        assert 0.45 < abs(w[name]).max() <= 0.5
        assert w[name].std() == pytest.approx(0.5 / math.sqrt(3), rel=0.1)
    for found, low, high in (
        (np.exp(w["a_log"]), 1, 16),
        (np.log(np.logaddexp(0, w["step_bias"])), math.log(1e-3), math.log(1e-1)),
    ):
        assert low - 1e-5 < found.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < found.max() < high + 1e-5
    for name in ("skip", "norm_scale"):
        np.testing.assert_array_equal(w[name], np.ones_like(w[name]))


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ({"a_log": -8.0}, {"a_log"}),
        ({"step": 1.0}, {"step_bias", "in_projection/kernel"}),
        ({"correlation": 0.9}, {"in_projection/kernel"}),
        ({"convolution": "identity"}, {"conv_kernel", "conv_bias"}),
    ],
)
def test_each_part_changes_its_weights_alone(part, changed):
    plain, other = values(built(**OWN)), values(built(**{**OWN, **part}))
    assert set(plain) == WEIGHTS
    assert {name for name in WEIGHTS if (plain[name] != other[name]).any()} == changed
    (name,) = part
    _, c, steps = state_space.parts(plain["in_projection/kernel"].shape[1], 4, 5)
    columns = {"step": steps, "correlation": c}.get(name, slice(0))
    differ = (plain["in_projection/kernel"] != other["in_projection/kernel"]).any(0)
    np.testing.assert_array_equal(np.flatnonzero(differ), np.arange(len(differ))[columns])


@pytest.mark.parametrize("start", ["mimetic", "Mamba-2's own"])
def test_weights_are_those_of_the_structure_on_every_backend(start):
    layer = built(seed=42, num_groups=2, **STARTS[start])
    mimetic = start == "mimetic"
    expected = {
        "in_projection/kernel": state_space.in_projection(
            (WIDTH, 4 * WIDTH + 4 * 5 + 4),
            num_heads=4,
            shared=2 * 5,
            correlation=0.9 if mimetic else 0.0,
            has_steps=not mimetic,
            seed=42,
        ),
        "out_projection/kernel": state_space.out_projection((2 * WIDTH, WIDTH), seed=42),
        "conv_kernel": state_space.conv_kernel((4, 2 * WIDTH + 20), identity=mimetic, seed=42),
        "conv_bias": state_space.conv_bias((2 * WIDTH + 20,), taps=4, identity=mimetic, seed=42),
        "a_log": state_space.log_decays((4,), a_log=-8.0 if mimetic else None, seed=42),
        "step_bias": state_space.step_biases((4,), step=1.0 if mimetic else None, seed=42),
        "skip": np.ones(4, np.float32),
        "norm_scale": np.ones(2 * WIDTH, np.float32),
    }
    found = values(layer)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_seeds():
    first, same, other = (values(built(seed=seed, **OWN)) for seed in (3, 3, 4))
    for name in WEIGHTS - {"skip", "norm_scale"}:
        np.testing.assert_array_equal(first[name], same[name])
        assert (first[name] != other[name]).any()


def test_none_follows_set_random_seed():
    kernels = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        kernels.append(values(built(seed=None))["in_projection/kernel"])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


# As a Keras layer.


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
        step=0.5,
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
        | {"use_bias": True, "chunk_size": 9, "seed": 5, **OWN},
        {"state_dim": 4, "head_dim": 5, "expand": 3, "num_groups": 3, "conv_width": 2}
        | {"use_bias": False, "chunk_size": 8, "seed": None, **MIMETIC},
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


def test_states_in_a_functional_model(tmp_path):
    inputs = keras.Input((None, WIDTH))
    window, memory = (keras.Input(part.shape[1:]) for part in built().get_initial_state(1))
    layer = stirred(chunk_size=4)
    outputs, state = layer(inputs, initial_state=(window, memory), return_state=True)
    model = keras.Model((inputs, window, memory), (outputs, *state))
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


def test_int8_quantization_and_loading_it(tmp_path):
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
        ({"step": 0}, ValueError, "`step` must be None or a finite number > 0.*step=0"),
        ({"step": -1.0}, ValueError, "`step`.*Received: step=-1.0"),
        ({"step": math.nan}, ValueError, "`step`.*Received: step=nan"),
        ({"step": "auto"}, TypeError, "`step`.*Received: step='auto'"),
        ({"correlation": 1.1}, ValueError, r"`correlation`.*\[-1, 1\].*correlation=1.1"),
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
    with pytest.raises(ValueError):  # noqa: PT011
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
        (lambda window, memory: memory, "must be a pair of tensors"),
        (lambda window, memory: (window,), "must be a pair of tensors"),
        (lambda window, memory: (window, memory, memory), "must be a pair of tensors"),
        (lambda window, memory: (None, None), "pair of tensors.*: tuple of NoneType, NoneType"),
        (lambda window, memory: [0.0, 0], "pair of tensors.*Received: list of float, int"),
        (lambda window, memory: {"window": window}, "must be a pair of tensors"),
        (lambda window, memory: (memory, window), r"shapes \(2, 3, 42\) and \(2, 4, 8, 5\)"),
        (lambda window, memory: (window[:, 1:], memory), r"Received: \(2, 2, 42\)"),
        (lambda window, memory: (window, memory[:, :3]), r"Received: \(2, 3, 8, 5\)"),
        (lambda window, memory: (window, memory[0]), r"Received: \(4, 8, 5\)"),
        (lambda window, memory: (window[:1], memory[:1]), r"Received: \(1, 3, 42\)"),
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
