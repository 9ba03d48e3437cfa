import csv
import sys
import types

import keras
import pytest
import scripts

import gpu
from common import folders

BACKEND = keras.backend.backend()
SMALL = (
    *("--model", "vit_trial", "--image-size", 32, "--batch-size", 4, "--classes", 3),
    *("--state-space", 16, 4, 8, 2, "--lengths", 16, "--seconds", 0.02),
)


def run(folder, *arguments):
    finished = scripts.run("benchmarks/gpu.py", *SMALL, "--output", folder, *arguments)
    assert finished.returncode == 0, finished.stderr
    head, rule, *rows = finished.stdout.splitlines()
    assert head.count("|") == rule.count("|")
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows]


def read(folder):
    with (folder / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_measurement_is_made_once(tmp_path):
    rows = run(tmp_path)
    lines = read(tmp_path)
    assert [line["what"] for line in lines] == [row[1] for row in rows]
    assert lines[0]["what"] == "vit_trial, 32 pixels, batch 4, bfloat16"
    assert sum("ours, 16 x 16" in line["what"] for line in lines) == 2
    for line in lines:
        assert float(line["value"]) > 0
        assert line["backend"] == BACKEND
        assert f"keras {keras.__version__}" in line["versions"]
    assert run(tmp_path) == rows
    assert read(tmp_path) == lines
    # Another size is another measurement.
    more = run(tmp_path, "--part", "images", "--image-size", 64)
    assert len(more) == len(rows) + 1


@pytest.mark.one_backend
def test_a_measurement_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    def fails(*_):
        raise MemoryError("The GPU is full.\nAnd more.")

    monkeypatch.setattr(gpu, "_keras_rate", fails)
    rows = run(tmp_path)
    assert rows[0][2] == "failed: MemoryError"
    assert len(rows) > 2
    assert all(float(row[2]) > 0 for row in rows[1:])


@pytest.mark.skipif(BACKEND != "torch", reason="timm is in PyTorch")
def test_timm_is_measured_too(tmp_path, monkeypatch):
    import torch

    def create_model(name, num_classes):
        assert (name, num_classes) == ("small", 3)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, num_classes))

    timm = types.SimpleNamespace(create_model=create_model, __spec__=object())
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setattr(gpu, "TIMM", {"vit_trial": "small"})
    rows = run(tmp_path, "--part", "images")
    assert [row[1].split(",")[0] for row in rows] == ["vit_trial", "timm small"]
    assert all(float(row[2]) > 0 for row in rows)


@pytest.mark.one_backend
def test_the_committed_table_is_that_of_its_rows():
    folder = scripts.ROOT / "benchmarks" / "results" / "gpu"
    if not folder.exists():
        pytest.skip("results are left out of the sdist")
    assert gpu.table(folders.Runs(folder).rows) + "\n" == (folder / "table.md").read_text()
