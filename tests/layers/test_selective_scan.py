import numpy as np
import pytest
from keras import ops
from state_space_checks import BACKEND, all_close, recurrence

from keras_mimetic.layers.selective_scan import chunk_scan, selective_state_update


def scan_arguments(length, groups, a, dt, seed=0):
    r = np.random.default_rng(seed)
    shapes = {"x": (2, length, 4, 3), "b": (2, length, groups, 5), "c": (2, length, groups, 5)}
    x, b, c = (r.normal(size=shape) for shape in shapes.values())
    dt = dt * r.uniform(0, 2, (2, length, 4))
    state = r.normal(size=(2, 4, 3, 5))
    a = -a * r.uniform(0.5, 1.5, 4)
    return [np.float32(z) for z in (x, dt, a, b, c, state)]


def scan(given, chunk):
    given = [ops.convert_to_tensor(z) for z in given]
    if BACKEND == "jax":  # much faster than one operation after the other
        import jax

        return jax.jit(chunk_scan, static_argnums=6)(*given, chunk)
    return chunk_scan(*given, chunk)


@pytest.mark.parametrize(
    ("length", "groups"),
    [(0, 1), (1, 2), (7, 1), (8, 2), (9, 4), (31, 1), (32, 1), (33, 2), (50, 2), (64, 4)],
)
def test_scan_is_the_recurrence(length, groups):
    given = scan_arguments(length, groups, a=0.3, dt=1.0)
    all_close(scan(given, 8), recurrence(*given))


@pytest.mark.parametrize("chunk", [1, 2, 5, 21, 22, 64])
def test_any_chunk_gives_the_recurrence(chunk):
    given = scan_arguments(21, 2, a=0.3, dt=1.0)
    all_close(scan(given, chunk), recurrence(*given))


@pytest.mark.parametrize("a", [1e-4, 1.0, 16.0])
@pytest.mark.parametrize("dt", [0.0, 1e-3, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("chunk", [4, 64])
def test_scan_with_any_a_and_dt(a, dt, chunk):
    given = scan_arguments(100, 2, a, dt)
    all_close(scan(given, chunk), recurrence(*given))


@pytest.mark.parametrize("larger", [1e3, 1e5, 1e9])
@pytest.mark.parametrize("chunk", [1, 64])
def test_scan_with_small_dts_after_large_ones(chunk, larger):
    # Where the logarithm of the decay since the chunk's beginning is far from that
    # between two positions.
    given = scan_arguments(64, 1, a=16.0, dt=1e-3)
    given[1][:, :32] *= larger
    given[0][:, :32] /= larger  # so that all positions write as much
    all_close(scan(given, chunk), recurrence(*given), 1e-6)


def test_long_sequences():
    given = scan_arguments(3000, 1, a=1e-4, dt=1.0)
    all_close(scan(given, 16), recurrence(*given))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="lengths that are not known when traced")
@pytest.mark.parametrize("a", [1e-4, 16.0])
def test_long_sequences_of_unknown_length(a):
    import tensorflow as tf

    graph = tf.function(
        lambda x, dt, a, b, c, state: chunk_scan(x, dt, a, b, c, state, 1),
        input_signature=[
            *(tf.TensorSpec((None, None, 4, *more)) for more in ((3,), ())),
            tf.TensorSpec((4,)),
            *(tf.TensorSpec((None, None, 1, 5)) for _ in "bc"),
            tf.TensorSpec((None, 4, 3, 5)),
        ],
    )
    given = scan_arguments(3000, 1, a, dt=1e-3)
    given[1][:, :1500] *= 1e3
    given[0][:, :1500] /= 1e3  # so that all positions write as much
    all_close(graph(*given), recurrence(*given), 5e-6)
    empty = [z[:0] if z.ndim > 1 else z for z in given]
    assert [z.shape for z in graph(*empty)] == [(0, 3000, 4, 3), (0, 4, 3, 5)]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="lengths that are not known when traced")
def test_gradients_of_unknown_length():
    import tensorflow as tf

    def gradients(*given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            y, state = chunk_scan(*given, 1)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(state)
        return tape.gradient(loss, given)

    given = [tf.constant(z) for z in scan_arguments(50, 1, a=1.0, dt=0.3)]
    unknown = [[2, None, *z.shape[2:]] if z.shape[1:2] == 50 else z.shape for z in given]
    graph = tf.function(gradients, input_signature=[tf.TensorSpec(shape) for shape in unknown])
    all_close(graph(*given), gradients(*given))


def test_one_position_is_the_recurrence():
    given = scan_arguments(1, 2, a=0.3, dt=1.0)
    x, dt, a, b, c, state = map(ops.convert_to_tensor, given)
    y, after = selective_state_update(x[:, 0], dt[:, 0], a, b[:, 0], c[:, 0], state)
    all_close((y[:, None], after), recurrence(*given))
