import json
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import scripts
from imagenet_runs import SCRIPT, SMALL, arguments, history_of, run, variables_of

from common import folders, script
from imagenet import checkpoint, recipe
from imagenet import data as imagenet_data
from imagenet import models as imagenet_models
from imagenet import train as imagenet


def assert_same_run(folder, other, rtol=0.0, atol=0.0):
    for a, b in zip(history_of(folder), history_of(other), strict=True):
        # Threads add their parts in any order.
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    before, after = variables_of(folder), variables_of(other)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_allclose(values, after[name], rtol=rtol, atol=atol, err_msg=str(name))


# As published: timm's table of models, and the ConvNeXt paper.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vit_ti16", 5.7),
        ("vit_s16", 22.0),
        ("convnext_atto", 3.7),
        ("convnext_tiny", 28.6),
        ("convmixer_512_12", 4.5),
    ],
)
def test_models_have_the_published_sizes(name, millions):
    model = imagenet_models.MODELS[name]((224, 224, 3), 1000)
    assert sum(np.prod(w.shape) for w in model.trainable_weights) / 1e6 == pytest.approx(
        millions, abs=0.05
    )
    assert model.output_shape == (None, 1000)


def test_drop_path_changes_training_alone():
    shape = (32, 32, 3)
    x = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype("uint8")
    for name in ("vit_trial", "convnext_trial"):
        plain = imagenet_models.MODELS[name](shape, 10, seed=3)
        dropped = imagenet_models.MODELS[name](shape, 10, seed=3, drop_path=0.9)
        if name.startswith("convnext"):
            for model in (plain, dropped):
                for layer in model.layers:
                    if type(layer).__name__ == "LayerScale":
                        layer.gamma.assign(np.ones(layer.gamma.shape))
        outputs = [keras.ops.convert_to_numpy(m(x, training=False)) for m in (plain, dropped)]
        np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
        moved = keras.ops.convert_to_numpy(dropped(x, training=True))
        assert abs(moved - outputs[0]).max() > 1e-3


@pytest.mark.parametrize("model", ["vit_trial", "convnext_trial"])
def test_a_run_from_start_to_end(model, tmp_path, capsys):
    out = tmp_path / "out"
    given = (*SMALL, "--model", model, "--drop-path", 0.1, "--mixed-precision", "no")
    imagenet.main(arguments(*given, output=out))
    printed = capsys.readouterr().out
    assert "  learning_rate: 0.001\n" in printed
    assert "Epoch 1 of 2 is saved; about 0 h 00 min left." in printed
    assert "Validation after 2 epochs: top-1 " in printed
    rows = history_of(out)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["loss"] < rows[0]["loss"] < 7.1
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {
        *(".lock", "args.json", "history.csv", "curves.png", "model.keras", checkpoint.NAME)
    }
    settings = json.loads((out / "args.json").read_text())["settings"]
    assert settings["warmup_epochs"] == 1
    assert keras.saving.load_model(out / "model.keras").count_params() > 0

    # A finished run is finished.
    with pytest.raises(folders.SettingsError, match="give --resume"):
        imagenet.main(arguments(*given, output=out))
    imagenet.main(arguments(*given, "--resume", output=out))
    printed = capsys.readouterr().out
    assert "Resuming at the end of epoch 2." in printed
    assert "Validation after 2 epochs" in printed
    assert history_of(out) == rows
    with pytest.raises(folders.SettingsError, match="seed: 0 there, 1 now"):
        imagenet.main(arguments(*given, "--resume", "--seed", 1, output=out))
    (out / "args.json").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="of another run"):
        imagenet.main(arguments(*given, "--resume", "--seed", 1, output=out))


def test_a_killed_run_resumes_to_the_result_of_a_whole_one(tmp_path):
    more = ("--synthetic-images", 160, "--epochs", 3, "--accumulate", 2)
    # JAX has no attention in float16 on CPUs.
    precision = "bfloat16" if keras.backend.backend() == "jax" else "float16"
    more = (*more, "--drop-path", 0.2, "--ema", 0.9, "--mixed-precision", precision)
    finished = run(*SMALL, *more, output=tmp_path / "whole")
    assert finished.returncode == 0, finished.stderr
    # The kills hit training or saving, before the end on fast machines and on slow ones.
    longest = sum(row["seconds"] for row in history_of(tmp_path / "whole", without=())) / 2
    delays = random.Random(0)
    codes = []
    for _ in range(2):
        process = subprocess.Popen(
            [
                sys.executable,
                SCRIPT,
                *arguments(*SMALL, *more, "--resume", output=tmp_path / "cut"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process:
            # There is none where the first kill came after the last epoch.
            while (line := process.stdout.readline()) and not line.startswith("Epoch"):
                pass
            time.sleep(delays.uniform(0, longest))
            process.kill()
        codes.append(process.returncode)
    assert codes[0] == -signal.SIGKILL, codes
    assert codes[1] in (-signal.SIGKILL, 0), codes
    finished = run(*SMALL, *more, "--resume", output=tmp_path / "cut")
    assert finished.returncode == 0, finished.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "cut", rtol=1e-5, atol=1e-7)


def test_averages_of_the_weights_are_validated_and_kept(tmp_path):
    imagenet.main(arguments(*SMALL, "--ema", 0.9, output=tmp_path))
    how = recipe.Recipe(epochs=2, batch_size=32, learning_rate=1e-3, warmup_epochs=1, image_size=32)
    network = keras.saving.load_model(tmp_path / "model.keras")
    model = imagenet.behind_bank(network, how)
    imagenet.compile_model(model, how, steps=10)
    few = imagenet_data.synthetic(how, images=128, classes=1000, seed=0)
    found = model.evaluate(few, return_dict=True, verbose=0)
    for name in ("loss", "cross_entropy"):
        assert found[name] == pytest.approx(history_of(tmp_path)[-1]["val_" + name], rel=1e-5)
    # The checkpoint has the weights themselves, which training goes on from.
    saved = [values for values in variables_of(tmp_path).values() if values.shape == (32, 128)]
    kept = [w for w in network.weights if w.path.endswith("fc1/kernel")]
    assert len(kept) == 2
    for weight in map(keras.ops.convert_to_numpy, kept):
        # Once as the average that the optimizer keeps.
        assert sum(np.array_equal(values, weight) for values in saved) == 1


def test_a_batch_in_parts_is_the_same_step(tmp_path):
    parts = (1, 4)
    for accumulate in parts:
        imagenet.main(
            arguments(*SMALL, "--accumulate", accumulate, output=tmp_path / str(accumulate))
        )
    rows = [history_of(tmp_path / str(accumulate)) for accumulate in parts]
    for a, b in zip(*rows, strict=True):
        for name in ("val_cross_entropy", "val_top1", "val_top5"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    given = (*SMALL, "--learning-rate", 1e30, "--clip", 0, "--warmup-epochs", 0)
    with pytest.raises(imagenet.DivergedError, match="The .* became nan in epoch 1, .* none yet"):
        imagenet.main(arguments(*given, output=tmp_path))
    assert not checkpoint.exists(tmp_path)


def test_speed_of_data_and_steps(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(imagenet.show_speed, "__defaults__", (0.2,))
    monkeypatch.chdir(tmp_path)
    imagenet.main(arguments(*SMALL, "--speed"))
    printed = capsys.readouterr().out
    for what in ("data alone", "steps alone"):
        rate = printed.split(what + ": ")[1].split(" images/s")[0]
        assert float(rate.replace(",", "")) > 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--batch-size", 30, "--accumulate", 4), "--batch-size 30 cannot be shared evenly"),
        (("--image-size", 40), "--image-size 40 is no multiple of 16, as vit_trial needs"),
        (("--warmup-epochs", 2), "--warmup-epochs 2 must be less than --epochs 2"),
        (
            ("--model", "convmixer_512_12", "--image-size", 28, "--drop-path", 0.1),
            "convmixer_512_12 has no drop path",
        ),
        (("--smoothing", 2), "must be 1 or less, not 2"),
        (("--epochs", 0), "must be greater than 0, not 0"),
        (("--seed", -1), "argument --seed: must be from 0 to 4294967295, not -1"),
        (("--model", "vit_huge"), "invalid choice: 'vit_huge'"),
        (("--synthetic-images", 8), "has 8 training images, less than a batch of 32"),
        (("--image-folder", "/nowhere"), ("There is no folder", "pip install '.[tfds]'")),
    ],
)
def test_bad_arguments(given, message, tmp_path, capsys):
    messages = (message,) if isinstance(message, str) else message
    with pytest.raises((script.Stop, SystemExit)) as raised:
        imagenet.main(arguments(*SMALL, *given, output=tmp_path / "out"))
    printed = f"{raised.value}{capsys.readouterr().err}"
    assert any(text in printed for text in messages), printed
    assert not (tmp_path / "out").exists()


def test_errors_are_one_sentence(tmp_path):
    given = arguments(*SMALL, "--image-size", 40, output=tmp_path / "out")
    finished = scripts.run("examples/imagenet", *given)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("imagenet: --image-size 40 is no")
    assert "Traceback" not in finished.stderr


def test_options_change_presets():
    args = recipe.parse(arguments("--preset", "full", "--epochs", 10, "--mixup", 0))
    given = recipe.of(args)
    assert (given.epochs, given.mixup, given.ema) == (10, 0, 0.9999)
    assert recipe.of(recipe.parse([])) == recipe.PRESETS["short"]
    for preset in recipe.PRESETS.values():
        for model in imagenet_models.MODELS:
            if not (model.startswith("convmixer") and preset.drop_path):
                recipe.check(preset, model, replicas=8)
