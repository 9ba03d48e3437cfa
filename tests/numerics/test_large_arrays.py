import numpy as np
import pytest

from keras_mimetic._numerics.large_arrays import add_to_array, array_moments, array_norm

# More than one block, and not a multiple of the block size.
RANDOM = np.random.default_rng(0).normal(3, 2, (301, 111)).astype(np.float32)


@pytest.mark.parametrize(
    "values",
    [RANDOM, RANDOM.T, RANDOM[:, ::2], RANDOM[:1, :1], RANDOM * 1e-3 + 1e3, RANDOM * 1e30],
    ids=["many", "transposed", "strided", "one", "far from 0", "large"],
)
def test_blocks_agree_with_whole_arrays(values):
    exact = values.astype(np.float64)
    mean, std = array_moments(values)
    assert mean == pytest.approx(exact.mean(), rel=1e-12)
    assert std == pytest.approx(exact.std(), rel=1e-9)
    assert array_norm(values) == pytest.approx(np.linalg.norm(exact), rel=1e-12)
    shifted = add_to_array(values, 0.1)
    assert shifted.dtype == np.float32
    np.testing.assert_array_equal(shifted, (exact + 0.1).astype(np.float32))


def test_values_that_are_not_finite():
    assert np.isnan(array_norm(np.array([1, np.nan], np.float32)))
    assert array_norm(np.array([1, np.inf], np.float32)) == np.inf
    assert array_norm(np.zeros((0, 3), np.float32)) == 0
