"""Files and options of the examples that are not as they should be: one sentence each."""

import errno
import json
import os
import pickle

import numpy as np
import pytest

from common import data, folders, options, pictures
from imagenet import checkpoint
from imagenet import sources as imagenet_sources

GOOD = {
    "x_train": np.zeros((6, 8, 8, 1), np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": np.zeros((3, 8, 8, 1), np.uint8),
    "y_test": np.arange(3),
}


def saved(path, **changes):
    np.savez(path, **{**GOOD, **changes})


def spoiled(path, change):
    saved(path)
    path.write_bytes(change(path.read_bytes()))


def images(count, *shape):
    return {"x_train": np.zeros((count, *shape), np.uint8), "y_train": np.zeros(count, int)}


def flipped(content):
    # In the pixels, behind the first array's headers.
    return content[:300] + bytes([content[300] ^ 255]) + content[301:]


def zeros(path, **arrays):
    test = {"x_test": np.zeros((3, *arrays["x_train"].shape[1:]), np.uint8)}
    saved(path, **arrays, **test)


class Objects:
    def __reduce__(self):
        raise AssertionError("nothing may be run")


def npy_as_npz(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def unreadable(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: saved(p, x_train=np.array([{}], object)), "cannot be read as an .npz"),
        (lambda p: p.write_bytes(pickle.dumps({"x_train": 1})), "cannot be read as an .npz"),
        (lambda p: p.write_text("no archive"), "cannot be read as an .npz"),
        (npy_as_npz, "single array"),
        (lambda p: spoiled(p, lambda content: content[:-50]), "cannot be read as an .npz"),
        (lambda p: spoiled(p, lambda content: b""), "cannot be read as an .npz"),
        (lambda p: spoiled(p, flipped), "cannot be read as an .npz"),
        (unreadable, "There is no file"),
        (lambda p: saved(p, x_train=GOOD["x_train"][:0], y_train=GOOD["y_train"][:0]), "Found 0"),
        (lambda p: saved(p, x_test=GOOD["x_test"][:0], y_test=GOOD["y_test"][:0]), "and 0"),
        (lambda p: saved(p, **images(1, 8, 8, 1)), "Found 1 and 3"),
        (lambda p: saved(p, y_train=np.int64(3)), "must hold uint8 images"),
        (lambda p: saved(p, x_train=np.uint8(3)), "must hold uint8 images"),
        (lambda p: saved(p, y_train=np.arange(5)), "must hold uint8 images"),
        (lambda p: saved(p, y_train=np.full(6, -1)), "must hold uint8 images"),
        (lambda p: zeros(p, **images(6, 1, 1, 1)), "4 x 4 pixels or more"),
        (lambda p: zeros(p, **images(6, 0, 0, 1)), "4 x 4 pixels or more"),
        (lambda p: zeros(p, **images(6, 8, 8, 0)), "a channel or more"),
        (lambda p: saved(p, y_train=np.r_[np.arange(5) % 3, 2**40 + 1]), "Found the label 1099511"),
        (lambda p: saved(p, y_train=np.r_[np.arange(5) % 3, 2**31]), "Found the label 2147483648"),
        (lambda p: saved(p, y_test=np.array([0, 1, 2**64 - 1], np.uint64)), "Found the label 184"),
        (lambda p: saved(p, y_train=np.r_[np.arange(5) % 3, 9]), "label 9, with 9 images"),
    ],
)
def test_npz_files(make, message, tmp_path):
    path = tmp_path / "file.npz"
    make(path)
    with pytest.raises(data.DatasetError, match=message) as caught:
        data.load(str(path))
    assert "\n" not in str(caught.value)


def test_a_good_npz_file(tmp_path):
    saved(tmp_path / "file.npz", y_train=np.r_[np.arange(5) % 3, 8])
    loaded = data.load(str(tmp_path / "file.npz"))
    assert loaded.classes == 9
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
        ("vit,all,0.002,0,", "vit,all,0.002,0,0,", "line 2: there are more or fewer fields"),
        ("vit,all,0.002,1,", "vit,all,0.002,", "line 3: there are more or fewer fields"),
        ("vit,all,0.002,1,", "vit,all,0.002,one,", "line 3: invalid literal for int"),
        ("vit,all,0.002,1,", "vit,all,0.002,-1,", "line 3: seed is -1"),
        ("0.002,1,0.5,", "0.002,1,nan,", "line 3: validation_accuracy is nan"),
        ("0.002,1,0.5,", "0.002,1,,", "line 3: validation_accuracy is empty"),
        ("0.002,1,0.5,", "0.002,1,5,", "line 3: validation_accuracy is 5"),
        ("1.5,0.5 0.25", "inf,0.5 0.25", "line 2: seconds is inf"),
        ("0.5 0.25", "0.5 x", "line 2: could not convert string to float"),
        ("vit,all,0.002,0", ",all,0.002,0", "line 2: model is empty"),
    ],
)
def test_runs_that_were_edited(old, new, message, runs):
    text = runs.read_text()
    assert old in text
    runs.write_text(text.replace(old, new, 1))
    before = runs.read_bytes()
    with pytest.raises(folders.SettingsError, match=f"runs.csv, {message}"):
        folders.Runs(runs.parent, {"a": 1})
    assert runs.read_bytes() == before


def test_runs_without_their_header_or_of_no_text(runs):
    lines = runs.read_text().splitlines(keepends=True)
    runs.write_text("".join(lines[1:]))
    with pytest.raises(folders.SettingsError, match="line 1: the columns must be"):
        folders.Runs(runs.parent, {"a": 1})
    runs.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(folders.SettingsError, match="is no text"):
        folders.Runs(runs.parent, {"a": 1})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"settings": null}', '{"settings": []}', "\udcff"]
)
def test_settings_that_were_edited(text, runs):
    path = runs.parent / "args.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = runs.read_bytes()
    with pytest.raises(folders.SettingsError, match="is not as it was written"):
        folders.Runs(runs.parent, {"a": 1})
    assert runs.read_bytes() == before
    path.write_text(json.dumps({"settings": {"a": 1}}))
    assert len(folders.Runs(runs.parent, {"a": 1}).rows) == 2


@pytest.mark.parametrize("name", ["args.json", "runs.csv", "checkpoint.npz"])
def test_a_pipe_in_an_output_folder_is_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(folders.SettingsError, match=f"{name} is not a regular file"):
        checkpoint.exists(tmp_path) or folders.Runs(tmp_path, {"a": 1})


def test_a_model_that_cannot_be_saved_leaves_nothing(tmp_path):
    class Model:
        def save(self, path):
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        folders.save_model(Model(), tmp_path / "model.keras")
    assert not [*tmp_path.iterdir()]


def test_a_trained_model_that_cannot_be_loaded(tmp_path):
    import look_inside

    (tmp_path / "vit.keras").write_text("no model")
    with pytest.raises(look_inside.ModelError, match=r"vit.keras: remove it to train again"):
        look_inside.trained("vit", None, None, tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")
def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "table.md"
    (tmp_path / "table.md.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        folders.write(path, "text")
    assert caught.value.filename == str(path)
    runs = folders.Runs(tmp_path, {"a": 1})
    runs.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        runs.add(ROW)
    assert caught.value.filename == str(runs.path)


def test_reading_runs_changes_nothing(runs):
    text = runs.read_text() + "vit,all,0.002,2,0."
    runs.write_text(text)
    # Another process may be writing the last line.
    assert len(folders.Runs(runs.parent).rows) == 2
    assert runs.read_text() == text
    assert len(folders.Runs(runs.parent, {"a": 1}).rows) == 2
    assert runs.read_text() == text[: text.rfind("\n") + 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [("pipe.JPEG", "pipe.JPEG has an image's name and is no file"), ("folder.png", "is no file")],
)
def test_what_is_no_file_among_images(name, message, tmp_path):
    path = tmp_path / name
    os.mkfifo(path) if name.startswith("pipe") else path.mkdir()
    (tmp_path / "image.jpg").write_bytes(b"")
    with pytest.raises(data.DatasetError, match=message):
        imagenet_sources._images_in(tmp_path)


def test_names_that_are_not_utf_8(tmp_path):
    paths = [tmp_path / "caf\udce9" / "image.jpg"]
    with pytest.raises(data.DatasetError, match=r"UTF-8, which caf\\udce9.image.jpg is not"):
        imagenet_sources._encoded(paths)


def test_titles_are_no_formulas(tmp_path):
    pytest.importorskip("matplotlib")
    runs = folders.Runs(tmp_path, {"a": 1})
    runs.add(ROW)
    assert pictures.curves(runs, {"vit": {"all": (0.002, [0])}}, r"$\frac{$.npz: 3 images").exists()


@pytest.mark.parametrize("text", ["-1", str(2**32), "1.5", "x", ""])
def test_seeds(text):
    import argparse

    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--seed", type=options.seed)
    with pytest.raises(argparse.ArgumentError, match="argument --seed"):
        parser.parse_args([f"--seed={text}"])
    assert parser.parse_args(["--seed", str(2**32 - 1)]).seed == 2**32 - 1


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("look_inside", ["--weights", ""]),
        ("look_inside", ["--preset", " "]),
        ("look_inside", ["--seed", "-1"]),
        ("imagenet.arguments", ["--seed", str(2**32)]),
        ("imagenet.arguments", ["--output", ""]),
        ("cifar10", ["--dataset", ""]),
        ("cifar10", ["--output", ""]),
        ("cifar10", ["--epochs", "9" * 400]),
        ("cifar10", ["--dataset", "caf\udce9.npz"]),
        ("imagenet.arguments", ["--dataset", ""]),
        ("recall", ["--width", "7"]),
        ("recall", ["--width", "1"]),
    ],
)
def test_options(script, given, capsys):
    pytest.importorskip("matplotlib")
    import importlib

    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).parse(given)
    assert caught.value.code == 2
    assert f"argument {given[0]}: " in capsys.readouterr().err
