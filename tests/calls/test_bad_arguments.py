"""Bad arguments of every public call raise a clear error that names them, and change no model.

The values are drawn with a seed, besides those that were often passed by mistake.
"""

import inspect

import keras
import numpy as np
import pytest

import keras_mimetic
from keras_mimetic._structures import STRUCTURES as STRUCTURES_BY_NAME
from keras_mimetic.callbacks import StructureLogger
from keras_mimetic.initializers import MimeticDepthwise, MimeticMean, sigma_at_depth
from keras_mimetic.layers import MimeticMLPBlock, MimeticMultiHeadAttention, MimeticStateSpace

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the checks are the same on every backend"
)
RANDOM = np.random.default_rng(0)
NAN, INF = float("nan"), float("inf")


def drawn(low, high, count=2):
    return [float(x) for x in RANDOM.uniform(low, high, count)]


NO_NUMBER = ["1", None, True, [1], {}, 1j, object(), np.ones(2)]
NO_INTEGER = [*NO_NUMBER, *drawn(1, 9), NAN, INF]
NOT_POSITIVE = [0, -1, *(-int(n) for n in RANDOM.integers(1, 10**9, 2))]
NO_FLAG = [0, 1, None, "True", [True], np.True_, NAN]
NO_CHOICE = ["nothing", "", 1, 0.5, [], True]
COUNT = [*NO_INTEGER, *NOT_POSITIVE]
OPTIONAL_COUNT = [value for value in COUNT if value is not None]
NUMBER = [*NO_NUMBER, NAN, INF, -INF, 10**400, 1e39, -1.1e6]
POSITIVE = [*NUMBER, *NOT_POSITIVE, *drawn(-9, 0)]
FRACTION = [*NUMBER, 1, *drawn(1, 9), *drawn(-9, 0)]
SEED = [value for value in NO_INTEGER if value is not None] + [-1, -(2**40)]
OPTIONAL_NUMBER = [value for value in NUMBER if value is not None]
NO_INITIALIZER = [None, "nothing", 3, [], 0.5]
NO_PAIR = [0.7, "ab", (), (1,), (1, 2, 3), (0, 0), (-1, 0), ("a", 1), (NAN, 1), (1, INF), {}, True]
NO_PAIR += [(1e39, 0), (1, -1e7)]
NO_SHAPE = [3, None, "33", (3, -1), (3, None), (3, 1.5), {3: 3}, {3, 4}, object()]
NO_DTYPE = ["int32", "bool", "nothing", 3]

LAYERS = {
    MimeticMLPBlock: (
        {"hidden_dim": 8},
        {
            "hidden_dim": COUNT,
            "output_dim": OPTIONAL_COUNT,
            "mean": NUMBER,
            "hidden_bias": NUMBER,
            "norm": NO_CHOICE,
            "residual": NO_FLAG,
            "dropout": FRACTION,
            "use_bias": NO_FLAG,
            "activation": ["nothing", 3, [1]],
            "fc2_initializer": NO_INITIALIZER,
            "bias_initializer": NO_INITIALIZER,
            "kernel_regularizer": ["nothing", 3],
            "bias_regularizer": ["nothing", 3],
            "kernel_constraint": ["nothing", 3],
            "seed": SEED,
            "dtype": ["int32", "int8_from_float32"],
        },
    ),
    MimeticStateSpace: (
        {},
        {
            **dict.fromkeys(("state_dim", "head_dim", "expand", "num_groups", "chunk_size"), COUNT),
            "conv_width": COUNT,
            "a_log": [*OPTIONAL_NUMBER, 81],
            "dt": [value for value in POSITIVE if value is not None],
            "correlation": [*OPTIONAL_NUMBER, 1.1, -2],
            "convolution": NO_CHOICE,
            "use_bias": NO_FLAG,
            "go_backwards": NO_FLAG,
            "seed": SEED,
            "dtype": ["int32", "int8_from_float32"],
        },
    ),
    MimeticMultiHeadAttention: (
        {"num_heads": 2, "key_dim": 4},
        {
            "num_heads": COUNT,
            "key_dim": COUNT,
            "value_dim": OPTIONAL_COUNT,
            "dropout": FRACTION,
            "use_bias": NO_FLAG,
            "output_shape": ["8", -1, 0, 1.5, True, [8, -1], {8}],
            "attention_axes": ["1", 1.5, True, [1.5]],
            "causal": NO_FLAG,
            "query_key": NO_PAIR,
            "value_output": NO_PAIR,
            "kernel_initializer": NO_INITIALIZER,
            "seed": SEED,
        },
    ),
    MimeticMean: (
        {},
        {
            "mean": NUMBER,
            "scale": POSITIVE,
            "mode": [*NO_CHOICE, None],
            "distribution": [*NO_CHOICE, None],
            "seed": SEED,
            "input_axes": [0, "0", (), (0.5,), (0,)],
            "output_axes": [0, "0", (), (0.5,), (0,)],
        },
    ),
    MimeticDepthwise: (
        {"sigma": 1.0},
        {
            "sigma": POSITIVE,
            "gain": [*POSITIVE, "nothing"],
            "seed": SEED,
        },
    ),
    StructureLogger: (
        {},
        {
            "every": COUNT,
            "figures": ["mlp", 3, True, [3], [[]], {"mlp": 1}, object()],
            "by_layer": NO_FLAG,
            "structures": ["nothing", 3, True, [3], {}, [], {"mlp": {}}, b"mlp"],
        },
    ),
    sigma_at_depth: (
        {"x": 0.5},
        {
            "x": [*NUMBER, 1.1, -0.1],
            **dict.fromkeys(("sigma_0", "velocity", "acceleration"), NUMBER),
        },
    ),
}
TABLE = [
    pytest.param(make, {**good, name: value}, name, id=f"{make.__name__}-{name}-{number}")
    for make, (good, arguments) in LAYERS.items()
    for name, values in arguments.items()
    for number, value in enumerate(values)
]
CALLS = {
    "shape": [((value, "float32"), "shape") for value in NO_SHAPE],
    "dtype": [(((3, 3, 2, 1), value), "dtype") for value in NO_DTYPE],
}
WRONG_MODEL = [None, 3, "model", keras.layers.Dense, object(), [keras.layers.Dense(2)]]
STRUCTURES = ["nothing", ["mlp", "nothing"], 3, {"nothing": {}}, {"mlp": None}, [3], b"mlp"]
RULES = ["mlp", 3, [1], {"kernel": "nothing"}, {"(": "mlp"}, {"no such weight": "mlp"}, {3: "mlp"}]
SETTINGS = {
    "mlp": {
        "mean": NO_NUMBER[2:],
        "hidden_bias": [True, [1], {}, NAN, INF],
    },
    "attention": {"query_key": NO_PAIR, "value_output": [(1,), "a"]},
    "depthwise": {
        "gain": ["nothing", 0, NAN],
        "sigma_0": ["1", INF],
        "velocity": ["1", None],
        "acceleration": ["1", NAN],
    },
    "state_space": {
        "dt": [0, "1"],
        "a_log": ["1", 81, NAN],
        "correlation": [2],
        "convolution": [3],
    },
    "position": {"rms": ["nothing", 0, "1", NAN]},
}
INPUTS = [
    *("x", b"x", True, 3, 1.5, [], (), {}, [3], {"keras_tensor": True}, object(), (2, 6, 8)),
    *(keras.KerasTensor(shape) for shape in [(None, 5, 8), (None, 6), (None, 6, 9)]),
    {"nothing": keras.KerasTensor((None, 6, 8))},
]
# Of `initialize`.
GIVEN = {
    "structures": STRUCTURES,
    "rules": RULES,
    "seed": SEED,
    "control": NO_FLAG,
    "dry_run": NO_FLAG,
    "force": NO_FLAG,
    "inputs": INPUTS,
}
FUNCTIONS = [
    *(("initialize", name, value) for name, values in GIVEN.items() for value in values),
    *(
        ("initialize", name, {structure: {name: value}})
        for structure, settings in SETTINGS.items()
        for name, values in settings.items()
        for value in values
    ),
    *(
        ("measure", name, value)
        for name in ("structures", "rules", "inputs")
        for value in GIVEN[name]
    ),
    *(("reset", "seed", value) for value in SEED),
    *(
        (name, "model", value)
        for name in ("initialize", "measure", "reset")
        for value in WRONG_MODEL
    ),
]


def assert_clear(error, name):
    text = str(error)
    assert name in text, text
    assert "eceived" in text or "Rule" in text or "has been trained" in text, text


def test_there_are_many_cases():
    assert len(TABLE) + len(FUNCTIONS) + sum(map(len, CALLS.values())) >= 250


# Read by their own tests, or anything that Keras's base classes take.
OTHER = {"self", "kwargs"}


# `register` is tested with a structure of its own.
@pytest.mark.parametrize("name", [x for x in keras_mimetic.__all__ if x != "structures"])
def test_every_argument_has_cases(name):
    """A new argument of a public call needs bad values here."""
    public = getattr(keras_mimetic, name)
    if inspect.ismodule(public):
        for each in public.__all__:
            make = getattr(public, each)
            assert {*inspect.signature(make).parameters} - OTHER <= _covered(make), each
    elif inspect.isfunction(public):
        covered = {given for function, given, _ in FUNCTIONS if function == name}
        assert {*inspect.signature(public).parameters} <= covered


def _covered(make):
    _, arguments = LAYERS[make]
    return {*arguments, *(("rules", "inputs") if make is StructureLogger else ())}


def test_every_setting_has_cases():
    for name, structure in STRUCTURES_BY_NAME.items():
        assert {*structure.defaults} <= {*SETTINGS[name]}


@pytest.mark.parametrize(("make", "arguments", "name"), TABLE)
def test_arguments_of_layers_and_initializers(make, arguments, name):
    with pytest.raises((TypeError, ValueError)) as caught:
        make(**arguments)
    assert_clear(caught.value, name)


@pytest.mark.parametrize("initializer", [MimeticMean(), MimeticDepthwise(1.0)])
@pytest.mark.parametrize(("given", "name"), [pair for pairs in CALLS.values() for pair in pairs])
def test_arguments_of_calls(initializer, given, name):
    with pytest.raises((TypeError, ValueError)) as caught:
        initializer(*given)
    if name == "shape":
        assert_clear(caught.value, name)


@pytest.fixture(scope="module")
def model():
    x = inputs = keras.Input((6, 8))
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    x = keras.layers.DepthwiseConv1D(3, padding="same")(x)
    x = MimeticStateSpace(4, 8)(x)
    x = keras.layers.Dense(16, "relu")(keras.layers.LayerNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(8)(x))


@pytest.mark.parametrize(("function", "name", "value"), FUNCTIONS)
def test_arguments_of_functions(function, name, value, model):
    before = model.get_weights()
    arguments = {"model": model}
    is_setting = function == "initialize" and name not in GIVEN and name != "model"
    arguments["structures" if is_setting else name] = value
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(keras_mimetic, function)(**arguments)
    if name == "rules" and "Rule " in str(caught.value):
        name = "Rule"
    if name == "structures" and "Settings of" in str(caught.value):
        name = "Settings of the structure"
    assert_clear(caught.value, name)
    for a, b in zip(before, model.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def trained(model):
    return keras_mimetic.measure(model)


METHODS = [
    *(("plot", "before", value) for value in ["x", 3, True, {}, [], object()]),
    *(("plot", "title", value) for value in [None, 3, True, b"x", []]),
    *(("to_csv", "path", value) for value in [3, True, [], {}, 1.5, object()]),
    *(("select", name, 3) for name in ("nothing", "layers", "")),
    *(("select", name, "nothing") for name in ("structure", "part", "figure")),
]


@pytest.mark.parametrize(("method", "name", "value"), METHODS)
def test_arguments_of_measurements(method, name, value, trained):
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(trained, method)(**{name: value})
    assert_clear(caught.value, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("rules", "inputs") for value in GIVEN[name]],
)
def test_arguments_of_a_logger_before_training(name, value, model):
    logger = StructureLogger(**{name: value})
    logger.set_model(model)
    with pytest.raises((TypeError, ValueError)) as caught:
        logger.on_train_begin()
    assert_clear(caught.value, "Rule" if "Rule " in str(caught.value) else name)


@pytest.mark.parametrize("value", [-1, 2.0, "a", True, [2]])
def test_sizes_of_a_batch(value):
    layer = MimeticStateSpace(4, 8)
    layer.build((None, 6, 8))
    with pytest.raises((TypeError, ValueError)) as caught:
        layer.get_initial_state(value)
    assert_clear(caught.value, "batch_size")


@pytest.mark.parametrize("value", [0, "yes", None])
def test_invalid_return_state(value):
    with pytest.raises(TypeError, match="`return_state`"):
        MimeticStateSpace(4, 8)(np.zeros((1, 3, 8), "float32"), return_state=value)
