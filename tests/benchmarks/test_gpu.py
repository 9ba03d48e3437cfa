import csv
import sys
import types

import keras
import pytest
import scripts
from paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from lib import gpu_parts

BACKEND = keras.backend.backend()
SMALL = (
    *("--model", "vit_trial", "--image-size", 32, "--batch-size", 4, "--classes", 3),
    *("--state-space", 16, 4, 8, 2, "--lengths", 16, "--seconds", 0.02, "--dataset", "digits"),
    *("--train-size", 64, "--epochs", 1, "--seeds", 1, "--cifar-model", "vit"),
)


def run(folder, *arguments, **options):
    given = (*SMALL, "--output", folder, *arguments)
    finished = scripts.run("benchmarks/gpu.py", *given, **options)
    assert finished.returncode == 0, finished.stderr
    head, rule, *rows = finished.stdout[finished.stdout.index("| part") :].splitlines()
    assert head.count("|") == rule.count("|")
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows]


def read(folder):
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_measurement_is_made_once(tmp_path):
    rows = run(tmp_path, "--part", "images", "state-space")
    lines = read(tmp_path)
    assert [line["what"] for line in lines] == [row[1] for row in rows]
    assert lines[0]["what"] == "vit_trial, 32 pixels, batch 4, bfloat16"
    assert sum("ours, 16 x 16" in line["what"] for line in lines) == 2
    for line in lines:
        assert float(line["value"]) > 0
        assert line["backend"] == BACKEND
        assert f"keras {keras.__version__}" in line["versions"]
    assert run(tmp_path, "--part", "images", "state-space") == rows
    assert read(tmp_path) == lines
    # Another size is another measurement.
    more = run(tmp_path, "--part", "images", "--image-size", 64, "--minutes", 1e-9)
    assert len(more) == len(rows) + 1


def test_a_file_without_its_header_is_kept(tmp_path):
    run(tmp_path, "--part", "cifar10", "--minutes", 1e-9)
    path = tmp_path / "results.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    finished = scripts.run("benchmarks/gpu.py", *SMALL, "--output", tmp_path, "--part", "cifar10")
    assert finished.returncode == 1
    assert "results.csv, line 1: the columns must be part, what" in finished.stderr
    assert path.read_text() == "".join(lines[1:])


@pytest.mark.one_backend
def test_what_does_not_fit_in_the_time_is_listed_as_missing(tmp_path):
    rows = run(tmp_path, "--minutes", 1e-9)
    assert {row[0] for row in rows} == set(gpu_parts.PARTS)
    assert {row[2] for row in rows} == {"not yet measured"}
    lines = read(tmp_path)
    assert len(lines) == len(rows)
    assert not any(line["value"] for line in lines)
    # A second call measures what the first had no time for.
    more = run(tmp_path, "--part", "state-space")
    assert [row[:2] for row in more] == [row[:2] for row in rows]
    assert {row[0] for row in more if row[2] != "not yet measured"} == {"state-space"}


@pytest.mark.one_backend
def test_a_measurement_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise MemoryError("The GPU is full.\nAnd more.")

    monkeypatch.setattr(gpu_parts, "_keras_rate", fails)
    rows = run(tmp_path, "--part", "images", "state-space")
    assert rows[0][2] == "failed: MemoryError"
    assert len(rows) > 2
    assert all(float(row[2]) > 0 for row in rows[1:])
    # It is tried again by the next call.
    monkeypatch.undo()
    assert float(run(tmp_path, "--part", "images")[0][2]) > 0


@pytest.mark.skipif(BACKEND != "torch", reason="timm is in PyTorch")
def test_timm_is_measured_too(tmp_path, monkeypatch):
    import torch

    def create_model(name, num_classes):
        assert (name, num_classes) == ("small", 3)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, num_classes))

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    monkeypatch.setattr(gpu_parts, "TIMM", {"vit_trial": "small"})
    rows = run(tmp_path, "--part", "images")
    assert [row[1].split(",")[0] for row in rows] == ["vit_trial", "timm small"]
    assert all(float(row[2]) > 0 for row in rows)


def test_runs_that_took_all_the_time_are_kept(tmp_path, monkeypatch):
    def compare(args, results, folder):
        results.deadline = 0.0
        names = [gpu_parts._run_name("vit", variant, 0, args) for variant in ("default", "all")]
        return dict(zip(names, (40.0, 50.0), strict=True))

    monkeypatch.setattr(gpu_parts, "_compare", compare)
    rows = run(tmp_path, "--part", "cifar10", "--variant", "default", "mean", "all")
    assert [row[2] for row in rows] == ["40", "not yet measured", "50"]


@pytest.mark.one_backend
def test_backends_in_processes_with_runs_on_images(tmp_path):
    rows = run(tmp_path, "--backends", "torch", "--part", "cifar10", "--variant", "default")
    name = "vit, default, seed 0, digits, 64 images, augmentation auto, 1 epochs, bfloat16"
    assert [row[:2] for row in rows] == [["cifar10", name]]
    assert 0 < float(rows[0][2]) < 100
    # Other settings are other measurements.
    more = ("--backends", "torch", "--part", "cifar10", "--variant", "default")
    other = run(tmp_path, *more, "--augment", "on")
    assert other[0] == rows[0]
    assert "augmentation on" in other[1][1]
    assert 0 < float(other[1][2]) < 100
    # Without time left, existing measurements are shown.
    assert run(tmp_path, *more, "--minutes", 1e-3) == other


@pytest.mark.parametrize(
    ("option", "message"),
    [("--cifar-model", "must be among "), ("--variant", "no variant is called 'foo'")],
)
def test_unknown_names_are_refused(tmp_path, option, message):
    given = (*SMALL, "--output", tmp_path, "--part", "cifar10", option, "foo")
    finished = scripts.run("benchmarks/gpu.py", *given)
    assert finished.returncode == 1
    assert option in finished.stderr
    assert message in finished.stderr
    assert not (tmp_path / "results.csv").exists()
