import itertools
import math

import numpy as np
import pytest

from keras_mimetic._numerics.depthwise import (
    covariance,
    depthwise_filters,
    sigma_at_depth,
)
from keras_mimetic._numerics.random import sample

GOLDEN = [
    [0.3288263976573944, 0.552915632724762],
    [0.05882801488041878, 1.646453857421875],
    [-0.1707736700773239, 1.7487467527389526],
]


def by_the_formula(kernel_size, sigma):
    """Compute Sigma pixel by pixel, by the documented formula."""
    pixels = list(itertools.product(*(range(size) for size in kernel_size)))
    center = [(size - 1) / 2 for size in kernel_size]

    def g(i, j):
        return math.exp(-sum((a - b) ** 2 for a, b in zip(i, j, strict=True)) / (2 * sigma))

    count = len(pixels)
    m = np.array([[g(i, center) * (g(i, j) - g(j, center) / 2) for j in pixels] for i in pixels])
    values, vectors = np.linalg.eigh((m + m.T) / 2)
    nearest = (vectors * np.maximum(values, 0)) @ vectors.T
    assert nearest.shape == (count, count)
    return nearest / np.trace(nearest)


@pytest.mark.parametrize("kernel_size", [(3,), (4,), (5, 5), (2, 3), (7, 7), (3, 3, 3)])
@pytest.mark.parametrize("sigma", [0.08, 0.5, 1.9, 10.0])
def test_covariance_equals_the_formula(kernel_size, sigma):
    expected = by_the_formula(kernel_size, sigma)
    np.testing.assert_allclose(covariance(kernel_size, sigma), expected, atol=1e-10)


@pytest.mark.parametrize("kernel_size", [(1,), (2, 2), (5, 5), (9,)])
@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 0.3, 100.0, 1e6])
def test_covariance_is_valid_at_any_width(kernel_size, sigma):
    c = covariance(kernel_size, sigma)
    assert np.isfinite(c).all()
    np.testing.assert_allclose(c, c.T, atol=1e-12)
    assert np.linalg.eigvalsh(c).min() > -1e-12
    assert np.trace(c) == pytest.approx(1)


def test_narrow_filters_are_one_pixel_and_wide_ones_are_smooth():
    narrow = covariance((5, 5), 0.02)
    assert narrow[12, 12] == pytest.approx(1, abs=1e-6)
    wide = covariance((5, 5), 1.9)
    neighbors = wide[12, 13] / math.sqrt(wide[12, 12] * wide[13, 13])
    assert neighbors > 0.5
    far = wide[0, 24] / math.sqrt(wide[0, 0] * wide[24, 24])
    assert abs(far) < 0.5 * neighbors


@pytest.mark.parametrize("sigma", [0.08, 0.75, 1.9])
def test_covariance_of_sampled_filters(sigma):
    count = 100_000
    filters = depthwise_filters((3, 3), count, sigma=sigma, rms=1.0, seed=1)
    assert filters.shape == (3, 3, count)
    flat = filters.reshape(9, count).astype(np.float64)
    expected = 9 * by_the_formula((3, 3), sigma)
    # Standard error of a covariance: sqrt((C_ii C_jj + C_ij^2) / n).
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / count)
    assert (np.abs(flat @ flat.T / count - expected) < 5 * error + 1e-9).all()
    assert (np.abs(flat.mean(1)) < 5 * np.sqrt(np.diag(expected) / count) + 1e-9).all()
    # Filters are independent of one another.
    assert np.abs((flat[:, 1:] * flat[:, :-1]).mean(1)).max() < 5 * 9 / math.sqrt(count)


def test_scale_and_seed():
    a = depthwise_filters((5, 5), 4000, sigma=0.5, rms=0.3, seed=7)
    assert math.sqrt((a**2).mean()) == pytest.approx(0.3, rel=0.02)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, depthwise_filters((5, 5), 4000, sigma=0.5, rms=0.3, seed=7))
    assert (a != depthwise_filters((5, 5), 4000, sigma=0.5, rms=0.3, seed=8)).all()
    # The first filters do not depend on how many follow.
    few = depthwise_filters((5, 5), 10, sigma=0.5, rms=0.3, seed=7)
    np.testing.assert_allclose(few, a[..., :10], rtol=1e-6, atol=1e-8)


def test_golden_filters():
    # Pinned, to detect a change of the stream or of the root.
    filters = depthwise_filters((3,), 2, sigma=0.5, rms=1.0, seed=0)
    np.testing.assert_allclose(filters, GOLDEN, atol=1e-6)
    # They are the symmetric root of Sigma times the documented samples.
    values, vectors = np.linalg.eigh(3 * by_the_formula((3,), 0.5))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    z = sample("untruncated_normal", (2, 3), 0)
    np.testing.assert_allclose(filters, root @ z.T, atol=1e-6)


def test_sigma_at_depth():
    assert sigma_at_depth(0) == pytest.approx(0.08)
    assert sigma_at_depth(1) == pytest.approx(0.08 + 0.37 + 1.45)
    assert sigma_at_depth(0.5, sigma_0=1, velocity=2, acceleration=4) == pytest.approx(2.5)
    for x in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`x` must be .* >= 0 and <= 1. Received: x="):
            sigma_at_depth(x)
    with pytest.raises(TypeError, match="`x` must be a finite number .*x='deep'"):
        sigma_at_depth("deep")
    with pytest.raises(TypeError, match="velocity=None"):
        sigma_at_depth(0.5, velocity=None)
