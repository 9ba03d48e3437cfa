"""What tests of `MimeticStateSpace` share: layers, and what they compute, by hand."""

import keras
import numpy as np
from keras import ops

from keras_mimetic.layers import MimeticStateSpace

BACKEND = keras.backend.backend()
WIDTH = 16
# All parts of the structure on, and off.
MIMETIC = {"a_log": -8.0, "dt": 1.0, "correlation": 0.9, "convolution": "identity"}
OWN = {"a_log": None, "dt": None, "correlation": None, "convolution": None}
STARTS = {
    "mimetic": MIMETIC,
    "Mamba-2's own": OWN,
    "strong decay": {"a_log": 2.5, "dt": 0.5},
    "large dt": {"a_log": -3.0, "dt": 50.0},
}
WEIGHTS = {
    "in_projection/kernel",
    "out_projection/kernel",
    "conv_kernel",
    "conv_bias",
    "a_log",
    "dt_bias",
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


def recurrence(x, dt, a, b, c, state):
    """What `chunk_scan` computes, position by position in float64."""
    x, dt, a, b, c, state = (np.float64(z) for z in (x, dt, a, b, c, state))
    b, c = (np.repeat(z, x.shape[2] // z.shape[2], axis=2) for z in (b, c))
    y = np.empty(x.shape)
    for t in range(x.shape[1]):
        state = np.exp(dt[:, t] * a)[..., None, None] * state
        state = state + np.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], b[:, t])
        y[:, t] = np.einsum("bhpn,bhn->bhp", state, c[:, t])
    return y, state


def by_hand(layer, inputs, state=None, mask=None):
    """The whole layer so, after the equations of its docstring: outputs and state."""
    w = {name: np.float64(value) for name, value in values(layer).items()}
    (batch, length, width), taps = inputs.shape, layer.conv_width
    inner, bc_dim = layer.expand * width, layer.num_groups * layer.state_dim
    mask = np.ones((batch, length)) if mask is None else np.float64(mask)

    def silu(z):
        return z / (1 + np.exp(-z))

    projected = inputs.astype(float) @ w["in_projection/kernel"] + w.get("in_projection/bias", 0)
    gate, convolved, dt = np.split(projected, (inner, 2 * inner + 2 * bc_dim), axis=-1)
    conv_state, ssm_state = (np.float64(array(z)) for z in state or layer.get_initial_state(batch))
    seen = np.concatenate((conv_state, convolved * mask[..., None]), axis=1)
    convolved = np.zeros_like(convolved)
    for t in range(length):
        convolved[:, t] = (w["conv_kernel"] * seen[:, t : t + taps]).sum(1) + w["conv_bias"]
    x, b, c = np.split(silu(convolved), (inner, inner + bc_dim), axis=-1)
    x = x.reshape(batch, length, inner // layer.head_dim, layer.head_dim)
    b, c = (z.reshape(batch, length, layer.num_groups, layer.state_dim) for z in (b, c))
    dt = np.logaddexp(0, dt + w["dt_bias"]) * mask[..., None]
    y, ssm_state = recurrence(x, dt, -np.exp(w["a_log"]), b, c, ssm_state)
    y = (y + w["skip"][:, None] * x).reshape(batch, length, inner) * silu(gate)
    y = y.reshape(batch, length, layer.num_groups, inner // layer.num_groups)
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
    y = y.reshape(batch, length, inner) * w["norm_scale"]
    outputs = y @ w["out_projection/kernel"] + w.get("out_projection/bias", 0)
    # Up to the last unmasked position of each sequence.
    ends = [max(np.flatnonzero(row), default=-1) + 1 for row in mask]
    conv_state = [row[end : end + taps - 1] for row, end in zip(seen, ends, strict=True)]
    return outputs, (np.stack(conv_state) if batch else seen[:, length:], ssm_state)


def by_steps(layer, inputs, state=None):
    """Return outputs and state after `step` for each position."""
    state = layer.get_initial_state(ops.shape(inputs)[0]) if state is None else state
    outputs = []
    for t in range(inputs.shape[1]):
        y, state = layer.step(inputs[:, t], state)
        outputs.append(y)
    return ops.stack(outputs, axis=1), state
