import signal

import keras
import numpy as np
import pytest
from arrays import array

import keras_mimetic
from keras_mimetic._assign import assign_all, restore


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


@pytest.fixture
def interrupts():
    """Let SIGINT raise `KeyboardInterrupt`, also where the shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(monkeypatch, at):
    """Send SIGINT during the assignments of these numbers, from 1."""
    assign, calls = keras.Variable.assign, []

    def interrupted(self, values):
        calls.append(self)
        if len(calls) in at:
            signal.raise_signal(signal.SIGINT)
        return assign(self, values)

    monkeypatch.setattr(keras.Variable, "assign", interrupted)
    return calls


# While values are written, and also while they are restored.
@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("at", [(1,), (2,), (2, 3), (2, 3, 4)])
def test_all_are_restored_after_interrupts(at, monkeypatch):
    variables = [keras.Variable(np.full(3, number, "float32")) for number in range(3)]
    new = [(variable, np.full(3, 7, "float32")) for variable in variables]
    interrupting(monkeypatch, at)
    with pytest.raises(KeyboardInterrupt):
        assign_all(new)
    assert [values_of(variable).mean() for variable in variables] == [0, 1, 2]


@pytest.mark.usefixtures("interrupts")
def test_a_dry_run_restores_all_before_an_interrupt(monkeypatch):
    x = keras.Input((8,))
    y = keras.layers.LayerNormalization()(x)
    y = keras.layers.Dense(8)(keras.layers.Dense(32, "gelu")(y))
    model = keras.Model(x, y)
    before = [values_of(variable) for variable in model.weights]
    # Two are written, then restored.
    calls = interrupting(monkeypatch, (3,))
    with pytest.raises(KeyboardInterrupt):
        keras_mimetic.initialize(model, dry_run=True, data=np.ones((4, 8), "float32"))
    assert len(calls) == 4
    for variable, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(values_of(variable), values)


def test_variables_that_share_their_memory_are_restored():
    first, second = (keras.Variable(np.full(3, number, "float32")) for number in (1, 2))
    if keras.backend.backend() != "torch":
        pytest.skip("variables of the other backends share none")
    second.value.data = first.value.data
    old = assign_all([(first, np.full(3, 7, "float32")), (second, np.full(3, 8, "float32"))])
    restore(old)
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
