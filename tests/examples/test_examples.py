import csv
import functools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import scripts

import cifar10
import keras_mimetic
from common import data, folders, models, options


def small_npz(path, count=40, shape=(32, 32, 3)):
    random = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"y_{split}"] = np.arange(count, dtype="uint8")[:, None] % 10
        noise = random.integers(0, 100, (count, *shape))
        arrays[f"x_{split}"] = (noise + 15 * arrays[f"y_{split}"][:, :, None, None]).astype("uint8")
    np.savez(path, **arrays)
    return path


@pytest.fixture
def shallow(monkeypatch):
    """Make models of the examples in this process two blocks deep, which compile quickly."""
    for name, make in cifar10.MODELS.items():
        monkeypatch.setitem(cifar10.MODELS, name, functools.partial(make, depth=2))


def run(*arguments, script="cifar10"):
    return scripts.run(f"examples/{script}.py", *arguments)


def rows_of(folder):
    with (folder / "runs.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("shallow")
def test_the_main_job_and_its_resumption(tmp_path):
    out = tmp_path / "out"
    arguments = ("--epochs", 1, "--train-size", 200, "--verbose", 2, "--output", out)
    first = run(*arguments, "--seeds", 1)
    assert first.returncode == 0, first.stderr
    names = {path.name for path in out.iterdir()}
    assert names == {"runs.csv", "args.json", "table.md", "curves.png"}
    rows = rows_of(out)
    assert [(row["init"], row["seed"]) for row in rows] == [("default", "0"), ("all", "0")]
    assert (out / "table.md").read_text() in first.stdout
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    for text in (first.stdout, (out / "args.json").read_text(), (out / "runs.csv").read_text()):
        assert folders.environment()["versions"] in text
        assert folders.environment()["hardware"] in text

    # A missing run alone is run again.
    lines = (out / "runs.csv").read_text().splitlines(keepends=True)
    (out / "runs.csv").write_text("".join(lines[:-1]))
    second = run(*arguments, "--seeds", 1)
    assert second.returncode == 0, second.stderr
    assert "2 runs, 1 done before, 1 to do" in second.stdout
    again = rows_of(out)
    assert again[0] == rows[0]
    for name in ("validation_accuracy", "test_accuracy", "curve"):
        assert float(again[1][name].split()[0]) == pytest.approx(float(rows[1][name].split()[0]))

    # Other settings do not mix into the same table.
    third = run("--epochs", 2, "--train-size", 200, "--output", out)
    assert third.returncode != 0
    assert "other settings (epochs: 1 there, 2 now)" in third.stderr
    assert "Traceback" not in third.stderr
    assert rows_of(out) == again


@pytest.mark.one_backend
@pytest.mark.usefixtures("shallow")
def test_an_npz_file_with_all_models_and_mixed_precision(tmp_path):
    path = small_npz(tmp_path / "small.npz")
    finished = run(
        *("--dataset", path, "--model", *models.MODELS, "--init", "mlp"),
        *("--epochs", 1, "--seeds", 1, "--batch-size", 16, "--learning-rate", "1e-3"),
        *("--mixed-precision", "bfloat16", "--augment", "on", "--output", tmp_path / "out"),
    )
    assert finished.returncode == 0, finished.stderr
    assert len(rows_of(tmp_path / "out")) == 4
    settings = json.loads((tmp_path / "out" / "args.json").read_text())["settings"]
    assert len(settings.pop("data_sha256")) == 64
    assert settings == {
        "dataset": "small",
        "train_size": 36,
        "epochs": 1,
        "batch_size": 16,
        "weight_decay": 0.05,
        "augment": "on",
        "mixed_precision": "bfloat16",
        "draws_version": options.DRAWS_VERSION,
        "backend": keras.backend.backend(),
    }
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("| mlp |") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "nowhere.npz"), "nowhere.npz must be an .npz file with the arrays"),
        (("--dataset", "mnist"), "Unknown data set 'mnist': choose 'digits'"),
        (("--train-size", "100000"), "--train-size 100000 is more than the 1293 training images"),
        (("--epochs", "0"), "must be greater than 0, not 0"),
        (("--learning-rate", "nan"), "must be greater than 0, not nan"),
        (("--init", "none"), "invalid choice: 'none'"),
    ],
)
def test_bad_arguments(arguments, message):
    finished = run(*arguments)
    assert finished.returncode != 0
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def look(*arguments):
    return run(*arguments, script="look_inside")


def figures_of(path, when):
    """Values by what they are of, from a CSV file of look_inside.py."""
    with path.open() as file:
        return {
            tuple(row[name] for name in ("layer_path", "part", "head", "figure")): row["value"]
            for row in csv.DictReader(file)
            if row["when"] == when
        }


@pytest.mark.one_backend
@pytest.mark.usefixtures("shallow")
def test_looking_inside_before_and_after_training(tmp_path):
    out = tmp_path / "out"
    arguments = ("--epochs", 1, "--train-size", 64, "--verbose", 2, "--output", out)
    first = look(*arguments)
    assert first.returncode == 0, first.stderr
    for name in ("vit", "convmixer"):
        text = (out / f"{name}.txt").read_text()
        assert text in first.stdout
        assert "BEFORE: 4 layers measured" in text
        assert "AFTER: 4 layers measured" in text
        assert folders.environment()["versions"] in text
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        before, after = (figures_of(out / f"{name}.csv", when) for when in ("before", "after"))
        assert before.keys() == after.keys()
        assert len(before) >= 12
        assert before != after
    assert {key[1] for key in after} == {"first", "kernel"}  # of the ConvMixer

    # The file by itself: the same figures.
    other = tmp_path / "other"
    finished = look("--weights", out / "convmixer.keras", "--output", other)
    assert finished.returncode == 0, finished.stderr
    assert figures_of(other / "convmixer.csv", "after") == after
    finished = look(
        *("--weights", out / "convmixer.keras", "--output", other),
        *("--rule", "pointwise_0", "depthwise"),
    )
    # Of two rules for a layer neither is taken in silence.
    assert "both match layer" in finished.stderr


def test_looking_inside_a_preset(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=64,
    )
    keras_mimetic.initialize(backbone, {"mlp": {"mean": -1}}, seed=0)
    backbone.save_to_preset(str(tmp_path / "preset"))
    finished = look("--preset", tmp_path / "preset", "--output", tmp_path / "out")
    assert finished.returncode == 0, finished.stderr
    figures = {
        when: [
            float(value)
            for key, value in figures_of(tmp_path / "out" / "preset.csv", when).items()
            if key[1:] == ("first", "", "mean")
        ]
        for when in ("before", "after")
    }
    assert len(figures["after"]) == 2
    assert max(figures["after"]) < -0.8 < -0.3 < min(figures["before"])


WRITE_TFDS = """
import sys
import numpy as np
import tensorflow_datasets as tfds

def examples(split):
    random = np.random.default_rng(0)
    for i in range(60):
        image = random.integers(0, 256, (32, 32, 3)).astype("uint8")
        yield i, {"image": image, "label": i % 10, "id": f"{split}_{i:05d}"}

builder = tfds.builder("cifar10", data_dir=sys.argv[1])
builder._split_generators = lambda *_, **__: {s: examples(s) for s in ("train", "test")}
builder.download_and_prepare()
"""


def test_cifar10_through_tfds(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="only the examples environment has TFDS")
    written = subprocess.run(
        [sys.executable, "-c", WRITE_TFDS, tmp_path], capture_output=True, text=True
    )
    assert written.returncode == 0, written.stderr
    finished = run(
        *("--dataset", "cifar10", "--data-dir", tmp_path, "--train-size", 50, "--model", "vit"),
        *("--epochs", 1, "--seeds", 1, "--batch-size", 16, "--output", tmp_path / "out"),
    )
    assert finished.returncode == 0, finished.stderr
    assert "cifar10: 50 training and 60 test images" in finished.stdout
    assert len(rows_of(tmp_path / "out")) == 2


def weights_of(name, init):
    model = cifar10.build(name, init, 5, data.load("digits"))
    return [(w.path, keras.ops.convert_to_numpy(w)) for w in model.weights]


@pytest.mark.one_backend
@pytest.mark.parametrize("name", models.MODELS)
def test_inits_differ_only_in_structure(name):
    weights = {init: weights_of(name, init) for init in options.INITS}
    default = weights["default"]
    kernels = [values for path, values in default if path.endswith("kernel")]
    assert len({values.tobytes() for values in kernels}) == len(kernels)

    def changed(init):
        pairs = zip(default, weights[init], strict=True)
        return {number for number, (a, b) in enumerate(pairs) if (a[1] != b[1]).any()}

    # A mean for every MLP, and a bias for those after a norm.
    mlps = {"convmixer": (0, 0), "mixer": (8, 4)}.get(name, (4, 4))
    means, biases = changed("mean"), changed("bias")
    assert (len(means), len(biases)) == mlps
    assert changed("mlp") == means | biases
    for number in means:
        path, values = weights["mean"][number]
        assert path.endswith("fc1/kernel")
        shift = values - default[number][1]
        np.testing.assert_allclose(shift, shift.mean(), rtol=1e-3)
        assert shift.mean() < 0
        np.testing.assert_array_equal(weights["mlp"][number][1], values)
    for number in biases:
        path, values = weights["bias"][number]
        assert path.endswith("fc1/bias")
        assert values.max() < 0
        assert not default[number][1].any()
    spatial = changed("spatial")
    assert len(spatial) == {"vit": 16, "mixer": 0}.get(name, 4)
    assert all(default[number][0].endswith("kernel") for number in spatial)
    assert changed("control") == spatial
    for number, (_, values) in enumerate(weights["all"]):
        source = "mlp" if number in means | biases else "spatial"
        np.testing.assert_array_equal(values, weights[source][number][1])
    for number in spatial:
        norms = [np.linalg.norm(weights[init][number][1]) for init in ("control", "spatial")]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.one_backend
def test_the_vit_of_the_example_is_the_shared_one():
    written_out, shared = (
        make((32, 32, 3), 10, seed=3) for make in (cifar10.vit, models.MODELS["vit"])
    )
    for a, b in zip(written_out.weights, shared.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)), err_msg=a.path)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    outputs = [keras.ops.convert_to_numpy(model(images)) for model in (written_out, shared)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", models.MODELS)
def test_models_save_and_load(name, tmp_path):
    model = models.MODELS[name]((16, 16, 1), 10, patch=2, width=16, depth=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1)).astype("uint8")
    outputs = [keras.ops.convert_to_numpy(m(x)) for m in (model, loaded)]
    assert outputs[0].shape == (3, 10)
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
