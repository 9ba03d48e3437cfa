"""A structure from outside of the package: classifier heads that start at zero."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import layers

import keras_mimetic
from keras_mimetic import structures
from keras_mimetic._structures import STRUCTURES


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HeadSite(structures.Site):
    structure: ClassVar[str] = "zero_head"


class ZeroHead(structures.Structure):
    """Dense layers named "head" get a kernel of one value, zero by default."""

    name = "zero_head"
    looks_for = "Dense layers named 'head'"
    defaults: ClassVar = {"value": 0.0}
    legend = "norm: Frobenius norm of the kernel"
    figures = (structures.FigureSpec("kernel", "norm", "norm"),)

    def check(self, settings):
        return {"value": float(settings["value"])}

    def find(self, graph, layers, layer_paths):
        heads = [call.operation for call in graph.calls if call.operation.name == "head"]
        return [self.site_at(layer, layer_paths[layer]) for layer in heads]

    def site_at(self, layer, layer_path):
        return HeadSite(layer_path=layer_path, layer=layer, weights={"kernel": layer.kernel})

    def sample(self, site, settings, seed):
        kernel = np.full(site.weights["kernel"].shape, settings["value"], "float32")
        return structures.NewWeights({"kernel": kernel}, {"kernel": f"all {settings['value']:g}"})

    def control(self, weights, seed):
        return weights

    def measure(self, site, weights):
        norm = float(np.linalg.norm(weights["kernel"]))
        return structures.Measured((structures.Figure("kernel", "norm", norm),))


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
