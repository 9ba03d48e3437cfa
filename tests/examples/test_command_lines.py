"""What the examples say before they import Keras, and what they write to a file."""

import contextlib
import io
import os
import re
import subprocess
import sys

import pytest
from paths import EXAMPLES

SCRIPTS = ("cifar10.py", "imagenet", "language.py", "look_inside.py", "recall.py")
WITHOUT_KERAS = """
import runpy, sys
sys.modules["keras"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without_keras(script, *arguments):
    command = [sys.executable, "-c", WITHOUT_KERAS, EXAMPLES / script, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_wrong_options_need_no_keras(script):
    finished = run_without_keras(script, "--help")
    assert finished.returncode == 0, finished.stderr
    _, options = finished.stdout.split("\noptions:\n")
    # Every option has a name for its value and a text in words.
    for option in re.split(r"\n(?=  -)", options):
        head, text = re.match(r" *(--?.*?)(?:  +|\n +)(.*)", option, re.DOTALL).groups()
        assert re.match(r"[A-Za-z0-9]", text), option
        assert "  " not in head
    finished = run_without_keras(script, "--nonsense")
    assert finished.returncode == 2
    assert "unrecognized arguments: --nonsense" in finished.stderr


def test_names_of_options_are_those_of_what_they_choose():
    import recall
    from common import language_text, models, options, recall_tasks, training
    from imagenet import models as imagenet_models

    assert tuple(models.MODELS) == options.MODELS
    assert tuple(imagenet_models.MODELS) == options.IMAGENET_MODELS
    assert tuple(training.INITS) == options.INITS
    assert tuple(recall.INITS) == recall.STARTS
    assert {name: task[2] for name, task in recall_tasks.TASKS.items()} == options.TASKS
    assert tuple(language_text.SOURCES) == options.TEXTS


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
