import hashlib
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keras_mimetic._numerics import threads
from keras_mimetic._numerics.normal import to_normals, to_truncated_normals
from keras_mimetic._numerics.random import DISTRIBUTIONS, fold_in, sample

CUT = stats.truncnorm(-2, 2)
EXPECTED = {
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "truncated_normal": stats.truncnorm(-2, 2, scale=1 / CUT.std()),
    "untruncated_normal": stats.norm(),
}

seeds = st.integers(0, 2**130)
distributions = st.sampled_from(DISTRIBUTIONS)


def test_every_distribution_is_tested():
    assert set(EXPECTED) == set(DISTRIBUTIONS)


@given(distributions, seeds)
def test_distribution(distribution, seed):
    values = sample(distribution, (50_000,), seed)
    assert values.dtype == np.float32
    assert stats.kstest(values, EXPECTED[distribution].cdf).pvalue > 1e-5
    assert abs(values.mean(dtype="f8")) < 5 / math.sqrt(values.size)
    assert abs(values.std(dtype="f8") - 1) < 5 / math.sqrt(values.size)


@given(distributions, seeds, st.floats(-5, 5), st.floats(0.01, 10))
def test_mean_and_std_are_absolute(distribution, seed, mean, std):
    unit = sample(distribution, (1000,), seed).astype("f8")
    values = sample(distribution, (1000,), seed, mean=mean, std=std)
    np.testing.assert_allclose(values, mean + std * unit, rtol=1e-5, atol=1e-6 * (1 + abs(mean)))


def test_values_are_bounded():
    size = 4_000_000
    assert abs(sample("uniform", (size,), 0)).max() <= np.float32(math.sqrt(3))
    assert abs(sample("truncated_normal", (size,), 0)).max() <= np.float32(2 / CUT.std())
    assert 4.5 < abs(sample("untruncated_normal", (size,), 0)).max() < 5.43


def grid(first, step=1):
    """Return the uniforms of the generator's grid from a number > 0 to 1."""
    numbers = np.r_[first : 2**23 : step, 2**23 - 100 : 2**23]
    return ((2 * numbers + 1) / 2**24).astype(np.float32)


def test_transformation_is_the_inverse_distribution_function():
    # The whole range of the generator's grid, including both ends.
    for x in (grid(0, 997), -grid(0, 997)):
        expected = np.array(
            [statistics.NormalDist().inv_cdf(0.5 + value / 2) for value in x.tolist()]
        )
        np.testing.assert_allclose(to_normals(x), expected, rtol=3e-6)


def test_largest_values_are_within_the_documented_bounds():
    # The functions are odd, and the last part of the grid has the largest values.
    x = grid(2**23 - 2**16)
    assert 5.41 < to_normals(x).max() < 5.42
    assert 1.99 < to_truncated_normals(x).max() <= 2


@given(distributions, seeds, st.integers(0, 200_000), st.integers(0, 700_000))
def test_a_value_does_not_depend_on_the_size_of_the_sample(distribution, seed, size, more):
    whole = sample(distribution, (size + more,), seed)
    np.testing.assert_array_equal(sample(distribution, (size,), seed), whole[:size])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_threads_do_not_change_the_result(distribution, monkeypatch):
    samples = []
    for number in (1, 5):
        monkeypatch.setattr(threads, "processors", lambda number=number: number)
        samples.append(sample(distribution, (3, 511_111), 7))
    np.testing.assert_array_equal(*samples)


@given(seeds)
def test_raw_bits_are_philox(seed):
    # The guarantee of the module's docstring, through NumPy's public API.
    key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    words = np.random.Philox(key=key).random_raw(8).astype("<u8").view("<i4")
    expected = (2 * (words >> 8).astype("f8") + 1) / 2**24
    uniform = sample("uniform", (16,), seed, std=1 / math.sqrt(3))
    np.testing.assert_allclose(uniform, expected, rtol=1e-7)


def test_neighboring_seeds_and_sub_streams_are_independent():
    streams = [0, 1, 2**64, fold_in(0), fold_in(0, 0), fold_in(0, 1)]
    streams += [fold_in(1, 0), fold_in(0, 0, 1), fold_in(0, 1, 0)]
    values = np.stack([sample("untruncated_normal", (100_000,), seed) for seed in streams])
    correlations = np.corrcoef(values) - np.eye(len(streams))
    assert abs(correlations).max() < 5 / math.sqrt(values.shape[1])


def test_fold_in_returns_an_integer_of_128_bits():
    children = {fold_in(5, number) for number in range(1000)}
    assert len(children) == 1000
    assert all(type(child) is int and 0 <= child < 2**128 for child in children)
    assert max(children) > 2**120


def test_empty_shapes():
    assert sample("uniform", (), 0).shape == ()
    assert sample("uniform", (0, 3), 0).shape == (0, 3)


# Pinned by the first version; they must never change.
GOLDEN = {
    ("uniform", 0): "5f354b7ac90b9be382cb8878a9e3d2de",
    ("uniform", 2**100): "820d17f63c7463b524f0accbc4bf4130",
    ("truncated_normal", 0): "c2c346024e575558c039ed9e14d2572c",
    ("truncated_normal", 2**100): "40874748c129ebf11c44350f3c821a70",
    ("untruncated_normal", 0): "272a9d5ac40aaa7712da6e3fa40941e9",
    ("untruncated_normal", 2**100): "59093c9f07bdabf7bebe5307f2a5ff20",
}


@pytest.mark.parametrize(("distribution", "seed"), GOLDEN)
def test_golden_bits(distribution, seed):
    values = sample(distribution, (1000, 1001), seed).astype("<f4")
    assert hashlib.sha256(values.tobytes()).hexdigest()[:32] == GOLDEN[distribution, seed]


@pytest.mark.parametrize(
    ("seed", "error"),
    [
        (True, TypeError),
        (False, TypeError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
        ([1], TypeError),
        (np.array([1, 2]), TypeError),
        (np.float32(1), TypeError),
        (np.bool_(True), TypeError),
        (-1, ValueError),
        (np.int64(-1), ValueError),
    ],
)
def test_bad_seeds(seed, error):
    with pytest.raises(error, match=r"`seed`.*integer >= 0.*Received: seed="):
        sample("uniform", (2,), seed)


def test_numpy_integers_are_seeds():
    for kind in (np.int32, np.uint8, np.int64, np.uint64):
        np.testing.assert_array_equal(sample("uniform", (4,), kind(7)), sample("uniform", (4,), 7))


def test_bad_distributions_and_shapes():
    with pytest.raises(ValueError, match="`distribution`.*'uniform'.*Received: distribution='x'"):
        sample("x", (2,), 0)
    with pytest.raises(ValueError, match=r"`shape`.*Received: shape=\(2, None\)"):
        sample("uniform", (2, None), 0)
    with pytest.raises(ValueError, match="`shape`.*Received: shape=-1"):
        sample("uniform", (2, -1), 0)
    with pytest.raises(TypeError, match="`shape`.*Received: shape=2.5"):
        sample("uniform", (2, 2.5), 0)
    with pytest.raises(TypeError, match="`shape`.*Received: shape=3"):
        sample("uniform", 3, 0)
