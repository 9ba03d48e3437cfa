import numpy as np
import pytest

from keras_mimetic._numerics.position import (
    explained_by_sinusoids,
    sin_cos,
    sin_cos_table,
)


def noise(n, width=64):
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def test_sines_and_cosines_of_positions():
    table = sin_cos(np.arange(3), 4)
    frequencies = np.array([1, 0.01])
    for position in range(3):
        angles = position * frequencies
        np.testing.assert_allclose(table[position], [*np.sin(angles), *np.cos(angles)])
    assert sin_cos(np.arange(3), 5).shape == (3, 5)
    # A product of two rows depends on their distance alone.
    table = sin_cos(np.arange(9), 16)
    products = table @ table.T
    for distance in range(9):
        assert np.ptp(np.diagonal(products, distance)) < 1e-12


def test_patches_have_a_row_and_a_column():
    table = sin_cos_table((3, 4), 16, rms=0.02).reshape(3, 4, 16)
    assert table.dtype == np.float32
    assert np.sqrt(np.mean(table.astype(float) ** 2)) == pytest.approx(0.02)
    # Half of the channels say the row, half the column.
    assert not np.ptp(table[..., :8], axis=1).any()
    assert not np.ptp(table[..., 8:], axis=0).any()
    assert np.ptp(table[..., :8], axis=0).any()


@pytest.mark.parametrize("shape", [(16,), (100,), (8, 8), (5, 20), (14, 14)])
def test_sinusoids_are_explained_and_noise_is_not(shape):
    n = int(np.prod(shape))
    table = sin_cos_table(shape, 64, rms=1.0)
    assert explained_by_sinusoids(table, shape) > 0.97
    assert explained_by_sinusoids(noise(n), shape) < 0.75
    mixed = explained_by_sinusoids(table + noise(n), shape)
    assert explained_by_sinusoids(noise(n), shape) < mixed < 0.97
    # Neither the scale nor one vector for all positions counts.
    moved = 100 * table + noise(1)
    assert explained_by_sinusoids(moved, shape) == pytest.approx(
        explained_by_sinusoids(table, shape), abs=1e-3
    )


def test_noise_is_explained_as_documented():
    """The largest of about n/2 independent parts of energy 2/n, each exponential."""
    for n in (64, 256):
        measured = explained_by_sinusoids(noise(n, 256), (n,))
        assert 1 < measured / (2 * np.log(n) / n) < 1.4


def test_a_table_of_equal_positions_has_no_figure():
    assert np.isnan(explained_by_sinusoids(np.ones((6, 4), np.float32), (6,)))
    assert np.isnan(explained_by_sinusoids(np.zeros((6, 4), np.float32), (2, 3)))
