import math

import keras
import numpy as np
import pytest
from arrays import array
from keras_checks import run_class_serialization_test, traced

from keras_mimetic.initializers import MimeticDepthwise, sigma_at_depth


@pytest.mark.parametrize(
    "arguments",
    [
        {"sigma": 0.5},
        {"sigma": 0.5, "seed": 3},
        {"sigma": sigma_at_depth(1.0), "gain": "fan_in", "seed": 2**70},
        {"sigma": 1, "gain": 2.0},
    ],
)
def test_serialization(arguments):
    initializer = MimeticDepthwise(**arguments)
    run_class_serialization_test(initializer)
    clone = MimeticDepthwise.from_config(initializer.get_config())
    same = np.array_equal(array(initializer((3, 3, 8, 1))), array(clone((3, 3, 8, 1))))
    assert same == ("seed" in arguments)


def test_identifier():
    identifier = {
        "class_name": "keras_mimetic>MimeticDepthwise",
        "config": {"sigma": 0.3, "seed": 1},
    }
    assert keras.initializers.get(identifier).sigma == 0.3


@pytest.mark.parametrize("shape", [(7, 7, 384, 1), (7, 7, 1, 384), (5, 32, 2), (3, 3, 3, 16, 1)])
def test_gains(shape):
    pixels, (a, b) = math.prod(shape[:-2]), shape[-2:]
    glorot = math.sqrt(2 / (pixels * (a + b)))
    for gain, rms in (("keras", glorot), ("fan_in", 1 / math.sqrt(pixels))):
        values = array(MimeticDepthwise(0.5, gain=gain, seed=0)(shape))
        assert values.shape == shape
        assert math.sqrt((values**2).mean()) == pytest.approx(rms, rel=0.2)
    norms = [
        np.linalg.norm(array(MimeticDepthwise(0.5, gain=gain, seed=0)(shape)))
        for gain in ("fan_in", 3.0)
    ]
    assert norms[1] / norms[0] == pytest.approx(3, rel=1e-5)


def test_the_scales_of_the_documentation():
    keras_default = array(keras.initializers.GlorotUniform(seed=0)((7, 7, 384, 1)))
    ours = array(MimeticDepthwise(0.9, seed=0)((7, 7, 384, 1)))
    assert keras_default.std() == pytest.approx(0.010, abs=0.0005)
    assert math.sqrt((ours**2).mean()) == pytest.approx(0.010, abs=0.001)
    fan_in = array(MimeticDepthwise(0.9, gain="fan_in", seed=0)((7, 7, 384, 1)))
    assert math.sqrt((fan_in**2).mean()) == pytest.approx(0.143, abs=0.01)


def test_every_layout_has_the_same_filters():
    # (window, channels, multiplier) and (window, 1, filters): the window is one filter's.
    plain = array(MimeticDepthwise(1.9, gain="fan_in", seed=4)((5, 5, 6, 2)))
    grouped = array(MimeticDepthwise(1.9, gain="fan_in", seed=4)((5, 5, 1, 12)))
    np.testing.assert_array_equal(plain.reshape(5, 5, 12), grouped.reshape(5, 5, 12))
    filters = plain.reshape(25, 12)
    assert np.mean(filters[12] * filters[13]) > 0.5 * np.mean(filters[12] ** 2)


@pytest.mark.parametrize(
    ("layer", "shape", "name"),
    [
        (keras.layers.DepthwiseConv1D, (2, 12, 4), "depthwise_initializer"),
        (keras.layers.DepthwiseConv2D, (2, 12, 12, 4), "depthwise_initializer"),
        (keras.layers.SeparableConv1D, (2, 12, 4), "depthwise_initializer"),
        (keras.layers.SeparableConv2D, (2, 12, 12, 4), "depthwise_initializer"),
    ],
)
def test_in_layers(layer, shape, name):
    filters = (8,) if "Separable" in layer.__name__ else ()
    built = layer(*filters, kernel_size=4, **{name: MimeticDepthwise(0.5, seed=2)})
    outputs = array(built(np.ones(shape, "float32")))
    assert np.isfinite(outputs).all()
    kernel = built.depthwise_kernel if filters else built.kernel
    expected = MimeticDepthwise(0.5, seed=2)(kernel.shape)
    np.testing.assert_array_equal(array(kernel), array(expected))


@pytest.mark.parametrize("rank", [1, 2])
def test_in_grouped_convolutions(rank):
    layer = getattr(keras.layers, f"Conv{rank}D")
    built = layer(8, 3, groups=8, kernel_initializer=MimeticDepthwise(0.5, seed=2))
    built.build((None, *[9] * rank, 8))
    assert np.isfinite(array(built.kernel)).all()
    assert built.kernel.shape[-2:] == (1, 8)


def test_saves_with_a_model(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.DepthwiseConv2D(3, depthwise_initializer=MimeticDepthwise(0.5, seed=1)),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded.layers[0].kernel), array(model.layers[0].kernel))
    assert loaded.layers[0].depthwise_initializer.get_config()["sigma"] == 0.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes_round_the_same_sample(dtype):
    exact = MimeticDepthwise(0.5, seed=1)((3, 3, 8, 1))
    values = MimeticDepthwise(0.5, seed=1)((3, 3, 8, 1), dtype=dtype)
    assert keras.backend.standardize_dtype(values.dtype) == dtype
    np.testing.assert_array_equal(array(values), array(keras.ops.cast(exact, dtype)))


def test_seeds():
    keras.utils.set_random_seed(5)
    first = array(MimeticDepthwise(0.5)((3, 3, 4, 1)))
    second = array(MimeticDepthwise(0.5)((3, 3, 4, 1)))
    keras.utils.set_random_seed(5)
    again = array(MimeticDepthwise(0.5)((3, 3, 4, 1)))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    generator = keras.random.SeedGenerator(1)
    stream = MimeticDepthwise(0.5, seed=generator)
    assert (array(stream((3, 3, 4, 1))) != array(stream((3, 3, 4, 1)))).any()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"sigma": 0}, ValueError, "`sigma` must be a finite number > 0 .*Received: sigma=0"),
        ({"sigma": -1.0}, ValueError, "sigma=-1.0"),
        ({"sigma": float("nan")}, ValueError, "sigma=nan"),
        ({"sigma": "wide"}, TypeError, "sigma='wide'"),
        ({"sigma": None}, TypeError, "sigma=None"),
        ({"sigma": 1, "gain": "he"}, TypeError, "`gain` must be 'keras', 'fan_in' or a finite"),
        ({"sigma": 1, "gain": 0}, ValueError, "gain=0"),
        ({"sigma": 1, "gain": None}, TypeError, "gain=None"),
        ({"sigma": 1, "seed": -1}, ValueError, "seed=-1"),
        ({"sigma": 1, "seed": 1.5}, TypeError, "seed=1.5"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        MimeticDepthwise(**arguments)


@pytest.mark.parametrize(
    ("shape", "dtype", "match"),
    [
        ((3, 8), None, r"is for the kernels of convolutions.*shape=\(3, 8\)"),
        ((0, 3, 8, 1), None, "kernels of convolutions"),
        ((3, 3, 8, 1), "int32", "`dtype` must be a floating type"),
    ],
)
def test_bad_calls(shape, dtype, match):
    with pytest.raises(ValueError, match=match):
        MimeticDepthwise(0.5, seed=0)(shape, dtype=dtype)


def test_integer_seeds_inside_a_trace():
    values = traced(lambda: MimeticDepthwise(0.5, seed=3)((3, 3, 4, 1)))
    expected = MimeticDepthwise(0.5, seed=3)((3, 3, 4, 1))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(values), array(expected))


def test_seed_generator_inside_a_trace_is_rejected():
    generator = keras.random.SeedGenerator(3)
    with pytest.raises(ValueError, match="SeedGenerator.*traced.*Use an integer seed"):
        traced(lambda: MimeticDepthwise(0.5, seed=generator)((3, 3, 4, 1)))
