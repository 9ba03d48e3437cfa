import math

import keras
import numpy as np
import pytest
from state_space_checks import MIMETIC, OWN, STARTS, WEIGHTS, WIDTH, built, values

from keras_mimetic._numerics import state_space
from keras_mimetic.layers import MimeticStateSpace


def test_mimetic_start():
    layer = MimeticStateSpace(12, 8, num_groups=2, use_bias=True, seed=0, **MIMETIC)
    layer.build((None, None, 200))
    w = {name: np.float64(value) for name, value in values(layer).items()}
    heads, inner, bc_dim = 50, 400, 24
    assert (w["in_projection/kernel"].shape, w["out_projection/kernel"].shape) == (
        (200, 2 * inner + 2 * bc_dim + heads),
        (inner, 200),
    )
    b, c, dt = state_space.parts(2 * inner + 2 * bc_dim + heads, heads, bc_dim)
    kernel = w["in_projection/kernel"]
    correlations = [np.corrcoef(x, y)[0, 1] for x, y in zip(kernel.T[b], kernel.T[c], strict=True)]
    np.testing.assert_allclose(correlations, 0.9, atol=0.06)
    assert not kernel[:, dt].any()
    np.testing.assert_allclose(kernel[:, : dt.start].std(0) * math.sqrt(600), 1, atol=0.15)
    np.testing.assert_allclose(w["out_projection/kernel"].std() * math.sqrt(1200), 1, atol=0.02)
    np.testing.assert_array_equal(w["a_log"], np.full(heads, -8))
    np.testing.assert_allclose(np.logaddexp(0, w["dt_bias"]), np.ones(heads), rtol=1e-6)
    np.testing.assert_array_equal(w["conv_kernel"], np.eye(4)[:, -1:] * np.ones(inner + 2 * bc_dim))
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
        (np.log(np.logaddexp(0, w["dt_bias"])), math.log(1e-3), math.log(1e-1)),
    ):
        assert low - 1e-5 < found.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < found.max() < high + 1e-5
    for name in ("skip", "norm_scale"):
        np.testing.assert_array_equal(w[name], np.ones_like(w[name]))


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ({"a_log": -8.0}, {"a_log"}),
        ({"dt": 1.0}, {"dt_bias", "in_projection/kernel"}),
        ({"correlation": 0.9}, {"in_projection/kernel"}),
        ({"convolution": "identity"}, {"conv_kernel", "conv_bias"}),
    ],
)
def test_each_part_changes_its_weights_alone(part, changed):
    plain, other = values(built(**OWN)), values(built(**{**OWN, **part}))
    assert set(plain) == WEIGHTS
    assert {name for name in WEIGHTS if (plain[name] != other[name]).any()} == changed
    (name,) = part
    _, c, dt = state_space.parts(plain["in_projection/kernel"].shape[1], 4, 5)
    columns = {"dt": dt, "correlation": c}.get(name, slice(0))
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
            bc_dim=2 * 5,
            correlation=0.9 if mimetic else 0.0,
            input_dependent_dt=not mimetic,
            seed=42,
        ),
        "out_projection/kernel": state_space.out_projection((2 * WIDTH, WIDTH), seed=42),
        "conv_kernel": state_space.conv_kernel((4, 2 * WIDTH + 20), identity=mimetic, seed=42),
        "conv_bias": state_space.conv_bias((2 * WIDTH + 20,), taps=4, identity=mimetic, seed=42),
        "a_log": state_space.log_decays((4,), a_log=-8.0 if mimetic else None, seed=42),
        "dt_bias": state_space.dt_biases((4,), dt=1.0 if mimetic else None, seed=42),
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
