import keras
import numpy as np
import pytest
from arrays import array

from keras_mimetic._assign import assign_all


def values_of(variable):
    return array(keras.ops.cast(variable, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_previous_values_can_be_assigned_again(dtype):
    before = np.arange(6, dtype="float32").reshape(2, 3), np.ones(3, "float32")
    variables = [keras.Variable(values, dtype=dtype) for values in before]
    after = np.full((2, 3), 7, "float32"), np.zeros(3, "float32")
    # The second is part of a larger array, as weights of a pair are.
    new = after[0].copy(), np.stack([after[1]] * 2)[0]
    old = assign_all(zip(variables, new, strict=True))
    for variable, values in zip(variables, after, strict=True):
        np.testing.assert_array_equal(values_of(variable), values)
    again = assign_all(old)
    for variable, values in zip(variables, before, strict=True):
        np.testing.assert_array_equal(values_of(variable), values)
    assign_all(again)
    for variable, values in zip(variables, after, strict=True):
        np.testing.assert_array_equal(values_of(variable), values)


def test_one_array_for_two_variables():
    variables = [keras.Variable(np.full((2, 3), number, "float32")) for number in (1, 2)]
    shared = np.full((2, 3), 7, "float32")
    old = assign_all((variable, shared) for variable in variables)
    assert [values_of(variable).mean() for variable in variables] == [7, 7]
    assign_all(old)
    assert [values_of(variable).mean() for variable in variables] == [1, 2]


def test_all_are_restored_if_one_fails():
    first, second = (keras.Variable(np.ones(3, "float32")) for _ in range(2))
    new = [(first, np.zeros(3, "float32")), (second, np.zeros(4, "float32"))]
    with pytest.raises(ValueError, match="shape"):
        assign_all(new)
    assert values_of(first).tolist() == values_of(second).tolist() == [1, 1, 1]
