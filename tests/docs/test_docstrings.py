"""The examples in docstrings of what is public run, and print what they say."""

import doctest
import importlib
import inspect
import re

import keras
import numpy as np
import paths
import pytest
from keras import layers

import keras_mimetic
from keras_mimetic._structures import STRUCTURES

MODULES = [
    importlib.import_module(f"keras_mimetic{suffix}")
    for suffix in ("", ".callbacks", ".initializers", ".layers")
]


def public_objects():
    """Functions and classes by name, and methods with docstrings of their own."""
    found = {}
    for module in MODULES:
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                found[name] = thing
                for method, value in vars(thing).items() if inspect.isclass(thing) else ():
                    if not method.startswith("_") and inspect.isfunction(value) and value.__doc__:
                        found[f"{name}.{method}"] = value
    return found


OBJECTS = public_objects()
EXAMPLES = {
    name: examples
    for name, thing in OBJECTS.items()
    if (examples := doctest.DocTestParser().get_examples(inspect.getdoc(thing) or ""))
}


class Translator(keras.Model):
    """A subclassed model with two arguments."""

    def __init__(self):
        super().__init__()
        self.source = keras.Sequential([layers.Dense(16, activation="gelu"), layers.Dense(8)])

    def call(self, source, target):
        return self.source(source) + target


def small_model(width=16):
    inputs = keras.Input((10, width))
    x = layers.LayerNormalization()(inputs)
    x = inputs + layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * width, activation="gelu", name="dense")(y)
    return keras.Model(inputs, x + layers.Dense(width, name="contract")(y))


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What examples take for granted."""
    monkeypatch.chdir(tmp_path)
    model = small_model()
    model.save("trained.keras")
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(4, 10, 16)).astype("float32")
    tokens = np.ones((2, 8), "float32")
    translator = Translator()
    translator(tokens, tokens)
    public = {name: getattr(m, name) for m in MODULES[1:] for name in m.__all__}
    return public | {
        "keras": keras,
        "keras_mimetic": keras_mimetic,
        "model": model,
        "larger_model": small_model(32),
        "x": x,
        "y": x,
        "translator": translator,
        "source_tokens": tokens,
        "target_tokens": tokens,
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, names):
    for example in EXAMPLES[name]:
        if example.want:
            # Shapes are tuples, of a class of their own in some backends.
            assert eval(example.source, names) == eval(example.want), example.source
        else:
            exec(example.source, names)


def test_every_public_name_has_an_example():
    assert set(EXAMPLES) >= {name for name in OBJECTS if "." not in name}


@pytest.mark.parametrize("name", OBJECTS)
def test_docstrings_begin_with_a_sentence(name):
    first, *rest = inspect.getdoc(OBJECTS[name]).split("\n")
    assert first.endswith("."), first
    assert not rest or rest[0] == ""
    # "Returns ...", "Draws ..." would not be the imperative.
    if inspect.isfunction(OBJECTS[name]):
        assert not first.split()[0].endswith("s"), first


# The defaults that measurements decided.
DECIDED = {
    **{
        name: OBJECTS[name]
        for name in (
            "MimeticMean",
            "MimeticMLPBlock",
            "MimeticMultiHeadAttention",
            "MimeticStateSpace",
        )
    },
    **{type(entry).__name__: entry for entry in STRUCTURES.values()},
}


@pytest.mark.parametrize("name", DECIDED)
def test_docstrings_name_the_rows_that_decided_the_defaults(name):
    text = " ".join(inspect.getdoc(DECIDED[name]).split())
    tables = set(re.findall(r"`(benchmarks/results/[^`]+)`", text))
    assert tables
    # The results are not in the sdist.
    if not (paths.ROOT / "benchmarks" / "results").exists():
        return
    found = re.findall(r"(`[^`]+`(?:(?:, | and )`[^`]+`)*) in `(bench[^`]+)`", text)
    assert {table for _, table in found} == tables
    for rows, table in found:
        cells = {cell.strip() for cell in (paths.ROOT / table).read_text().split("|")}
        assert set(re.findall("`([^`]+)`", rows)) <= cells, table
