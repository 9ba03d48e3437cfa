import math

import keras
import numpy as np
import pytest
from keras import ops
from keras_checks import traced
from state_space_checks import (
    BACKEND,
    OWN,
    STARTS,
    WIDTH,
    all_close,
    array,
    built,
    by_hand,
    by_steps,
    close,
    data,
    stirred,
)

starts = pytest.mark.parametrize("start", STARTS)


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


class StepByStep(keras.layers.Layer):
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
    expected = list(gradients(built(**settings), StepByStep))
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
    # Over an empty sequence it does not change; and no part of it is rounded.
    _, same = layer(data(2, 0, WIDTH), initial_state=state, return_state=True)
    for mine, theirs in zip(same, state, strict=True):
        np.testing.assert_array_equal(array(mine), array(theirs))


def test_initial_state():
    layer = stirred()
    x = data(2, 10, WIDTH)
    conv_state, ssm_state = layer.get_initial_state(2)
    assert conv_state.shape == (2, 3, 2 * WIDTH + 2 * 5)
    assert ssm_state.shape == (2, 4, 8, 5)
    assert not array(conv_state).any()
    assert not array(ssm_state).any()
    np.testing.assert_array_equal(
        array(layer(x, initial_state=(conv_state, ssm_state))), array(layer(x))
    )


@pytest.mark.parametrize(("a_log", "dt"), [(-8.0, 1.0), (-3.0, 0.5), (0.0, 0.1)])
def test_keeps_what_a_log_and_dt_say(a_log, dt):
    layer = built(a_log=a_log, dt=dt, chunk_size=4)
    x = np.zeros((2, 10, WIDTH), "float32")
    x[:, 0] = data(2, WIDTH)
    _, (_, first) = layer(x[:, :1], return_state=True)
    _, (_, last) = layer(x, return_state=True)
    close(last, array(first) * math.exp(-math.exp(a_log) * dt * 9))


# Masks.


@pytest.mark.parametrize("start", ["mimetic", "Mamba-2's own"])
@pytest.mark.parametrize(("left", "right"), [(0, 5), (5, 0), (1, 4)])
def test_padding_changes_nothing(start, left, right):
    layer = stirred(chunk_size=4, **STARTS[start])
    x, padded = data(2, 5, WIDTH), data(2, 10, WIDTH, seed=1)
    positions = slice(left, 10 - right)
    padded[:, positions] = x
    mask = np.zeros((2, 10), bool)
    mask[:, positions] = True
    expected, after = layer(x, return_state=True)
    outputs, state = layer(padded, mask=mask, return_state=True)
    close(array(outputs)[:, positions], array(expected))
    # On either side: what comes next is what comes after the sequence.
    all_close(state, after)
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


def test_masked_positions_give_zeros_and_do_not_move():
    layer = stirred(chunk_size=4, **OWN)
    x = data(2, 10, WIDTH)
    mask = np.array([list("0110010101"), list("1010101001")]) == "1"
    outputs, state = layer(x, mask=mask, return_state=True)
    expected, after = by_hand(layer, x, mask=mask)
    close(array(outputs)[mask], expected[mask])
    all_close(state, after)
    # Masked values do not matter.
    for padding in (9, np.nan):
        padded = np.float32(np.where(mask[..., None], x, padding))
        other, same = layer(padded, mask=mask, return_state=True)
        close(array(other)[mask], expected[mask])
        all_close(same, after)
    # Without a convolution it is as if these positions were not there.
    layer = stirred(chunk_size=4, conv_width=1)
    outputs, state = layer(x, mask=mask, return_state=True)
    expected, after = layer(x[mask].reshape(2, 5, WIDTH), return_state=True)
    close(array(outputs)[mask], array(expected).reshape(10, WIDTH))
    close(state[1], array(after[1]))


def test_goes_on_from_sequences_of_their_own_lengths():
    layer = stirred(chunk_size=4)
    x, y = data(3, 7, WIDTH), data(3, WIDTH, seed=1)
    # Shorter than the convolution, too, and empty.
    lengths = [7, 2, 0]
    before = layer(data(3, 3, WIDTH, seed=2), return_state=True)[1]
    mask = np.arange(7) < np.array(lengths)[:, None]
    _, state = layer(x, initial_state=before, mask=mask, return_state=True)
    following = array(layer.step(y, state)[0])
    for row, length in enumerate(lengths):
        own = [part[row : row + 1] for part in before]
        _, own = layer(x[row : row + 1, :length], initial_state=own, return_state=True)
        close(following[row : row + 1], array(layer.step(y[row : row + 1], own)[0]))


def test_nothing_but_masked_positions_leave_the_state():
    layer = stirred()
    x = data(2, 10, WIDTH)
    _, state = layer(x, return_state=True)
    mask = np.zeros((2, 10), bool)
    _, after = layer(x, initial_state=state, mask=mask, return_state=True)
    for part, same in zip(state, after, strict=True):
        np.testing.assert_array_equal(array(same), array(part))


@pytest.mark.skipif(BACKEND != "torch", reason="a device without values is torch's")
def test_all_tensors_are_on_the_device_of_the_inputs():
    with keras.device("meta"):
        x, mask = ops.zeros((2, 10, WIDTH)), ops.ones((2, 10), dtype="bool")
        layer = built()
        outputs, state = layer(x, mask=mask, return_state=True)
    assert {tensor.device.type for tensor in (outputs, *state)} == {"meta"}


def test_padding_of_nan_gives_no_gradient_of_nan():
    layer = stirred(chunk_size=4, use_bias=True)
    mask = np.ones((2, 9), bool)
    mask[0, 6:] = mask[1, :2] = False
    x = data(2, 9, WIDTH)
    moved = []
    for padding in (0.0, np.nan):
        inputs, masks = keras.Input((9, WIDTH)), keras.Input((9,), dtype="bool")
        own = stirred(chunk_size=4, use_bias=True)
        model = keras.Model([inputs, masks], own(inputs, mask=masks))
        model.compile(keras.optimizers.SGD(1.0), "mse")
        padded = np.float32(np.where(mask[..., None], x, padding))
        model.train_on_batch([padded, mask], np.ones_like(x), sample_weight=np.float32(mask))
        moved.append([array(weight) for weight in own.weights])
    for weight, zeros, nans in zip(layer.weights, *moved, strict=True):
        assert (zeros != array(weight)).any(), weight.path
        np.testing.assert_allclose(nans, zeros, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mask", [None, np.arange(10) >= np.array([[3], [0]])])
def test_reads_backwards_what_a_reversed_sequence_is(mask):
    layer, backwards = stirred(chunk_size=4), stirred(chunk_size=4, go_backwards=True)
    x = data(2, 10, WIDTH)
    flipped = None if mask is None else mask[:, ::-1]
    expected = layer(x[:, ::-1], mask=flipped, return_state=True)
    outputs, state = backwards(x, mask=mask, return_state=True)
    close(outputs, array(expected[0]))
    all_close(state, expected[1])
    if mask is not None:
        kept = backwards.compute_mask(x, ops.convert_to_tensor(mask))
        np.testing.assert_array_equal(ops.convert_to_numpy(kept), flipped)


def test_masks_arrive_and_are_handed_on():
    tokens = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(10, WIDTH, mask_zero=True)
    layer = stirred(chunk_size=4)
    outputs = layer(embedding(tokens))
    model = keras.Model(tokens, [outputs, keras.layers.GlobalAveragePooling1D()(outputs)])
    given = np.array([[0, 0, 0, 0, 0, 1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 0, 0, 0, 0, 0]])
    outputs, mean = (array(y) for y in model(given))
    alone = array(layer(embedding(given[given > 0].reshape(2, 5))))
    close(outputs[0, 5:], alone[0])
    close(outputs[1, :5], alone[1])
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
        ours = built(num_groups=groups, use_bias=use_bias, chunk_size=8)
        theirs = Mamba2Mixer(config, layer_idx=0).eval().to(ours.skip.value.device)
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
            ours.dt_bias.assign(theirs.dt_bias)
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
