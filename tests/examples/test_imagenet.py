import json
import shutil

import keras
import numpy as np
import pytest
from imagenet_runs import SMALL, arguments, history_of, variables_of

from imagenet import devices, models, recipe, train


# As published: timm's table of models, and the ConvNeXt paper.
@pytest.mark.one_backend
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
    model = models.MODELS[name]((224, 224, 3), 1000)
    assert sum(np.prod(w.shape) for w in model.trainable_weights) / 1e6 == pytest.approx(
        millions, abs=0.05
    )
    assert model.output_shape == (None, 1000)


@pytest.mark.one_backend
def test_drop_path_changes_training_alone():
    shape = (32, 32, 3)
    x = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype("uint8")
    for name in ("vit_trial", "convnext_trial"):
        plain = models.MODELS[name](shape, 10, seed=3)
        dropped = models.MODELS[name](shape, 10, seed=3, drop_path=0.9)
        if name.startswith("convnext"):
            for model in (plain, dropped):
                for layer in model.layers:
                    if type(layer).__name__ == "LayerScale":
                        layer.gamma.assign(np.ones(layer.gamma.shape))
        outputs = [keras.ops.convert_to_numpy(m(x, training=False)) for m in (plain, dropped)]
        np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
        moved = keras.ops.convert_to_numpy(dropped(x, training=True))
        assert abs(moved - outputs[0]).max() > 1e-3


@pytest.mark.one_backend
@pytest.mark.parametrize("model", ["vit_trial", "convnext_trial"])
def test_a_run_from_start_to_end(model, tmp_path, capsys):
    out = tmp_path / "out"
    given = (*SMALL, "--model", model, "--drop-path", 0.1)
    train.main(arguments(*given, output=out))
    printed = capsys.readouterr().out
    assert "  learning_rate: 0.001\n" in printed
    assert "Validation: epoch 2.0000, cross_entropy " in printed
    rows = history_of(out)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(6.5 < row["loss"] < 7.5 for row in rows)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {
        *("args.json", "history.csv", "curves.png", "model.keras", "checkpoint.npz")
    }
    settings = json.loads((out / "args.json").read_text())["settings"]
    assert settings["warmup_epochs"] == 1
    assert keras.saving.load_model(out / "model.keras").count_params() > 0

    # A finished run is finished.
    train.main(arguments(*given, output=out))
    assert "Resuming at the end of epoch 2." in capsys.readouterr().out
    assert history_of(out) == rows
    with pytest.raises(SystemExit, match="seed: 0 there, 1 now"):
        train.main(arguments(*given, "--seed", 1, output=out))


def test_an_interrupted_run_resumes_to_the_result_of_a_whole_one(tmp_path, monkeypatch, capsys):
    # JAX has no attention in float16 on CPUs.
    precision = "bfloat16" if keras.backend.backend() == "jax" else "float16"
    given = (*SMALL, "--drop-path", 0.2, "--ema", 0.9, "--mixed-precision", precision)
    policy = keras.config.dtype_policy()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    save = train.save

    def save_and_copy(folder, model, history):
        save(folder, model, history)
        if not cut.exists():
            # All that an interruption in the second epoch leaves.
            shutil.copytree(folder, cut)

    monkeypatch.setattr(train, "save", save_and_copy)
    try:
        for folder in (whole, cut):
            train.main(arguments(*given, output=folder))
    finally:
        keras.config.set_dtype_policy(policy)
    assert "Resuming at the end of epoch 1." in capsys.readouterr().out
    for a, b in zip(history_of(whole), history_of(cut), strict=True):
        # Threads add their parts in any order.
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    before, after = variables_of(whole), variables_of(cut)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_allclose(values, after[name], rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.one_backend
def test_averages_of_the_weights_are_validated_and_kept(tmp_path):
    given = arguments(*SMALL, "--ema", 0.9, output=tmp_path)
    train.main(given)
    model = keras.saving.load_model(tmp_path / "model.keras")
    args = recipe.parse(given)
    images, labels = next(train.synthetic(args, devices.Devices(), -1))
    found = model.evaluate(images, labels, return_dict=True, verbose=0)
    for name in ("loss", "cross_entropy"):
        assert found[name] == pytest.approx(history_of(tmp_path)[-1]["val_" + name], rel=1e-5)
    # The checkpoint has the weights themselves, which training goes on from.
    saved = [values for values in variables_of(tmp_path).values() if values.shape == (32, 128)]
    kept = [w for w in model.weights if w.path.endswith("fc1/kernel")]
    assert len(kept) == 2
    for weight in map(keras.ops.convert_to_numpy, kept):
        # Once as the average that the optimizer keeps.
        assert sum(np.array_equal(values, weight) for values in saved) == 1


@pytest.mark.one_backend
def test_a_loss_that_is_nan_stops_the_run(tmp_path):
    given = (*SMALL, "--learning-rate", 1e30, "--clip", 0, "--warmup-epochs", 0)
    with pytest.raises(SystemExit, match="The loss is not a number in epoch 1, which is not saved"):
        train.main(arguments(*given, output=tmp_path))
    assert not (tmp_path / "checkpoint.npz").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--epochs", -1), "must be 0 or more, not -1"),
        (("--model", "vit_huge"), "invalid choice: 'vit_huge'"),
        (("--image-folder", "/nowhere"), ("/nowhere must have folders", "pip install '.[tfds]'")),
    ],
)
def test_bad_arguments(given, message, tmp_path, capsys):
    messages = (message,) if isinstance(message, str) else message
    with pytest.raises(SystemExit) as raised:
        train.main(arguments(*SMALL, *given, output=tmp_path / "out"))
    printed = f"{raised.value}{capsys.readouterr().err}"
    assert any(text in printed for text in messages), printed
    assert not (tmp_path / "out").exists()


def test_options_change_presets():
    args = recipe.parse(arguments("--preset", "full", "--epochs", 10, "--mixup", 0))
    assert (args.epochs, args.mixup, args.ema) == (10, 0, 0.9999)
    args = vars(recipe.parse([]))
    assert all(args[name] == short for name, (short, *_) in recipe.RECIPE.items())
