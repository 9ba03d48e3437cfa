import math

import numpy as np
import paths
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from keras_mimetic._numerics import attention
from keras_mimetic._numerics.attention import query_key, value_output
from keras_mimetic._numerics.noise_plus_identity import factors
from keras_mimetic._numerics.random import fold_in, sample


def target(rows, columns, noise, identity, seed):
    """Return A = noise Z + identity I, from the documented sub-streams."""
    z = sample("untruncated_normal", (rows, columns), fold_in(seed, 0))
    a = noise * z.astype(np.float64) / math.sqrt(math.sqrt(rows * columns))
    return a + identity * np.eye(rows, columns)


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize(("noise", "identity"), [(0.7, 0.7), (0, 1), (1, 0)])
def test_heads_in_groups(noise, identity, width):
    groups, size, dim = 3, 4, 16
    shapes = (width, groups * size, dim), (width, groups, dim)
    strengths = {"noise": noise, "identity": identity, "seed": 5}
    query, key = attention.sample_pair("query_key", *shapes, **strengths)
    assert (query.shape, key.shape) == shapes
    shared = [np.linalg.pinv(key[:, g]).T @ key[:, g].T for g in range(groups)]
    noises = []
    for head in range(groups * size):
        group = head // size
        # The product is that of all channels, on those that the key sees.
        noises.append(query[:, head] @ key[:, group].T - identity * shared[group])
        spread = np.square(noises[-1]).sum() / (dim / width) / width
        # The mean over the group is along the largest of its noise.
        assert 0.8 * noise**2 - 1e-6 < spread < 2 * noise**2 + 1e-6
    if noise:
        # Heads of a group have noises of their own.
        first, second = (x.ravel() / np.linalg.norm(x) for x in noises[:2])
        assert abs(first @ second) < 0.5
    value, output = attention.sample_pair(
        "value_output", shapes[1], (groups * size, dim, width), **strengths
    )
    assert output.shape == (groups * size, dim, width)
    blocks = output.reshape(groups, size, dim, width)
    product = np.einsum("igd,gdj->ij", value, blocks.sum(axis=1))
    alone = value_output(width, width, groups, dim, **strengths)
    np.testing.assert_allclose(product, np.einsum("igd,gdj->ij", *alone), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(output), np.linalg.norm(alone[1]), rtol=0.05)
    spread = np.square(blocks).mean(axis=(2, 3))
    np.testing.assert_allclose(spread / spread.mean(axis=1, keepdims=True), 1, atol=0.3)


def cut(a, rank):
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def heads_of(w_query, w_key):
    return [
        w_query[:, h].astype(np.float64) @ w_key[:, h].T.astype(np.float64)
        for h in range(w_query.shape[1])
    ]


@pytest.mark.parametrize(("dim", "heads", "head_dim"), [(48, 3, 16), (96, 2, 7), (20, 1, 20)])
def test_query_key_products_equal_those_of_a_full_svd(dim, heads, head_dim):
    pair = query_key(dim, dim, heads, head_dim, noise=0.7, identity=0.7, seed=3)
    assert [w.shape for w in pair] == [(dim, heads, head_dim)] * 2
    for head, product in enumerate(heads_of(*pair)):
        expected = cut(target(dim, dim, 0.7, 0.7, fold_in(3, 0, head)), head_dim)
        np.testing.assert_allclose(product, expected, atol=1e-5)
        assert np.linalg.matrix_rank(product, tol=1e-4) == head_dim


def test_value_output_is_the_whole_matrix_if_heads_have_enough_channels():
    w_value, w_output = value_output(48, 48, 3, 16, noise=0.4, identity=-0.4, seed=5)
    assert (w_value.shape, w_output.shape) == ((48, 3, 16), (3, 16, 48))
    product = w_value.reshape(48, 48).astype(float) @ w_output.reshape(48, 48)
    np.testing.assert_allclose(product, target(48, 48, 0.4, -0.4, fold_in(5, 1)), atol=1e-5)
    assert np.trace(product) / 48 == pytest.approx(-0.4, abs=0.1)


def test_value_output_with_fewer_channels_is_the_nearest_low_rank_matrix():
    w_value, w_output = value_output(48, 48, 2, 8, noise=0.4, identity=-0.4, seed=5)
    product = w_value.reshape(48, 16).astype(float) @ w_output.reshape(16, 48)
    expected = cut(target(48, 48, 0.4, -0.4, fold_in(5, 1)), 16)
    np.testing.assert_allclose(product, expected, atol=1e-5)


@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    rank=st.integers(1, 40),
    noise=st.floats(0.01, 3),
    seed=st.integers(0, 2**40),
)
def test_any_shape(rows, columns, rank, noise, seed):
    left, right = factors(rows, columns, rank, noise=noise, identity=0.0, seed=seed)
    assert (left.shape, right.shape) == ((rows, rank), (rank, columns))
    assert left.dtype == right.dtype == np.float32
    expected = cut(target(rows, columns, noise, 0.0, seed), rank)
    np.testing.assert_allclose(left.astype(float) @ right, expected, atol=1e-5 * max(1, noise) * 4)
    # Balanced: both halves carry the square roots of the same singular values.
    np.testing.assert_allclose(np.linalg.norm(left), np.linalg.norm(right), rtol=1e-3, atol=1e-6)


def test_singular_values_decrease_and_are_split_evenly():
    w_query, w_key = query_key(40, 40, 1, 10, noise=0.7, identity=0.7, seed=1)
    for factor in (w_query[:, 0], w_key[:, 0]):
        gram = factor.T @ factor
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-4)
        assert (np.diff(np.diag(gram)) < 1e-6).all()
    np.testing.assert_allclose(
        np.linalg.norm(w_query[:, 0], axis=0), np.linalg.norm(w_key[:, 0], axis=0), rtol=1e-4
    )


def test_signs_are_fixed():
    w_query, _ = query_key(40, 40, 2, 10, noise=0.7, identity=0.7, seed=1)
    for head in range(2):
        columns = w_query[:, head]
        largest = np.abs(columns).argmax(axis=0)
        assert (columns[largest, np.arange(10)] > 0).all()


def test_equal_seeds_give_equal_weights_for_any_number_of_threads():
    def both():
        return (
            *attention.sample_pair("query_key", *inner, noise=0.7, identity=0.7, seed=9),
            *attention.sample_pair("value_output", *outer, noise=0.4, identity=-0.4, seed=9),
        )

    inner, outer = [(64, 4, 16), (64, 2, 16)], [(64, 2, 32), (2, 32, 64)]

    with threadpool_limits(1):
        one = both()
    with threadpool_limits(4):
        four = both()
    for a, b in zip(one, four, strict=True):
        np.testing.assert_array_equal(a, b)
    other = attention.sample_pair("query_key", *inner, noise=0.7, identity=0.7, seed=10)
    assert abs(other[0] - one[0]).max() > 0.1


def test_heads_are_independent_and_do_not_depend_on_their_number():
    two = query_key(32, 32, 2, 8, noise=0.7, identity=0.7, seed=4)
    three = query_key(32, 32, 3, 8, noise=0.7, identity=0.7, seed=4)
    np.testing.assert_array_equal(two[0], three[0][:, :2])
    assert abs(three[0][:, 0] - three[0][:, 1]).max() > 0.1


def test_product_without_noise_is_a_projection():
    w_query, w_key = query_key(24, 24, 2, 6, noise=0.0, identity=0.5, seed=2)
    products = heads_of(w_query, w_key)
    for product in products:
        np.testing.assert_allclose(product @ product, 0.5 * product, atol=1e-5)
        assert np.trace(product) == pytest.approx(3.0, abs=1e-4)
    assert abs(products[0] - products[1]).max() > 0.05


@pytest.mark.parametrize("width", [6, 256])
def test_golden_products(width):
    # Compare products: factors depend on the library's signs and on near ties.
    w_query, w_key = query_key(width, width, 2, 3, noise=0.7, identity=0.7, seed=0)
    w_value, w_output = value_output(width, width, 2, width // 2, noise=0.4, identity=-0.4, seed=0)
    golden = np.load(paths.GOLDEN / "attention.npz")
    for head, expected in zip(heads_of(w_query, w_key), golden[f"query_key_{width}"], strict=True):
        np.testing.assert_allclose(head[:6, :6], expected, atol=1e-5)
    product = w_value.reshape(width, width) @ w_output.reshape(width, width)
    np.testing.assert_allclose(product[:6, :6], golden[f"value_output_{width}"], atol=1e-5)
