import hashlib
import json
import math
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import sklearn.datasets
from devices import FOUR_DEVICES
from hypothesis import given
from hypothesis import strategies as st
from keras_checks import run_class_serialization_test, traced

from keras_mimetic._numerics.random import DISTRIBUTIONS
from keras_mimetic.initializers import MimeticMean

FLOATS = ("float16", "bfloat16", "float32", "float64")


def values_of(initializer, shape, dtype=None):
    return np.asarray(
        keras.ops.convert_to_numpy(keras.ops.cast(initializer(shape, dtype), "float32"))
    )


@given(
    st.tuples(st.integers(50, 300), st.integers(50, 300)),
    st.floats(-4, 4),
    st.floats(0.1, 4),
    st.sampled_from(("fan_in", "fan_out", "fan_avg")),
    st.sampled_from(DISTRIBUTIONS),
    st.sampled_from(FLOATS[:3]),
)
def test_mean_and_std(shape, mean, scale, mode, distribution, dtype):
    fan = {"fan_in": shape[0], "fan_out": shape[1], "fan_avg": sum(shape) / 2}[mode]
    std = math.sqrt(scale / fan)
    values = values_of(MimeticMean(mean, scale, mode, distribution, seed=1), shape, dtype)
    size = math.prod(shape)
    rounding = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    error = 5 / math.sqrt(size) + rounding * (1 + abs(mean))
    assert abs(values.mean(dtype="f8") / std - mean) < error
    assert abs(values.std(dtype="f8") / std - 1) < error


def test_mean_0_is_glorot_uniform():
    limit = math.sqrt(6 / 300)
    values = values_of(MimeticMean(0, seed=0), (100, 200))
    assert 0.999 * limit < abs(values).max() <= limit * (1 + 1e-6)


@pytest.mark.parametrize(
    ("shape", "axes", "fan_in"),
    [
        ((64, 300), {}, 64),
        ((3, 3, 16, 32), {}, 144),
        ((100, 1), {}, 100),
        ((8, 4, 100), {"input_axes": (0,), "output_axes": (1, 2)}, 8),
        ((8, 4, 100), {"input_axes": (0, 1), "output_axes": (2,)}, 32),
    ],
)
def test_the_default_mean_follows_the_fan_in(shape, axes, fan_in):
    auto, zero = (values_of(MimeticMean(mean, seed=0, **axes), shape) for mean in ("auto", 0))
    fan_out = math.prod(shape) // fan_in if len(shape) > 1 else fan_in
    window = math.prod(shape[:-2]) if not axes else 1
    std = math.sqrt(2 / (fan_in + fan_out * window))
    np.testing.assert_allclose(auto - zero, -0.5 / math.sqrt(fan_in) * std, rtol=1e-2)


INPUTS = {
    "ones": lambda n, rng: np.ones((64, n)),
    "uniform": lambda n, rng: rng.uniform(size=(64, n)),
    "sparse": lambda n, rng: rng.uniform(size=(64, n)) < 0.13,
    "centered": lambda n, rng: rng.normal(size=(64, n)),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("fan_in", [8, 64, 784, 3072, 65536])
def test_the_default_mean_is_safe_for_any_input(kind, fan_in):
    # Some ReLU units are active, and not many more are dead than with Glorot's weights.
    units = 2048 if fan_in < 65536 else 256
    for seed in range(3):
        x = INPUTS[kind](fan_in, np.random.default_rng(seed)).astype("f4")
        glorot, ours = (
            values_of(MimeticMean(mean, seed=seed), (fan_in, units)) for mean in (0, "auto")
        )
        dead = [float((x @ kernel <= 0).all(axis=0).mean()) for kernel in (glorot, ours)]
        assert dead[1] <= dead[0] + 0.35
        assert dead[1] < 1


def digits():
    """Return images of 64 pixels in [0, 1], and their labels."""
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    return x.astype("f4") / 16, y


def tiles():
    """Return tiles of two photographs, flattened as CIFAR-10's images are, and the photograph."""
    pytest.importorskip("PIL")
    rng = np.random.default_rng(0)
    x, y = [], rng.integers(2, size=1500)
    photographs = sklearn.datasets.load_sample_images().images
    for label in y:
        row, column = (rng.integers(size - 32) for size in photographs[label].shape[:2])
        x.append(photographs[label][row : row + 32, column : column + 32].ravel())
    return np.array(x, "f4") / 255, y


def accuracies_of(means, activation, x, y, rate):
    """Train an MLP for each mean of its first matrix; return accuracies on held-out images."""
    size = 900
    accuracies = []
    for mean in means:
        model = keras.Sequential(
            [
                keras.Input(x.shape[1:]),
                keras.layers.Dense(128, activation, kernel_initializer=MimeticMean(mean, seed=0)),
                keras.layers.Dense(10, kernel_initializer=MimeticMean(0, seed=1)),
            ]
        )
        model.compile(
            keras.optimizers.Adam(rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        for epoch in range(8):
            order = np.random.default_rng(epoch).permutation(size)
            model.fit(x[order], y[order], batch_size=64, shuffle=False, verbose=0)
        logits = keras.ops.convert_to_numpy(model(x[size:]))
        accuracies.append((logits.argmax(-1) == y[size:]).mean())
    return accuracies


@pytest.mark.one_backend
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("is_standardized", [False, True])
@pytest.mark.parametrize(("images", "rate", "harmful"), [(digits, 5e-3, -1), (tiles, 1e-3, -0.1)])
def test_the_default_trains_as_well_as_glorot(images, rate, harmful, activation, is_standardized):
    x, y = images()
    if is_standardized:
        x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3)
    glorot, auto = accuracies_of((0, "auto"), activation, x, y, rate)
    assert glorot > 0.85
    assert auto > glorot - 0.03
    if activation == "relu" and not is_standardized:
        # Larger means cost accuracy on inputs that are not centered.
        assert accuracies_of((harmful,), activation, x, y, rate)[0] < glorot - 0.05


def test_every_weight_has_its_own_memory():
    # On torch, a tensor shares the memory of the sampled array, and training writes to it.
    initializer = MimeticMean(seed=3)
    first, second = keras.Variable(initializer((4, 5))), keras.Variable(initializer((4, 5)))
    first.assign_sub(keras.ops.ones((4, 5)))
    np.testing.assert_array_equal(second, values_of(initializer, (4, 5)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_computed_in_float32_and_cast_last(dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 only when it is configured for it")
    exact = MimeticMean(seed=5)((64, 32), "float32")
    given_ = MimeticMean(seed=5)((64, 32), dtype)
    assert keras.backend.standardize_dtype(given_.dtype) == dtype
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(keras.ops.cast(given_, "float32")),
        keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(exact, dtype), "float32")),
    )


def test_golden_bits_on_every_backend():
    values = values_of(MimeticMean(-0.25, distribution="truncated_normal", seed=42), (257, 129))
    digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()[:32]
    assert digest == "227354f37a26f333e565f68de851e28e"


def test_in_layers():
    x = keras.ops.ones((2, 8, 8, 6))
    for layer, axes in (
        (keras.layers.Dense(40, kernel_initializer=MimeticMean(-3, seed=0)), (6, 40)),
        (keras.layers.Conv2D(40, 3, kernel_initializer=MimeticMean(-3, seed=0)), (54, 360)),
        (
            keras.layers.EinsumDense(
                "abcd,def->abcef",
                output_shape=(8, 8, 5, 8),
                kernel_initializer=MimeticMean(-3, seed=0, input_axes=(0,), output_axes=(1, 2)),
            ),
            (6, 40),
        ),
    ):
        layer(x)
        std = math.sqrt(2 / sum(axes))
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        assert kernel.mean() / std == pytest.approx(-3, abs=0.4)
        assert kernel.std() / std == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_the_shift_that_the_docstring_gives(average):
    # fan_in 3072 and mean 0.1: 4.8 standard deviations for inputs uniform on (0, 1).
    x = np.random.default_rng(0).uniform(average - 0.5, average + 0.5, size=(50, 3072))
    kernel = values_of(MimeticMean(0.1, seed=0), (3072, 512)).astype("f8")
    outputs = x @ kernel
    spread = (x @ (kernel - kernel.mean())).std()
    shift = (outputs - x @ (kernel - kernel.mean())).mean() / spread
    rms = math.sqrt((x**2).mean())
    assert shift == pytest.approx(0.1 * math.sqrt(3072) * x.mean() / rms, abs=0.2)
    if average == 0.5:
        assert shift == pytest.approx(4.8, abs=0.2)


def test_seeds():
    same = [values_of(MimeticMean(seed=3), (4, 5)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    one = MimeticMean(seed=None)
    np.testing.assert_array_equal(values_of(one, (4, 5)), values_of(one, (4, 5)))
    other = MimeticMean(seed=None)
    assert not np.array_equal(values_of(one, (4, 5)), values_of(other, (4, 5)))
    np.testing.assert_array_equal(
        values_of(MimeticMean(seed=np.int64(3)), (4, 5)), values_of(MimeticMean(seed=3), (4, 5))
    )


def test_none_follows_set_random_seed():
    drawn = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        drawn.append(values_of(MimeticMean(), (4, 5)))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_seed_generator_gives_a_new_weight_at_each_call():
    first = MimeticMean(-0.1, seed=keras.random.SeedGenerator(7))
    second = MimeticMean(-0.1, seed=keras.random.SeedGenerator(7))
    drawn = [values_of(i, (4, 5)) for i in (first, first, second, second)]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    np.testing.assert_array_equal(drawn[1], drawn[3])
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], values_of(MimeticMean(-0.1, seed=7), (4, 5)))
    # Equal on every backend, whatever integer dtype holds the state.
    np.testing.assert_array_equal(drawn[1][0, :2], np.float32([-0.0456729, -0.7739061]))


def test_integer_seeds_inside_a_trace():
    values = traced(lambda: MimeticMean(seed=3)((4, 5)))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(values), values_of(MimeticMean(seed=3), (4, 5))
    )


def test_seed_generator_inside_a_trace_is_rejected_and_unchanged():
    generator = keras.random.SeedGenerator(3)
    with pytest.raises(ValueError, match="SeedGenerator.*traced.*Use an integer seed"):
        traced(lambda: MimeticMean(seed=generator)((4, 5)))
    np.testing.assert_array_equal(
        values_of(MimeticMean(seed=generator), (4, 5)),
        values_of(MimeticMean(seed=keras.random.SeedGenerator(3)), (4, 5)),
    )


def test_symbolic_build():
    layer = keras.layers.Dense(5, kernel_initializer=MimeticMean(seed=3))
    assert layer(keras.KerasTensor((None, 4))).shape == (None, 5)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer.kernel), values_of(MimeticMean(seed=3), (4, 5))
    )

    class Inner(keras.layers.Layer):  # without `build`: built while its shape is worked out
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(5, kernel_initializer=MimeticMean(seed=3))

        def call(self, x):
            return self.dense(x)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Inner()(inputs))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model.weights[0]), values_of(MimeticMean(seed=3), (4, 5))
    )


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX shards through Keras")
def test_large_sharded_kernels():
    # Four virtual devices and a kernel past the size from which Keras jits
    # the initializer (250 MiB over the devices), each holding a quarter.
    code = """
        import keras, numpy as np
        from keras_mimetic.initializers import MimeticMean
        mesh = keras.distribution.DeviceMesh((1, 4), ("batch", "model"))
        layout = keras.distribution.LayoutMap(mesh)
        layout[".*kernel"] = (None, "model")
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
        )
        layer = keras.layers.Dense(4352, kernel_initializer=MimeticMean(seed=3))
        layer.build((None, 4096))
        value = layer.kernel.value
        assert len(value.sharding.device_set) == 4, value.sharding
        assert value.addressable_shards[0].data.shape == (4096, 1088)
        from keras_mimetic._numerics.random import sample
        std = (2 / (4096 + 4352)) ** 0.5
        expected = sample("uniform", (4096, 4352), 3, mean=-0.5 / 64 * std, std=std)
        np.testing.assert_array_equal(np.asarray(value), expected)
        # Older versions of Keras initialize eagerly at any size, so there is no error.
        from keras.src.backend.jax import core
        jitted = hasattr(core, "should_shard_at_init")
        generator = MimeticMean(seed=keras.random.SeedGenerator(3))
        try:
            keras.layers.Dense(4352, kernel_initializer=generator).build((None, 4096))
            assert not jitted
        except ValueError as error:
            assert "Use an integer seed" in str(error), error
            assert jitted
    """
    devices = {"XLA_FLAGS": FOUR_DEVICES, "JAX_PLATFORMS": "cpu"}
    env = {**os.environ, **devices}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_registered_serialized_and_cloned():
    assert isinstance(keras.initializers.get("keras_mimetic>MimeticMean"), MimeticMean)
    initializer = MimeticMean(
        0.5, 2.0, "fan_in", "normal", seed=9, input_axes=(0,), output_axes=[1, 2]
    )
    run_class_serialization_test(initializer)
    run_class_serialization_test(MimeticMean(seed=keras.random.SeedGenerator(3)))
    config = json.loads(json.dumps(initializer.get_config()))
    assert config == {
        "mean": 0.5,
        "scale": 2.0,
        "mode": "fan_in",
        "distribution": "truncated_normal",
        "seed": 9,
        "input_axes": [0],
        "output_axes": [1, 2],
    }
    clone = MimeticMean.from_config(config)
    shape = (4, 2, 3)
    np.testing.assert_array_equal(values_of(initializer, shape), values_of(clone, shape))
    unseeded = MimeticMean()
    assert not np.array_equal(values_of(unseeded, (4, 5)), values_of(unseeded.clone(), (4, 5)))
    generator = MimeticMean(seed=keras.random.SeedGenerator(3))
    np.testing.assert_array_equal(
        values_of(generator.clone(), (4, 5)), values_of(generator, (4, 5))
    )


def test_calling_leaves_no_traces_on_the_instance():
    initializer = MimeticMean()
    before = dict(vars(initializer))
    initializer((3, 3))
    assert vars(initializer) == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mean": "a"}, TypeError, "`mean`.*'auto' or a finite number.*Received: mean='a'"),
        ({"mean": "Auto"}, TypeError, r"mean='Auto' \(of type str\)\. Did you mean 'auto'\?"),
        ({"mode": "fanin"}, ValueError, r"Received: mode='fanin'\. Did you mean 'fan_in'\?"),
        ({"mean": 1e39}, ValueError, r"`mean`.* >= -1e\+06 and <= 1e\+06. Received: mean=1e"),
        ({"mean": None}, TypeError, "`mean`.*Received: mean=None"),
        ({"mean": True}, TypeError, "`mean`.*Received: mean=True"),
        ({"mean": float("nan")}, ValueError, "`mean`.*Received: mean=nan"),
        ({"mean": -math.inf}, ValueError, "`mean`.*Received: mean=-inf"),
        ({"scale": "1"}, TypeError, "`scale`.*> 0.*Received: scale='1'"),
        ({"scale": 0}, ValueError, "`scale`.*> 0.*Received: scale=0"),
        ({"scale": -1.5}, ValueError, "`scale`.*> 0.*Received: scale=-1.5"),
        ({"scale": math.inf}, ValueError, "`scale`.*Received: scale=inf"),
        ({"mode": "fan"}, ValueError, "`mode`.*'fan_in'.*Received: mode='fan'"),
        ({"mode": None}, ValueError, "`mode`.*Received: mode=None"),
        ({"distribution": "cauchy"}, ValueError, "`distribution`.*'normal'.*'cauchy'"),
        ({"distribution": 3}, ValueError, "`distribution`.*Received: distribution=3"),
        ({"seed": True}, TypeError, "`seed`.*SeedGenerator.*Received: seed=True"),
        ({"seed": -1}, ValueError, "`seed`.*Received: seed=-1"),
        ({"seed": 1.5}, TypeError, "`seed`.*Received: seed=1.5"),
        ({"seed": "1"}, TypeError, "`seed`.*Received: seed='1'"),
        ({"input_axes": (0,)}, ValueError, "given together.*output_axes=None"),
        ({"input_axes": 0, "output_axes": 1}, TypeError, "`input_axes`.*Received: input_axes=0"),
        ({"input_axes": (0.5,), "output_axes": (1,)}, TypeError, "`input_axes`.*0.5"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        MimeticMean(**arguments)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 2), "int32", "`dtype`.*floating.*Received: dtype='int32'"),
        ((2, 2), "bool", "`dtype`.*Received: dtype='bool'"),
        ((2, None), None, r"`shape`.*Received: shape=\(2, None\)"),
        ((2, -2), None, "`shape`.*Received: shape=-2"),
    ],
)
def test_bad_calls(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        MimeticMean()(shape, dtype)
    with pytest.raises(ValueError, match=r"`output_axes`.*shape is \(2, 3\)"):
        MimeticMean(input_axes=(0,), output_axes=(2,))((2, 3))


def test_a_bias_warns():
    layer = keras.layers.Dense(3, bias_initializer=MimeticMean(seed=0))
    with pytest.warns(UserWarning, match=r"is for kernels.*bias or scale of shape \(3,\)"):
        layer.build((None, 2))
