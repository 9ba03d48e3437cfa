"""Channels are followed through operations that move entries."""

import math
import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_mimetic._graph.graph import Call
from keras_mimetic._graph.symbol import Foreign, Value
from keras_mimetic._patterns.layout import constant_along, equal, moved, spread


def after(name, array, *shapes):
    """Return the channels after an operation of this name."""
    outputs = [Value(shape, "float32") for shape in shapes]
    call = Call(Foreign(name), (), {}, [Value(array.shape, "float32")], outputs)
    return moved(call, array)


@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5),
    told=st.sets(st.integers(0, 4), max_size=3),
    number=st.integers(0, 3**10),
)
def test_reshape_equals_that_of_the_whole_array(shape, told, number):
    axes = tuple(sorted(axis for axis in told if axis < len(shape)))
    sizes = [shape[axis] for axis in axes]
    array = spread(np.arange(math.prod(sizes)).reshape(sizes), axes, tuple(shape))
    # Another shape with as many entries.
    other = [1, 1, 1]
    for n, factor in enumerate(f for size in shape for f in ([2, 2] if size == 4 else [size])):
        other[number // 3**n % 3] *= factor
    (reshaped,) = after("Reshape", array, tuple(other))
    np.testing.assert_array_equal(reshaped, np.ascontiguousarray(array).reshape(other))
    for axis in range(3):
        first = reshaped[(slice(None),) * axis + (slice(0, 1),)]
        assert constant_along(reshaped, axis) == (reshaped == first).all()


def test_a_reshape_to_another_size_is_unknown():
    assert after("Reshape", np.zeros((2, 3)), (2, 2)) is None


def test_equal():
    a = spread(np.arange(4), (1,), (3, 4))
    assert equal(a, np.ascontiguousarray(a))
    assert not equal(a, a + np.eye(3, 4, dtype=int))
    assert not equal(a, spread(np.arange(4), (1,), (2, 4)))


def test_large_tensors_take_no_memory():
    """Channels of an image of 512 by 512 in windows, then by image and head."""
    channels = spread(np.arange(3 * 384), (3,), (2, 512, 512, 3 * 384))
    tracemalloc.start()
    (x,) = after("Reshape", channels, (2, 64, 8, 64, 8, 3 * 384))
    (x,) = after("Reshape", x.transpose(0, 1, 3, 2, 4, 5), (2 * 64 * 64, 64, 3, 12, 32))
    assert [constant_along(x, axis) for axis in range(5)] == [True, True, False, False, False]
    (x,) = after("Reshape", x.transpose(2, 0, 3, 1, 4), (3, 4096, 2, 12, 64, 32))
    (x,) = after("Reshape", x.transpose(0, 2, 3, 1, 4, 5), (3, 2 * 12, 4096 * 64, 32))
    assert equal(x[0], x[0].view())
    assert not equal(x[0], x[1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
