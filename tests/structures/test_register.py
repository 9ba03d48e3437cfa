"""A structure from outside of the package: classifier heads that start at zero."""

import keras
import numpy as np
import paths
import pytest
from keras import layers

import keras_mimetic
from keras_mimetic import structures
from keras_mimetic._structures import STRUCTURES

# The example of the docs, but for its last two lines.
PAGE = (paths.ROOT / "docs" / "api" / "structures.md").read_text()
EXAMPLE = PAGE.split("```python\n")[1].split("structures.register(")[0]
names = {}
exec(EXAMPLE, names)
ZeroHead = names["ZeroHead"]


@pytest.fixture
def zero_head():
    structures.register(ZeroHead())
    yield
    del STRUCTURES["zero_head"]


def make():
    inputs = keras.Input((16,))
    x = layers.LayerNormalization()(inputs)
    x = inputs + layers.Dense(16)(layers.Dense(32, "gelu")(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def test_it_is_written_and_measured_like_the_others(zero_head):
    model = make()
    report = keras_mimetic.initialize(model, seed=0)
    assert {row.structure for row in report.written} == {"mlp", "zero_head"}
    assert "all 0" in str(report)
    settings = {"zero_head": {"value": 0.5}}
    (row,) = keras_mimetic.initialize(model, settings, seed=0).rows
    assert row.norm_after == pytest.approx(0.5 * np.sqrt(48))
    measured = keras_mimetic.measure(model)
    (row,) = measured.select(structure="zero_head")
    assert row.value == pytest.approx(0.5 * np.sqrt(48))
    assert "zero_head" in str(measured)


def test_what_cannot_be_registered(zero_head):
    with pytest.raises(ValueError, match="named 'zero_head'"):
        structures.register(ZeroHead())
    with pytest.raises(TypeError, match="must be an instance of a subclass of `Structure`"):
        structures.register(ZeroHead)


def test_it_is_unknown_before():
    with pytest.raises(ValueError, match="Received: 'zero_head'"):
        keras_mimetic.initialize(make(), "zero_head")
