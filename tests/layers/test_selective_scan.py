import numpy as np
import pytest
from keras import ops
from state_space_checks import BACKEND, all_close, recurrence

from keras_mimetic.layers.selective_scan import scan_in_chunks, scan_one


def scan_arguments(length, groups, decay, step, seed=0):
    r = np.random.default_rng(seed)
    shapes = {"x": (2, length, 4, 3), "b": (2, length, groups, 5), "c": (2, length, groups, 5)}
    x, b, c = (r.normal(size=shape) for shape in shapes.values())
    steps = step * r.uniform(0, 2, (2, length, 4))
    state = r.normal(size=(2, 4, 3, 5))
    decay = -decay * r.uniform(0.5, 1.5, 4)
    return [np.float32(z) for z in (x, steps, decay, b, c, state)]


def scan(given, chunk):
    given = [ops.convert_to_tensor(z) for z in given]
    if BACKEND == "jax":  # much faster than one operation after the other
        import jax

        return jax.jit(scan_in_chunks, static_argnums=6)(*given, chunk)
    return scan_in_chunks(*given, chunk)


@pytest.mark.parametrize(
    ("length", "groups"),
    [(0, 1), (1, 2), (7, 1), (8, 2), (9, 4), (31, 1), (32, 1), (33, 2), (50, 2), (64, 4)],
)
def test_scan_is_the_recurrence(length, groups):
    given = scan_arguments(length, groups, decay=0.3, step=1.0)
    all_close(scan(given, 8), recurrence(*given))


@pytest.mark.parametrize("chunk", [1, 2, 5, 21, 22, 64])
def test_any_chunk_gives_the_recurrence(chunk):
    given = scan_arguments(21, 2, decay=0.3, step=1.0)
    all_close(scan(given, chunk), recurrence(*given))


@pytest.mark.parametrize("decay", [1e-4, 1.0, 16.0])
@pytest.mark.parametrize("step", [0.0, 1e-3, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("chunk", [4, 64])
def test_scan_with_any_decay_and_step(decay, step, chunk):
    given = scan_arguments(100, 2, decay, step)
    all_close(scan(given, chunk), recurrence(*given))


@pytest.mark.parametrize("larger", [1e3, 1e5, 1e9])
@pytest.mark.parametrize("chunk", [1, 64])
def test_scan_with_small_steps_after_large_ones(chunk, larger):
    # Where the logarithm of the decay since the chunk's beginning is far from that
    # between two places.
    given = scan_arguments(64, 1, decay=16.0, step=1e-3)
    given[1][:, :32] *= larger
    given[0][:, :32] /= larger  # so that all places write as much
    all_close(scan(given, chunk), recurrence(*given), 1e-6)


def test_long_sequences():
    given = scan_arguments(3000, 1, decay=1e-4, step=1.0)
    all_close(scan(given, 16), recurrence(*given))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="lengths that are not known when traced")
@pytest.mark.parametrize("decay", [1e-4, 16.0])
def test_long_sequences_of_unknown_length(decay):
    import tensorflow as tf

    graph = tf.function(
        lambda x, step, decay, b, c, state: scan_in_chunks(x, step, decay, b, c, state, 1),
        input_signature=[
            *(tf.TensorSpec((None, None, 4, *more)) for more in ((3,), ())),
            tf.TensorSpec((4,)),
            *(tf.TensorSpec((None, None, 1, 5)) for _ in "bc"),
            tf.TensorSpec((None, 4, 3, 5)),
        ],
    )
    given = scan_arguments(3000, 1, decay, step=1e-3)
    given[1][:, :1500] *= 1e3
    given[0][:, :1500] /= 1e3  # so that all places write as much
    all_close(graph(*given), recurrence(*given), 5e-6)
    empty = [z[:0] if z.ndim > 1 else z for z in given]
    assert [z.shape for z in graph(*empty)] == [(0, 3000, 4, 3), (0, 4, 3, 5)]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="lengths that are not known when traced")
def test_gradients_of_unknown_length():
    import tensorflow as tf

    def gradients(*given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            y, state = scan_in_chunks(*given, 1)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(state)
        return tape.gradient(loss, given)

    given = [tf.constant(z) for z in scan_arguments(50, 1, decay=1.0, step=0.3)]
    unknown = [[2, None, *z.shape[2:]] if z.shape[1:2] == 50 else z.shape for z in given]
    graph = tf.function(gradients, input_signature=[tf.TensorSpec(shape) for shape in unknown])
    all_close(graph(*given), gradients(*given))


def test_one_place_is_the_recurrence():
    given = scan_arguments(1, 2, decay=0.3, step=1.0)
    x, step, decay, b, c, state = map(ops.convert_to_tensor, given)
    y, after = scan_one(x[:, 0], step[:, 0], decay, b[:, 0], c[:, 0], state)
    all_close((y[:, None], after), recurrence(*given))
