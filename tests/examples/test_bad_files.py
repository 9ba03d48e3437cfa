"""Files and options of the examples that are malformed: one sentence each."""

import argparse
import importlib
import json
import pathlib
import pickle

import numpy as np
import pytest

from common import data, folders, options, pictures

GOOD = {
    "x_train": np.zeros((6, 8, 8, 1), np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": np.zeros((3, 8, 8, 1), np.uint8),
    "y_test": np.arange(3),
}


def saved(path, **changes):
    np.savez(path, **{**GOOD, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: saved(p, x_train=np.array([{}], object)), "must be an .npz file"),
        (lambda p: p.write_bytes(pickle.dumps({"x_train": 1})), "must be an .npz file"),
        (lambda p: p.write_text("no archive"), "must be an .npz file"),
        (lambda p: np.savez(p, x_train=np.zeros(3)), "must be an .npz file"),
        (lambda p: p.mkdir(), "must be an .npz file"),
        (lambda p: None, "There is no file"),
        (lambda p: saved(p, x_test=GOOD["x_test"][:0], y_test=GOOD["y_test"][:0]), "must hold"),
        (lambda p: saved(p, x_train=GOOD["x_train"].astype(float)), "must hold uint8 images"),
        (lambda p: saved(p, y_train=np.int64(3)), "must hold uint8 images"),
        (lambda p: saved(p, y_train=np.arange(5)), "must hold uint8 images"),
        (lambda p: saved(p, y_train=np.full(6, -1)), "must hold uint8 images"),
        (lambda p: saved(p, x_train=GOOD["x_train"][:, :3]), "4 x 4 pixels or more"),
        (lambda p: saved(p, x_test=GOOD["x_test"][:, :4]), "of one shape"),
        (lambda p: saved(p, y_train=np.r_[np.arange(5), 2**40]), "must hold uint8 images"),
    ],
)
def test_npz_files(make, message, tmp_path):
    path = tmp_path / "file.npz"
    make(path)
    with pytest.raises(data.DatasetError, match=message):
        data.load(str(path))


def test_a_good_npz_file(tmp_path):
    saved(tmp_path / "file.npz", y_train=np.arange(6)[:, None])
    loaded = data.load(str(tmp_path / "file.npz"))
    assert loaded.classes == 6
    assert loaded.train[1].dtype == np.int32


ROW = {
    **{"model": "vit", "init": "all", "learning_rate": 0.002, "seed": 0},
    **{"validation_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 1.5, "curve": "0.5 0.25"},
    **{"backend": "torch", "hardware": "h, 2 cores", "versions": "v"},
}


@pytest.fixture
def runs(tmp_path):
    runs = folders.Runs(tmp_path, {"a": 1})
    for seed in range(2):
        runs.add({**ROW, "seed": seed})
    return runs.path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model,init", "name,init", "line 1: the columns must be model, init"),
        ("seed,valid", "seed,more,valid", "line 1: the columns must be"),
        ("vit,all,0.002,1,", "vit,all,0.002,", "line 3: the number of fields"),
        ("vit,all,0.002,1,", "vit,all,0.002,one,", "line 3: invalid literal for int"),
        ("0.002,1,0.5,", "0.002,1,,", "line 3: could not convert string to float"),
    ],
)
def test_runs_that_were_edited(old, new, message, runs):
    text = runs.read_text()
    assert old in text
    runs.write_text(text.replace(old, new, 1))
    with pytest.raises(folders.SettingsError, match=f"runs.csv, {message}"):
        folders.Runs(runs.parent, {"a": 1})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": null}', "\udcff"])
def test_settings_that_were_edited(text, runs):
    path = runs.parent / "args.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(folders.SettingsError, match="cannot be read"):
        folders.Runs(runs.parent, {"a": 1})
    path.write_text(json.dumps({"settings": {"a": 1}}))
    assert len(folders.Runs(runs.parent, {"a": 1}).rows) == 2


def test_titles_are_no_formulas(tmp_path):
    pytest.importorskip("matplotlib")
    runs = folders.Runs(tmp_path, {"a": 1})
    runs.add(ROW)
    assert pictures.curves(runs, {"vit": {"all": (0.002, [0])}}, r"$\frac{$.npz: 3 images").exists()


@pytest.mark.parametrize("text", ["-1", str(2**32), "1.5", "x", ""])
def test_seeds(text):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--seed", type=options.seed)
    with pytest.raises(argparse.ArgumentError, match="argument --seed"):
        parser.parse_args([f"--seed={text}"])
    assert parser.parse_args(["--seed", str(2**32 - 1)]).seed == 2**32 - 1


def test_folders_are_local(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    assert options.folder("~/run") == pathlib.Path("/home/someone/run")
    with pytest.raises(argparse.ArgumentTypeError, match="on this machine, which gs://a/b is not"):
        options.folder("gs://a/b")


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("look_inside", ["--weights", ""]),
        ("look_inside", ["--preset", " "]),
        ("look_inside", ["--seed", "-1"]),
        ("imagenet.recipe", ["--seed", str(2**32)]),
        ("imagenet.recipe", ["--output", "gs://bucket"]),
        ("cifar10", ["--dataset", ""]),
        ("cifar10", ["--output", ""]),
        ("cifar10", ["--epochs", "9" * 400]),
        ("recall", ["--width", "7"]),
    ],
)
def test_options(script, given, capsys):
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).parse(given)
    assert caught.value.code == 2
    assert f"argument {given[0]}: " in capsys.readouterr().err
