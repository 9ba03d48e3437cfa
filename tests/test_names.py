"""Initializers by name, and the import without a backend."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

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
    assert f"pip install 'keras-mimetic[{backend}]'" in last
    assert "KERAS_BACKEND" in last
