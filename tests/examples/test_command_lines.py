"""What scripts print before they import Keras, and what they write to a file."""

import contextlib
import io
import os
import re
import subprocess
import sys

import pytest
from paths import ROOT

SCRIPTS = (
    *(f"examples/{name}" for name in ("cifar10.py", "imagenet", "language.py", "look_inside.py")),
    "examples/recall.py",
    *(f"benchmarks/{name}.py" for name in ("compare", "verdict", "gpu", "speed", "state_space")),
    "benchmarks/language_once.py",
)
WITHOUT_KERAS = """
import runpy, sys
sys.modules["keras"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without_keras(script, *arguments):
    # With PYTHONSAFEPATH Python leaves the folder of a script out of its path.
    command = [sys.executable, "-P", "-c", WITHOUT_KERAS, ROOT / script, *arguments]
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_wrong_options_need_no_keras(script):
    finished = run_without_keras(script, "--help")
    assert finished.returncode == 0, finished.stderr
    assert "\noptions:\n" in finished.stdout
    given = ("results",) if "verdict" in script else ()
    finished = run_without_keras(script, *given, "--seeds=x")
    assert finished.returncode == 2
    assert "error: " in finished.stderr


def test_a_backend_that_is_not_installed_says_what_to_do():
    environment = {**os.environ, "KERAS_BACKEND": "missing"}
    command = [sys.executable, ROOT / "examples" / "cifar10.py"]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith("Keras cannot load its backend (Unable to import backend : missing)")
    assert os.environ["KERAS_BACKEND"] in line


def test_names_of_options_are_those_of_what_they_choose():
    from common import models, options
    from imagenet import models as imagenet_models
    from imagenet import recipe

    assert tuple(models.MODELS) == options.MODELS
    assert tuple(imagenet_models.MODELS) == recipe.MODELS


@pytest.mark.one_backend
def test_without_a_terminal_epochs_are_lines(tmp_path):
    import cifar10

    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        small = ["--model", "mixer", "--init", "default", "--epochs", "2", "--train-size", "64"]
        cifar10.main([*small, "--seeds", "1", "--output", str(tmp_path)])
    text = output.getvalue()
    first, *lines = text.splitlines()
    assert first.startswith("Training on scikit-learn's 8x8 digits; --dataset cifar10")
    assert sum("val_accuracy" in line for line in lines) == 2
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
