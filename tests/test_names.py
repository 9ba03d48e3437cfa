"""Initializers by name, and the import without a backend."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_mimetic
from keras_mimetic.initializers import MimeticMean


@pytest.mark.parametrize("name", ["mimetic_mean", "MimeticMean", "keras_mimetic>MimeticMean"])
def test_initializers_by_name(name):
    initializer = keras.initializers.get(name)
    assert type(initializer) is MimeticMean
    assert initializer.get_config() == MimeticMean().get_config()


def test_a_layer_with_a_name_is_saved_as_with_the_class(tmp_path):
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(2):
        model.add(keras.layers.Dense(64, kernel_initializer="mimetic_mean"))
    first, second = (keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers)
    assert (first != second).any()
    assert first.mean() / first.std() == pytest.approx(-0.5 / 8, abs=0.05)
    saved = keras.saving.serialize_keras_object(model.layers[0])["config"]["kernel_initializer"]
    assert saved["registered_name"] == "keras_mimetic>MimeticMean"
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0].kernel_initializer) is MimeticMean
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded.layers[0].kernel), first)


PUBLIC = "import keras_mimetic; print(*dir(keras_mimetic)); keras_mimetic.no_such_name"
IMPORTED = """
import sys
import keras
before = set(sys.modules)
import keras_mimetic
print(*set(sys.modules) - before)
from keras_mimetic import initialize
print(*set(sys.modules) - before)
"""


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True
    )


def test_the_import_brings_what_loading_a_model_needs_and_calls_bring_the_rest():
    finished = run(IMPORTED)
    assert finished.returncode == 0, finished.stderr
    first, then = (set(line.split()) for line in finished.stdout.splitlines())
    assert {"keras_mimetic.layers.state_space", "keras_mimetic.initializers.mean"} <= first
    others = {name for name in first if not name.startswith("keras_mimetic")}
    # Neither SciPy's decompositions, nor matplotlib, nor threadpoolctl: what Keras and NumPy
    # have not imported is a few modules of the standard library.
    assert others <= {*sys.stdlib_module_names, "concurrent.futures.thread"}
    for folder in ("_graph", "_patterns", "_structures", "_initialize", "_measure", "callbacks"):
        assert not any(name.startswith(f"keras_mimetic.{folder}") for name in first)
    assert {"keras_mimetic._initialize", "keras_mimetic._graph.recorder"} <= then


def test_public_names_are_listed_and_others_are_none():
    finished = run(PUBLIC)
    assert set(keras_mimetic.__all__) <= set(finished.stdout.split())
    error = "AttributeError: module 'keras_mimetic' has no attribute 'no_such_name'"
    assert finished.stderr.strip().splitlines()[-1] == error
    for name in keras_mimetic.__all__:
        assert getattr(keras_mimetic, name) is not None
    assert callable(keras_mimetic.initialize)
    for name, hint in (
        ("MimeticMean", "It is keras_mimetic.initializers.MimeticMean"),
        ("StructureLogger", "It is keras_mimetic.callbacks.StructureLogger"),
        ("initialise", "Did you mean 'initialize'"),
    ):
        with pytest.raises(AttributeError, match=hint):
            getattr(keras_mimetic, name)


IMPORT = "import sys; sys.modules[sys.argv[1]] = None; import keras_mimetic"


def test_without_a_backend_the_import_says_what_to_type():
    backend = keras.backend.backend()
    finished = subprocess.run(
        [sys.executable, "-c", IMPORT, backend],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert f"pip install {backend}," in last
    assert "KERAS_BACKEND" in last
