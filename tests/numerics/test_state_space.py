import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keras_mimetic._numerics import state_space

WIDTH, HEADS, BC_DIM = 48, 6, 40
INNER = 96
COLUMNS = 2 * INNER + 2 * BC_DIM + HEADS
B, C, DT = state_space.parts(COLUMNS, HEADS, BC_DIM)


def in_projection(correlation=0.0, input_dependent_dt=True, seed=0, width=WIDTH):
    return state_space.in_projection(
        (width, COLUMNS),
        num_heads=HEADS,
        bc_dim=BC_DIM,
        correlation=correlation,
        input_dependent_dt=input_dependent_dt,
        seed=seed,
    )


def own(seed):
    """Return every weight as Mamba-2 samples it, 4800 values each."""
    return {
        "in_projection": in_projection(seed=seed, width=4800 // COLUMNS),
        "a_log": state_space.log_decays((4800,), a_log=None, seed=seed),
        "dt_bias": state_space.dt_biases((4800,), dt=None, seed=seed),
        "conv_kernel": state_space.conv_kernel((4, 1200), identity=False, seed=seed),
        "conv_bias": state_space.conv_bias((4800,), taps=4, identity=False, seed=seed),
        "out_projection": state_space.out_projection((60, 80), seed=seed),
    }


def dt_of(bias):
    return np.logaddexp(0, bias.astype(np.float64))


def is_uniform(values, low, high):
    return stats.kstest(values.ravel(), stats.uniform(low, high - low).cdf).pvalue > 1e-4


def test_parts_are_the_last_columns_in_order():
    columns = np.arange(COLUMNS)
    parts = [columns[part] for part in (B, C, DT)]
    assert [part.size for part in parts] == [BC_DIM, BC_DIM, HEADS]
    np.testing.assert_array_equal(np.concatenate(parts), columns[2 * INNER :])


@given(st.integers(0, 2**130))
def test_own_projections_are_uniform_by_their_fan_in(seed):
    bound = 1 / math.sqrt(WIDTH)
    assert is_uniform(in_projection(seed=seed), -bound, bound)
    assert is_uniform(state_space.out_projection((200, 64), seed=seed), -(200**-0.5), 200**-0.5)


@given(st.integers(0, 2**130), st.integers(1, 6))
def test_own_convolution_is_uniform_by_its_taps(seed, taps):
    bound = 1 / math.sqrt(taps)
    kernel = state_space.conv_kernel((taps, 2000), identity=False, seed=seed)
    bias = state_space.conv_bias((5000,), taps=taps, identity=False, seed=seed)
    for values in (kernel, bias):
        assert is_uniform(values, -bound, bound)


@given(st.integers(0, 2**130))
def test_own_decays_are_uniform_from_1_to_16(seed):
    decays = np.exp(state_space.log_decays((5000,), a_log=None, seed=seed).astype(np.float64))
    assert is_uniform(decays, 1, 16)
    assert 1 - 1e-6 < decays.min() < decays.max() < 16 * (1 + 1e-6)


@given(st.integers(0, 2**130))
def test_own_dts_have_uniform_logarithms_from_a_thousandth_to_a_tenth(seed):
    dts = dt_of(state_space.dt_biases((5000,), dt=None, seed=seed))
    assert is_uniform(np.log(dts), math.log(1e-3), math.log(1e-1))
    assert 1e-3 * (1 - 1e-5) < dts.min() < dts.max() < 1e-1 * (1 + 1e-5)


@pytest.mark.parametrize("a_log", [-8.0, 0.0, 2.5])
def test_constant_decay(a_log):
    values = state_space.log_decays((5,), a_log=a_log, seed=0)
    np.testing.assert_array_equal(values, np.full(5, a_log, np.float32))


@given(st.floats(1e-6, 1e6))
def test_softplus_of_the_bias_is_dt(dt):
    bias = state_space.dt_biases((3,), dt=dt, seed=0)
    assert (bias == bias[0]).all()
    # Rounding the bias to float32 changes a small dt by the same amount, relative to dt.
    tolerance = max(1e-6, abs(bias[0]) * 2.0**-23)
    np.testing.assert_allclose(dt_of(bias), dt, rtol=tolerance)


@pytest.mark.parametrize("correlation", [-0.6, 0.0, 0.5, 0.9])
def test_correlation_of_c_with_b(correlation):
    kernel = in_projection(correlation, width=1000).astype(np.float64)
    b, c = kernel[:, B], kernel[:, C]
    found = np.corrcoef(b.T, c.T)[:BC_DIM, BC_DIM:]
    # Each column of C is correlated with its partner in B alone.
    np.testing.assert_allclose(np.diag(found), correlation, atol=0.15)
    assert np.diag(found).mean() == pytest.approx(correlation, abs=0.025)
    assert abs(found - np.diag(np.diag(found))).max() < 0.2


@given(st.floats(-1, 1), st.integers(0, 2**130))
def test_all_columns_have_the_variance_of_their_fan_in(correlation, seed):
    kernel = in_projection(correlation, seed=seed, width=1000).astype(np.float64)
    deviations = np.sqrt((kernel**2).mean(0)) * math.sqrt(3 * 1000)
    np.testing.assert_allclose(deviations, 1, atol=0.1)
    for part in (slice(0, B.start), B, C, DT):
        assert deviations[part].mean() == pytest.approx(1, abs=0.05 if part == DT else 0.02)


@pytest.mark.parametrize("correlation", [1.0, -1.0])
def test_full_correlation_copies_b(correlation):
    kernel = in_projection(correlation)
    np.testing.assert_array_equal(kernel[:, C], correlation * kernel[:, B])


def test_their_product_is_near_the_identity():
    kernel = in_projection(0.9, width=400).astype(np.float64)
    product = kernel[:, C].T @ kernel[:, B] * 3
    np.testing.assert_allclose(product, 0.9 * np.eye(BC_DIM), atol=0.25)
    assert np.trace(product) / BC_DIM == pytest.approx(0.9, abs=0.05)


def test_each_part_changes_its_columns_alone():
    plain = in_projection()
    correlated, constant = in_projection(correlation=0.9), in_projection(input_dependent_dt=False)
    assert (np.flatnonzero((correlated != plain).any(0)) == np.arange(C.start, C.stop)).all()
    np.testing.assert_array_equal(constant[:, : C.stop], plain[:, : C.stop])
    assert plain[:, DT].all()
    assert not constant[:, DT].any()


@pytest.mark.parametrize("taps", [1, 4])
def test_identity_hands_on_the_present(taps):
    kernel = state_space.conv_kernel((taps, 7), identity=True, seed=0)
    bias = state_space.conv_bias((7,), taps=taps, identity=True, seed=0)
    np.testing.assert_array_equal(kernel, np.eye(taps)[:, -1:] * np.ones(7))
    np.testing.assert_array_equal(bias, np.zeros(7))


def test_all_are_float32_of_the_given_shape():
    shapes = [(4800 // COLUMNS, COLUMNS), (4800,), (4800,), (4, 1200), (4800,), (60, 80)]
    constant = (
        state_space.log_decays((3,), a_log=-8.0, seed=0),
        state_space.dt_biases((3,), dt=1.0, seed=0),
        state_space.conv_kernel((2, 3), identity=True, seed=0),
        state_space.conv_bias((3,), taps=2, identity=True, seed=0),
        in_projection(0.9, input_dependent_dt=False),
    )
    assert [values.shape for values in own(0).values()] == shapes
    assert {values.dtype for values in (*own(0).values(), *constant)} == {np.dtype("float32")}


def test_seeds():
    first, same, other = own(3), own(3), own(4)
    for role, values in first.items():
        np.testing.assert_array_equal(values, same[role])
        assert (values != other[role]).mean() > 0.99


def test_roles_are_independent_of_one_another_and_of_other_seeds():
    ranks = [values.ravel()[:4500] for seed in (3, 4) for values in own(seed).values()]
    found = stats.spearmanr(np.stack(ranks, axis=1)).statistic
    assert abs(found - np.eye(len(ranks))).max() < 5 / math.sqrt(4500)


GOLDEN = {
    "in_projection": "6abade698b3fd367a4d8da639139e060",
    "conv_kernel": "ca3481522b3669c400ce0055a4dc2ad7",
    "conv_bias": "324696f2d868b5ea43ce7a7866574de9",
    "out_projection": "cc009119555be7d2a568e361a2b8ec19",
    "mimetic": "78481116c304f8f5cb6061d453b9992a",
}


@pytest.mark.parametrize("role", GOLDEN)
def test_golden_bits(role):
    draws = {**own(42), "mimetic": in_projection(0.9, input_dependent_dt=False, seed=42)}
    digest = hashlib.sha256(draws[role].astype("<f4").tobytes()).hexdigest()[:32]
    assert digest == GOLDEN[role]


def test_golden_decays_and_dts():
    # The last bit of a logarithm depends on the processor.
    decays = state_space.log_decays((3,), a_log=None, seed=42)
    biases = state_space.dt_biases((3,), dt=None, seed=42)
    np.testing.assert_allclose(decays, [2.2254412, 0.4350027, 0.3464949], rtol=1e-6)
    np.testing.assert_allclose(biases, [-5.9985833, -4.0361257, -5.5108776], rtol=1e-6)
