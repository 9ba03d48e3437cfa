import functools

import numpy as np
import pytest
from scipy.stats import beta, ks_2samp, kstest

from keras_mimetic._numerics import noise_plus_identity, threads
from keras_mimetic._numerics.attention import query_key, value_output
from keras_mimetic._numerics.noise_plus_identity import (
    NoisePlusIdentity,
    factors,
    framed,
    sampled_core,
    shared_core,
)
from keras_mimetic._numerics.random import sample
from keras_mimetic._numerics.random_frame import random_frame

SAMPLES = 300


def product(pair):
    left, right = pair
    return left.astype(np.float64) @ right.astype(np.float64)


def figures(p):
    """Return figures that characterize the distribution of a product."""
    values = np.linalg.svd(p, compute_uv=False)
    rank = (values > 1e-4).sum()
    diagonal = p.diagonal()
    square = p[: min(p.shape), : min(p.shape)]
    return {
        "an entry of the diagonal": diagonal[0],
        "another": diagonal[-1],
        "mean of the diagonal": diagonal.mean(),
        "standard deviation of the diagonal": diagonal.std(),
        "an entry off it": p[0, 1],
        "standard deviation of the entries": p.std(),
        "symmetry": (square * square.T).sum() / (square**2).sum(),
        "largest singular value": values[0],
        "smallest singular value": values[rank - 1],
    }


def differences(some, others):
    """Return p values of two-sample Kolmogorov-Smirnov tests, by figure."""
    some, others = ([figures(p) for p in products] for products in (some, others))
    return {
        name: ks_2samp([x[name] for x in some], [x[name] for x in others]).pvalue
        for name in some[0]
    }


@pytest.mark.parametrize(
    ("rows", "columns", "rank", "noise", "identity"),
    [(24, 24, 6, 0.7, 0.7), (20, 20, 20, 0.4, -0.4), (16, 16, 10, 1.0, 0.5), (12, 20, 5, 0.7, 0)],
)
def test_a_rotated_product_has_the_distribution_of_a_decomposed_one(
    rows, columns, rank, noise, identity
):
    # If each product is decomposed separately, the distribution is exactly the same.
    direct = functools.partial(
        factors, rows, columns, rank, noise=noise, identity=identity, is_shared=False
    )
    a = NoisePlusIdentity(rows, columns, noise, identity)
    turned = [product(framed(shared_core(a, rank, n), a, n)) for n in range(SAMPLES)]
    p_values = differences(turned, [product(direct(seed=1000 + n)) for n in range(SAMPLES)])
    assert min(p_values.values()) > 1e-3, p_values
    # The test detects another distribution, with slightly less noise.
    other = functools.partial(
        factors, rows, columns, rank, noise=0.9 * noise, identity=identity, is_shared=False
    )
    p_values = differences(turned, [product(other(seed=1000 + n)) for n in range(SAMPLES)])
    assert min(p_values.values()) < 1e-6


def test_heads_that_share_a_decomposition_overlap_like_independent_ones():
    draw = functools.partial(factors, 48, 48, 12, noise=0.7, identity=0.7)

    def overlaps(is_shared):
        products = [product(draw(seed=n, is_shared=is_shared)) for n in range(SAMPLES)]
        products = [p / np.linalg.norm(p) for p in products]
        return [np.vdot(a, b) for a, b in zip(products[::2], products[1::2], strict=True)]

    direct, shared = overlaps(False), overlaps(True)
    assert np.std(shared) == pytest.approx(np.std(direct), rel=0.25)
    assert np.mean(shared) == pytest.approx(np.mean(direct), abs=0.02)


def test_the_heads_of_a_layer_are_independent():
    pairs = (query_key(256, 256, 2, 4, noise=0.7, identity=0.7, seed=n) for n in range(100))
    entries = []
    for w_query, w_key in pairs:
        first, second = (w_query[:8, h].astype(float) @ w_key[:8, h].T for h in range(2))
        entries.append([first.ravel(), second.ravel()])
    first, second = np.moveaxis(np.array(entries), 1, 0)
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    correlation = (first * second).mean() / np.sqrt((first**2).mean() * (second**2).mean())
    # 6,400 pairs of entries, most of them nearly independent of one another.
    assert abs(correlation) < 0.05


def test_wide_products_share_singular_values_but_not_entries():
    w_query, w_key = query_key(256, 256, 2, 32, noise=0.7, identity=0.7, seed=3)
    products = [w_query[:, h].astype(float) @ w_key[:, h].T for h in range(2)]
    first, second = map(figures, products)
    own = figures(product(factors(256, 256, 32, noise=0.7, identity=0.7, seed=3, is_shared=False)))
    for name, tolerance in {
        "mean of the diagonal": 0.03,
        "standard deviation of the diagonal": 0.15,
        "standard deviation of the entries": 0.03,
        "largest singular value": 0.05,
        "smallest singular value": 0.05,
    }.items():
        assert first[name] == pytest.approx(own[name], rel=tolerance)
        assert second[name] == pytest.approx(own[name], rel=tolerance)
    for name in ("largest singular value", "smallest singular value", "mean of the diagonal"):
        assert first[name] == pytest.approx(second[name], rel=1e-4)
    assert abs(products[0] - products[1]).max() > 0.1
    # Query and key have equal norms.
    np.testing.assert_allclose(np.linalg.norm(w_query), np.linalg.norm(w_key), rtol=1e-5)


@pytest.mark.parametrize("rank", [20, 50, 64, 80])
@pytest.mark.parametrize(("columns", "identity"), [(64, -0.4), (64, 0.0), (80, 0.0)])
def test_any_rank_of_wide_products(rank, columns, identity, monkeypatch):
    monkeypatch.setattr(noise_plus_identity, "SHARED_FROM", 64)
    left, right = factors(64, columns, rank, noise=0.4, identity=identity, seed=1)
    assert (left.shape, right.shape) == ((64, rank), (rank, columns))
    assert left.dtype == right.dtype == np.float32
    found = np.linalg.svd(product((left, right)), compute_uv=False)
    own = factors(64, columns, rank, noise=0.4, identity=identity, seed=1, is_shared=False)
    expected = np.linalg.svd(product(own), compute_uv=False)
    np.testing.assert_allclose(found, expected, atol=0.1 * expected[0])
    np.testing.assert_allclose(np.linalg.norm(left), np.linalg.norm(right), rtol=1e-3)


@pytest.mark.parametrize("width", [24, 256])
def test_noise_below_rounding_leaves_a_random_projection(width):
    p = product(factors(width, width, 6, noise=1e-12, identity=-0.5, seed=2))
    np.testing.assert_allclose(p @ p, -0.5 * p, atol=1e-6)
    assert np.trace(p) == pytest.approx(-3.0, abs=1e-4)
    # In random directions, not along single channels.
    assert abs(p).max() < 0.45


def test_weights_do_not_depend_on_threads_or_the_cache(monkeypatch):
    def weights():
        return (
            *query_key(256, 256, 5, 16, noise=0.7, identity=0.7, seed=9),
            *value_output(300, 300, 2, 150, noise=0.4, identity=-0.4, seed=9),
        )

    some = []
    for number in (1, 4):
        monkeypatch.setattr(threads, "processors", lambda number=number: number)
        sampled_core.cache_clear()
        some += [weights(), weights()]
        # One decomposition for all heads, and one for values and outputs.
        assert sampled_core.cache_info().misses == 2
    for others in some[1:]:
        for a, b in zip(some[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_random_frames():
    frames = [random_frame(3, 5, seed) for seed in range(SAMPLES)]
    for frame in (
        *frames,
        random_frame(40, 40, 0),
        random_frame(1, 1, 0),
        random_frame(64, 300, 1),
    ):
        assert frame.dtype == np.float32
        np.testing.assert_allclose(frame @ frame.T, np.eye(len(frame)), atol=2e-6)
    # The first vector is the direction of the first normals.
    first = sample("untruncated_normal", (3, 5), 0)[0]
    np.testing.assert_allclose(frames[0][0], first / np.linalg.norm(first), atol=1e-6)
    # Squares of entries have a beta distribution, and signs are balanced and uncorrelated.
    for row, column in ((0, 0), (1, 0), (2, 0), (2, 4)):
        entries = np.array([frame[row, column] for frame in frames])
        assert kstest(entries**2, beta(0.5, 2).cdf).pvalue > 1e-3
        assert abs((entries > 0).mean() - 0.5) < 0.1
    minors = np.array([np.linalg.det(frame[:, :3]) for frame in frames])
    assert abs((minors > 0).mean() - 0.5) < 0.1
