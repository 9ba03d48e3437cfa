from unittest import mock

import keras
import numpy as np
import pytest
from arrays import array

import keras_mimetic
from keras_mimetic._assign import assign_all


def values_of(variable):
    return array(keras.ops.cast(variable, "float32"))


# A wrong shape, and an interrupt.
@pytest.mark.parametrize(("length", "error"), [(4, ValueError), (3, KeyboardInterrupt)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_are_restored_if_one_fails(length, error, dtype, monkeypatch):
    variables = [keras.Variable(np.full(3, number, "float32"), dtype=dtype) for number in range(3)]
    new = [(variable, np.full(3, 7, "float32")) for variable in variables[:2]]
    assign_all(new)
    assert [values_of(variable).mean() for variable in variables] == [7, 7, 2]
    new = [(variable, np.full(3, 8, "float32")) for variable in variables[:2]]
    if error is KeyboardInterrupt:
        interrupts = mock.Mock(side_effect=[error, None])
        monkeypatch.setattr(variables[2], "assign", interrupts)
    with pytest.raises(error):
        assign_all([*new, (variables[2], np.zeros(length, "float32"))])
    assert [values_of(variable).mean() for variable in variables] == [7, 7, 2]


def test_variables_that_share_their_memory_are_restored():
    first, second, third = (keras.Variable(np.full(3, n, "float32")) for n in (1, 2, 3))
    if keras.backend.backend() != "torch":
        pytest.skip("variables of the other backends share none")
    second.value.data = first.value.data
    new = [(first, np.full(3, 7, "float32")), (second, np.full(3, 8, "float32"))]
    with pytest.raises(ValueError, match="shape"):
        assign_all([*new, (third, np.zeros(4, "float32"))])
    assert values_of(first).tolist() == values_of(second).tolist() == [1, 1, 1]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch traces no functions here")
@pytest.mark.parametrize("call", [keras_mimetic.initialize, keras_mimetic.reset])
def test_models_are_not_written_while_a_function_is_traced(call):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, "relu")])
    before = [values_of(variable) for variable in model.weights]

    def function(x):
        call(model, seed=0)
        return x

    if keras.backend.backend() == "jax":
        import jax

        function = jax.jit(function)
    else:
        import tensorflow

        function = tensorflow.function(function)
    with pytest.raises(RuntimeError, match=f"`{call.__name__}` writes weights and cannot be"):
        function(np.ones(2, "float32"))
    for variable, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(values_of(variable), values)
