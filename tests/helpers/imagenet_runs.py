"""Small runs of examples/imagenet and their results."""

import csv
import os
import subprocess
import sys

import numpy as np
from paths import EXAMPLES

SCRIPT = EXAMPLES / "imagenet"
SMALL = (
    *("--dataset", "synthetic", "--model", "vit_trial", "--image-size", 32, "--epochs", 2),
    *("--warmup-epochs", 1, "--batch-size", 32, "--verbose", 2),
)


def arguments(*given, output=None):
    given = (*given, *(("--output", output) if output else ()))
    return [str(argument) for argument in given]


def run(*given, output=None, **environment):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments(*given, output=output)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def history_of(folder, without=("seconds",)):
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if k not in without} for row in rows]


def variables_of(folder):
    with np.load(folder / "checkpoint.npz") as file:
        return {name: file[name] for name in file.files if name != "history"}
