import math

import numpy as np
import pytest

from keras_mimetic._numerics.attention import query_key, value_output
from keras_mimetic._numerics.depthwise import (
    covariance,
    depthwise_filters,
    empirical_covariance,
    fit_sigma,
)
from keras_mimetic._numerics.mlp import effective_bias, energy_of_ones, standardized_mean
from keras_mimetic._numerics.products import diagonal, strengths


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_mean_is_in_standard_deviations_of_the_entries():
    matrix = 0.03 * (normals(64, 256) - 0.5)
    assert standardized_mean(matrix)[0] == pytest.approx(-0.5, abs=0.02)
    assert standardized_mean(1000 * matrix) == pytest.approx(standardized_mean(matrix))


def test_z_counts_input_channels_not_weights():
    # As in trained networks, each input channel has its own mean; their mean is zero.
    clustered, naive = [], []
    for seed in range(200):
        matrix = normals(32, 400, seed=seed) + 0.5 * normals(32, 1, seed=1000 + seed)
        clustered.append(standardized_mean(matrix)[1])
        naive.append(matrix.mean() / matrix.std() * math.sqrt(matrix.size))
    assert np.std(clustered) == pytest.approx(1, abs=0.15)
    assert np.std(naive) > 5


def test_undefined_means():
    assert all(math.isnan(x) for x in standardized_mean(np.full((4, 5), 0.1, np.float32)))
    mean, z = standardized_mean(np.array([[1.0, 2.0]]))
    assert (mean, math.isnan(z)) == (pytest.approx(3), True)
    assert math.isnan(energy_of_ones(np.zeros((3, 3)), axis=0))


@pytest.mark.parametrize("axis", [0, 1])
def test_energy_of_ones_is_relative_to_chance(axis):
    matrix = normals(24, 60)
    ones = np.ones(matrix.shape[axis]) / math.sqrt(matrix.shape[axis])
    along = np.tensordot(ones, matrix, (0, axis))
    chance = 1 / matrix.shape[axis]
    expected = (along**2).sum() / (matrix**2).sum() / chance
    assert energy_of_ones(matrix, axis) == pytest.approx(expected)
    assert energy_of_ones(np.ones((24, 60)), axis) == pytest.approx(matrix.shape[axis])


@pytest.mark.parametrize("centered", [True, False])
def test_effective_bias_equals_that_of_the_pre_activations(centered):
    channels, units, count = 48, 20, 200_000
    n = normals(count, channels)
    if centered:  # as a LayerNorm makes it
        n -= n.mean(axis=1, keepdims=True)
        n /= n.std(axis=1, keepdims=True)
    # A large mean, which must have no effect after a LayerNorm.
    matrix = normals(channels, units, seed=1) - 2
    gamma, beta = 1 + 0.3 * normals(channels, seed=2), 0.2 * normals(channels, seed=3)
    bias = 0.5 * normals(units, seed=4)
    x = (n * gamma + beta) @ matrix + bias
    measured = effective_bias(matrix, bias, gamma, beta, centered=centered)
    np.testing.assert_allclose(measured, x.mean(axis=0) / x.std(axis=0), rtol=0.03, atol=0.01)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20])
def test_figures_do_not_depend_on_the_scale(scale):
    matrix = normals(20, 60).astype("float32") + np.float32(0.1)
    scaled = (matrix * scale).astype("float32")
    for axis in (0, 1):
        assert energy_of_ones(scaled, axis) == pytest.approx(energy_of_ones(matrix, axis), rel=1e-4)
    assert standardized_mean(scaled) == pytest.approx(standardized_mean(matrix), rel=1e-4)
    assert diagonal(scaled, scaled.T) == pytest.approx(diagonal(matrix, matrix.T), rel=1e-4)


def test_channels_with_equal_means_have_no_z():
    mean, z = standardized_mean(np.tile(normals(1, 7).astype("float32") + 3, (30, 1)))
    assert mean > 1
    assert math.isnan(z)


def test_effective_bias_without_gamma_beta_or_bias():
    matrix = normals(8, 3)
    assert effective_bias(matrix, None, None, None, centered=True).tolist() == [0, 0, 0]
    np.testing.assert_allclose(
        effective_bias(matrix, np.ones(3), None, None, centered=False),
        1 / np.linalg.norm(matrix, axis=0),
    )
    dead = np.zeros((8, 3))
    assert np.isnan(effective_bias(dead, np.ones(3), None, None, centered=False)).all()


@pytest.mark.parametrize(("count", "rank"), [(30, 4), (30, 30), (12, 20), (2, 1)])
def test_diagonal_equals_that_of_the_product(count, rank):
    left, right = normals(count, rank), normals(rank, count, seed=1)
    product = left @ right
    off = product[~np.eye(count, dtype=bool)]
    assert diagonal(left, right) == pytest.approx(product.diagonal().mean() / off.std())


def test_undefined_diagonals():
    assert math.isnan(diagonal(np.ones((1, 4)), np.ones((4, 1))))
    assert math.isnan(diagonal(np.zeros((5, 2)), np.zeros((2, 5))))
    assert math.isnan(diagonal(np.eye(5), np.eye(5)))


STRENGTHS = [(0.7, 0.7), (0.4, -0.4), (1.0, 0.1), (0.1, 1.0), (0.7, 0.0), (0.0, -0.7)]


@pytest.mark.parametrize(("noise", "identity"), STRENGTHS)
@pytest.mark.parametrize(("dim", "rank"), [(64, 32), (192, 64), (300, 10), (400, 33)])
def test_strengths_of_query_and_key_are_recovered(noise, identity, dim, rank):
    w_query, w_key = query_key(dim, dim, 1, rank, noise=noise, identity=identity, seed=7)
    found = strengths(w_query[:, 0], w_key[:, 0].T)
    assert found == pytest.approx((noise, identity), abs=0.03)
    assert strengths(2 * w_query[:, 0], 5 * w_key[:, 0].T) == pytest.approx(
        (10 * found[0], 10 * found[1])
    )


@pytest.mark.parametrize(("noise", "identity"), STRENGTHS)
@pytest.mark.parametrize(("heads", "head_dim"), [(4, 16), (2, 16), (4, 32)])
def test_strengths_of_value_and_output_are_recovered(noise, identity, heads, head_dim):
    value, output = value_output(64, 64, heads, head_dim, noise=noise, identity=identity, seed=7)
    found = strengths(value.reshape(64, -1), output.reshape(-1, 64))
    assert found == pytest.approx((noise, identity), abs=0.03)


@pytest.mark.parametrize(("dim", "rank"), [(3, 1), (8, 1), (16, 2), (100, 1)])
def test_strengths_of_small_products_are_recovered_on_average(dim, rank):
    w_query, w_key = query_key(dim, dim, 300, rank, noise=0.7, identity=0.7, seed=7)
    found = [strengths(w_query[:, h], w_key[:, h].T) for h in range(300)]
    assert np.median(found, axis=0) == pytest.approx((0.7, 0.7), abs=0.15)


def test_strengths_of_noise_and_of_zeros():
    # Factors of independent normals are noise alone.
    noise, identity = strengths(normals(128, 16), normals(16, 128, seed=1))
    assert noise > 10 * abs(identity)
    assert all(math.isnan(x) for x in strengths(np.zeros((8, 2)), np.zeros((2, 8))))


@pytest.mark.parametrize("sigma", [0.02, 0.08, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("kernel_size", [(3, 3), (7, 7), (5, 3), (9,), (3, 3, 3)])
def test_sigma_of_the_closed_form_is_recovered(sigma, kernel_size):
    form = covariance(kernel_size, sigma)
    found, quality = fit_sigma(3 * form, kernel_size)
    assert quality == pytest.approx(1, abs=1e-4)
    # Narrow forms are almost equal: a single pixel at the center.
    if sigma >= 0.08:
        assert found == pytest.approx(sigma, rel=0.03)


def test_sigma_of_sampled_filters_is_recovered():
    for sigma in (0.3, 1.0, 3.0):
        filters = depthwise_filters((7, 7), 384, sigma=sigma, rms=0.2, seed=1)
        found, quality = fit_sigma(empirical_covariance(filters), (7, 7))
        assert found == pytest.approx(sigma, rel=0.1)
        assert quality > 0.95
    assert fit_sigma(empirical_covariance(normals(7, 7, 384)), (7, 7))[1] < 0.2
    assert all(math.isnan(x) for x in fit_sigma(np.zeros((9, 9)), (3, 3)))


def test_smooth_covariance_is_distinguished_from_the_closed_form():
    centered = covariance((7, 7), 1.0)
    assert fit_sigma(centered, (7, 7))[1] > fit_sigma(centered, (7, 7), centered=False)[1] + 0.2
    rows = np.stack(np.meshgrid(*[np.arange(7.0)] * 2), axis=-1).reshape(49, 2)
    apart = ((rows[:, None] - rows[None]) ** 2).sum(2)
    smooth = np.exp(-apart / (2 * 1.7))
    found, quality = fit_sigma(smooth, (7, 7), centered=False)
    assert found == pytest.approx(1.7, rel=0.02)
    assert quality == pytest.approx(1, abs=1e-4)
    assert fit_sigma(smooth, (7, 7))[1] < 0.9


def test_large_filters_are_fitted_on_a_coarser_grid():
    for sigma in (0.5, 4.0, 30.0):
        found, quality = fit_sigma(covariance((17, 17), sigma), (17, 17))
        assert found == pytest.approx(sigma, rel=0.1)
        assert quality > 0.99


def test_covariance_is_about_the_mean_filter():
    filters = normals(3, 3, 50)
    np.testing.assert_allclose(
        empirical_covariance(filters + 5), empirical_covariance(filters), atol=1e-12
    )
