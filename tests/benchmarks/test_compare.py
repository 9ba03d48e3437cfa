import csv

import keras
import numpy as np
import pytest
from arrays import array
from paths import ROOT

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


import scripts

import compare
import verdict
from cifar10 import compile_model, fit
from common import data, folders
from lib import by_epoch, one_run, real_models, variants
from lib.build_variant import MODELS, SharedBiasBlock, applies, build_variant
from lib.lsuv import unit_variance


def random_images(count, seed, size=16):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count).astype("int32")
    return random.integers(0, 256, (count, size, size, 3), dtype="uint8"), labels


IMAGES = data.Images("random", *(random_images(300, seed) for seed in range(3)))


def run(*arguments, in_process=True):
    return scripts.run("benchmarks/compare.py", *arguments, in_process=in_process)


@pytest.mark.one_backend
def test_a_comparison_and_its_resumption(tmp_path):
    arguments = (
        *(
            "--epochs",
            2,
            "--train-size",
            64,
            "--model",
            "mixer",
            "--variant",
            "bias-0.5",
            "all_half",
        ),
        *("--seeds", 2, "--learning-rate", "2e-3", "--output", tmp_path),
    )
    first = run(*arguments, "--processes", 2, in_process=False)
    assert first.returncode == 0, first.stderr
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["init"], row["seed"]) for row in rows} == {
        (name, seed) for name in ("default", "bias-0.5", "all_half") for seed in ("0", "1")
    }
    assert all(row["commit"] or not (ROOT / ".git").exists() for row in rows)
    # Half the schedule.
    epochs = {row["init"]: len(row["curve"].split()) for row in rows}
    assert epochs == {"default": 2, "bias-0.5": 2, "all_half": 1}
    table = (tmp_path / "table.md").read_text()
    assert table in first.stdout
    assert table.count("| mixer |") == 3

    # One process gives the results of two.
    lines = (tmp_path / "runs.csv").read_text().splitlines(keepends=True)
    (tmp_path / "runs.csv").write_text("".join(lines[:-1]))
    second = run(*arguments)
    assert "6 runs, 5 done before, 1 to do" in second.stdout
    assert second.returncode == 0, second.stderr
    with (tmp_path / "runs.csv").open() as file:
        again = list(csv.DictReader(file))
    assert float(again[-1]["test_accuracy"]) == pytest.approx(
        float(rows[-1]["test_accuracy"]), abs=0.02
    )

    # Two rates, of which the second seed takes the better one.
    third = run(*arguments, "--learning-rate", "2e-3", "1e-3", "--rate-seeds", 1)
    assert third.returncode == 0, third.stderr
    assert "6 runs, 3 done before, 3 to do" in third.stdout
    assert "| 0.001 |" in third.stdout or "3 runs, 3 done before, 0 to do" in third.stdout


def test_names_of_models_and_variants():
    assert {*variants.MODELS} == {*MODELS}
    for name in (name for group in variants.GROUPS.values() for name in group):
        variants.parse(name)
    alone, added = variants.parse("mlp_mean-4"), variants.parse("mean-4")
    assert alone.mlp == added.mlp == {"mean": -4.0, "hidden_bias": None}
    assert alone.attention is None
    assert (added.attention, added.depthwise) == ({"query_key": (0.7, 0.7)}, {})
    both = variants.parse("pos0.5_value_output_mlp")
    assert (both.position, both.attention) == (0.5, {"query_key": None})
    for name in ("mean-", "mean-1x", "spatial_", "", "vo_0.4"):
        with pytest.raises(ValueError, match="no variant is called"):
            variants.parse(name)


# Not those that differ from `vit` in size alone.
_OTHERS = {"vit_ti", "vit_deep", "vit_8_blocks", "vit_learned_deep", *real_models.MODELS}


@pytest.mark.one_backend
@pytest.mark.parametrize("model", [n for n in MODELS if n not in _OTHERS])
def test_variants_of_a_seed_share_all_other_weights(model):
    names = ("default", "spatial", "bias-0.5", "per_input0.4", "he_normal", "mlp", "all")
    models = {name: build_variant(model, variants.parse(name), 3, IMAGES) for name in names}

    def changed(name, base):
        pairs = zip(models[name].weights, models[base].weights, strict=True)
        return [number for number, (a, b) in enumerate(pairs) if (array(a) != array(b)).any()]

    is_plain = model.startswith("mlp_")
    blocks = 8 if model == "mixer" else 2 if is_plain else 4
    assert len(changed("per_input0.4", "spatial")) == blocks
    assert len(changed("bias-0.5", "spatial")) == blocks
    is_vit = model.startswith("vit")
    spatial = 16 if is_vit else 0 if is_plain or model.startswith("mixer") else 4
    assert len(changed("spatial", "default")) == spatial
    kernels = [n for n, w in enumerate(models["default"].weights) if w.path.endswith("kernel")]
    assert changed("he_normal", "default") == kernels
    # A mean for each, and a bias for those with a norm directly before, as token mixing has not.
    by_default = {"convmixer": 4, "convnext_no_norm": 4, "mixer_tokens": 4, "mixer": 12}
    written = by_default.get(model, 2 if is_plain else 8)
    assert len(changed("mlp", "default")) == len(changed("all", "spatial")) == written


# KerasHub's Swin passes masks to layers that take none.
@pytest.mark.filterwarnings("ignore:Layer .attn:UserWarning")
@pytest.mark.one_backend
@pytest.mark.parametrize("model", real_models.MODELS)
def test_models_that_people_have(model):
    if model.startswith(("hub_", "distilbert")):
        pytest.importorskip("keras_hub")
    size = 8 if model == "distilbert" else 32  # It reads 192 bytes then.
    images = data.Images("random", *(random_images(4, seed, size) for seed in range(3)))
    names = ("default", "default", "initialize", "initialize_control")
    plain, again, written, control = (
        build_variant(model, variants.parse(name), 3, images) for name in names
    )

    def changed(other):
        pairs = zip(plain.weights, other.weights, strict=True)
        return [a.path for a, b in pairs if (array(a) != array(b)).any()]

    assert changed(again) == []
    assert changed(written)
    assert {*changed(control)} <= {*changed(written)}  # Positions and biases have no control.
    assert np.isfinite(written.predict(images.train[0], verbose=0)).all()


def test_keep_leaves_the_norms_of_attention_kernels():
    names = ("truncated_normal", "truncated_normal_value_output_keep")
    plain, kept = (build_variant("vit", variants.parse(name), 3, IMAGES) for name in names)
    pairs = [(array(a), array(b)) for a, b in zip(plain.weights, kept.weights, strict=True)]
    assert sum((a != b).any() for a, b in pairs) == 8  # Values and outputs of four layers.
    for a, b in pairs:
        np.testing.assert_allclose(np.linalg.norm(a), np.linalg.norm(b), rtol=1e-5)


@pytest.mark.parametrize("model", ["vit", "convmixer"])
def test_lsuv_scales_outputs_to_unit_variance(model):
    model = build_variant(model, variants.parse("lsuv"), 0, IMAGES, width=32)
    batch = IMAGES.train[0][:256]
    np.testing.assert_allclose(array(model(batch)).std(), 1, rtol=1e-4)
    before = [array(weight) for weight in model.weights]
    unit_variance(model, batch)  # Once is enough.
    for weight, values in zip(model.weights, before, strict=True):
        np.testing.assert_allclose(array(weight), values, rtol=1e-3, atol=1e-6)


@pytest.mark.one_backend
def test_the_vit_of_published_size():
    # DeiT's, without a class token, with patches of 4 pixels and few classes.
    model = MODELS["vit_ti"][0]((32, 32, 3), 10, patch=4)
    assert model.count_params() == pytest.approx(5.4e6, rel=0.02)


@pytest.mark.one_backend
def test_a_run_does_not_depend_on_those_before_it(monkeypatch):
    arguments = ("--dataset", "x.npz", "--epochs", "2", "--batch-size", "50", "--width", "32")
    args = compare.parse([*arguments, "--augment", "on", "--validate", "last"])
    monkeypatch.setattr(one_run, "_compiled", {})
    monkeypatch.setattr(data, "from_options", lambda args: IMAGES)

    def run(row, seed):
        key = {"model": "convmixer", "init": row, "learning_rate": 4e-3, "seed": seed}
        results = one_run.run(args, key)
        return results["validation_accuracy"], results["test_accuracy"]

    first = run("spatial", 0)
    run("default", 1)
    assert len(one_run._compiled) == 1
    assert run("spatial", 0) == first
    # A model compiled for this run alone gives the same.
    model = build_variant("convmixer", variants.parse("spatial"), 0, IMAGES, width=32)
    args.verbose = 0
    compile_model(model, IMAGES, args, 4e-3)
    history = fit(model, IMAGES, args, 0)
    assert history["val_accuracy"][-1] == first[0]


@pytest.mark.one_backend
def test_means_per_input_are_equal_for_all_hidden_units():
    plain, moved = (
        build_variant("convnext", variants.parse(n), 0, IMAGES) for n in ("spatial", "per_input0.4")
    )
    for before, after in zip(plain.layers, moved.layers, strict=True):
        if hasattr(before, "fc1"):
            difference = array(after.fc1.kernel) - array(before.fc1.kernel)
            assert difference.std(axis=1).max() < 1e-6
            spread = difference.mean(axis=1).std() / array(before.fc1.kernel).std()
            assert spread == pytest.approx(0.4, rel=0.3)


@pytest.mark.one_backend
def test_hidden_biases_scale_with_the_kernel():
    names = ("mlp_bias-0.5", "orthogonal_bias-0.5")
    models = [build_variant("convnext", variants.parse(name), 0, IMAGES) for name in names]
    ours, orthogonal = models
    blocks = zip(ours.layers, orthogonal.layers, strict=True)
    for one, other in [pair for pair in blocks if hasattr(pair[0], "fc1")]:
        ratio = array(other.fc1.bias) / array(one.fc1.bias)
        deviations = array(other.fc1.kernel).std() / array(one.fc1.kernel).std()
        np.testing.assert_allclose(ratio, deviations, rtol=0.02)


@pytest.mark.one_backend
def test_a_shared_bias_moves_hidden_units_like_a_mean_after_a_layer_norm():
    rows = ("spatial", "mean-1", "shared_bias-1")
    models = [build_variant("convnext", variants.parse(name), 0, IMAGES) for name in rows]
    plain, mean, shared = (next(x for x in m.layers if hasattr(x, "fc1")) for m in models)
    assert isinstance(shared, SharedBiasBlock)
    for layer in (mean, shared):
        # Linear, to see the hidden units themselves.
        layer.activation = layer.fc1.activation = keras.activations.linear
    plain.fc1.activation = keras.activations.linear
    x = np.random.default_rng(0).normal(size=(5, 64)).astype("float32")
    before = [array(layer(x)) for layer in (plain, mean, shared)]
    np.testing.assert_allclose(before[0], before[1], atol=1e-4)
    np.testing.assert_allclose(before[0], before[2], atol=1e-4)
    # One step of Adam: every beta by its rate; or the number, and beta with it.
    for layer in (plain, mean, shared):
        layer.norm.beta.assign(np.full(64, 0.01))
    shared.shared.assign(0.01)
    moved = [array(layer(x)) for layer in (plain, mean, shared)]
    assert np.abs(moved[1] - moved[0]).max() > 0.1
    # The mean is in standard deviations of the sample, the number in those of the distribution.
    np.testing.assert_allclose(moved[2], moved[1], rtol=1e-2, atol=1e-2)


def test_variants_that_do_not_apply():
    assert not applies("convmixer", variants.parse("shared_bias-1"))
    assert not applies("mixer", variants.parse("spatial"))
    assert applies("mixer", variants.parse("mean-1"))
    assert not applies("convnext", variants.parse("query_key"))
    assert applies("vit", variants.parse("query_key"))
    assert applies("vit_ti", variants.parse("spatial"))


def runs_in(folder, rows):
    """Write a folder of runs of a ViT, given what tells them apart."""
    settings = {
        **{"dataset": "x.npz", "train_size": 9, "epochs": 3, "batch_size": 3, "width": None},
        **{"weight_decay": 0.0, "augment": "off", "mixed_precision": "no"},
    }
    runs = folders.Runs(folder, settings)
    for row in rows:
        key = {"model": "vit", "learning_rate": 0.1}
        results = {"validation_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 1.0}
        more = {"curve": "0.3 0.4 0.5", "loss_curve": "", "commit": "abc"}
        runs.add({**key, **results, **more, **folders.environment(), **row})
    return folders.Runs(folder)


@pytest.mark.one_backend
def test_verdicts_pair_seeds_at_the_rate_chosen_by_validation(tmp_path):
    accuracies = {
        # Only seed 0 tried both rates, and by validation the first is better.
        ("default", 0.1): {0: (0.5, 0.40), 1: (0.5, 0.41), 2: (0.5, 0.45)},
        ("default", 0.2): {0: (0.4, 0.90)},
        ("all", 0.1): {0: (0.5, 0.10)},
        ("all", 0.2): {0: (0.6, 0.42), 1: (0.0, 0.44), 2: (0.0, 0.46), 7: (0.0, 0.0)},
        ("mlp", 0.1): {0: (0.5, 0.40), 1: (0.5, 0.41)},
    }
    names = ("init", "learning_rate", "seed", "validation_accuracy", "test_accuracy")
    runs = runs_in(
        tmp_path,
        [
            dict(zip(names, (*key, seed, *found), strict=True))
            for key, by_seed in accuracies.items()
            for seed, found in by_seed.items()
        ],
    )
    base, better, same = verdict.judge(runs, ["spatial", "default"])
    assert (base.row, base.rate, base.base) == ("default", 0.1, None)
    assert (better.row, better.rate) == ("all", 0.2)
    assert better.differences == pytest.approx([2, 3, 1])
    # t = 2 / (1 / sqrt(3)) with two degrees of freedom.
    assert better.seen.p == pytest.approx(0.0742, abs=1e-4)
    assert better.p_holm == pytest.approx(better.seen.p)
    assert (same.differences, same.tested) == ([0, 0], False)
    markdown = verdict.table(runs, verdict.judge(runs, ["default"]))
    assert "| vit | all | 0.2 | 33.00 ± 22.06 | default | +2.00 [-0.48, +4.48] |" in markdown
    assert "commit abc" in markdown
    assert [line.row for line in verdict.judge(runs, ["default"], ["all"])] == ["default", "all"]
    assert verdict.picture(runs, [base, better, same]).stat().st_size > 1000
    assert "2 points take 5 seeds" in verdict.plan([base, better], 2)


@pytest.mark.one_backend
def test_differences_at_epochs_and_epochs_saved(tmp_path, capsys):
    losses = {
        "default": [(3.0, 2.0, 1.0), (3.1, 2.2, 1.2)],
        "mean": [(2.5, 1.5, 0.5), (3.0, 1.7, 0.7)],
        "slow": [(3.0, 2.5, 2.0), (3.0, 2.5, 2.0)],
    }
    runs_in(
        tmp_path,
        [
            {"init": init, "seed": seed, "loss_curve": " ".join(map(str, curve))}
            for init, curves in losses.items()
            for seed, curve in enumerate(curves)
        ],
    )
    arguments = [str(tmp_path), "--epochs", "1", "3", "--metric", "loss"]
    verdict.main(arguments)
    text = (tmp_path / "epochs.md").read_text()
    assert "Difference in training loss, nats" in text
    mean, slow = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| vit")
    )
    # By hand: -0.5 and -0.1, so -0.3, t(1) = 12.706; then -0.5 twice.
    assert mean[1:3] == ["mean over default", "-0.3000 [-2.8412, +2.2412]"]
    assert mean[3] == "-0.5000 [-0.5000, -0.5000]"
    # 1.0 is reached halfway from epoch 2 to 3; so is 1.2.
    assert mean[4:] == ["+0.5 [+0.5, +0.5]", "2"]
    assert slow[4] == "reached by 0 of 2 seeds"
    with pytest.raises(SystemExit, match="must be at most 3"):
        verdict.main([str(tmp_path), "--epochs", "7"])
    assert (tmp_path / "epochs.png").read_bytes().startswith(b"\x89PNG")
    assert text.split("\n\n", 1)[1] in capsys.readouterr().out

    verdict.main([*arguments, "--pairs", "slow/mean"])
    assert "| vit | slow over mean |" in (tmp_path / "epochs.md").read_text()
    for given, message in ((["--pairs", "slow"], "must be VARIANT/BASE"), (["--metric", "x"], "x")):
        with pytest.raises(SystemExit):
            verdict.main([*arguments, *given])
        assert message in capsys.readouterr().err


def test_epochs_to_reach():
    assert by_epoch.epochs_to_reach([1, 2, 4], 3, rises=True) == 2.5
    assert by_epoch.epochs_to_reach([4, 2, 1], 3, rises=False) == 1.5
    assert by_epoch.epochs_to_reach([4, 2], 5, rises=False) == 1
    assert np.isnan(by_epoch.epochs_to_reach([1, 2], 3, rises=True))


def test_seeds_needed():
    # Of the standard tables: an effect of one, and of half a standard deviation.
    assert verdict.seeds_needed(1.0, 1.0) == 10
    assert verdict.seeds_needed(1.0, 0.5) == 34


def test_holm():
    # By hand: 0.01 x 4, 0.02 x 3, then no smaller than the one before.
    assert verdict.holm([0.02, 0.01, 0.5, 0.03]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert verdict.holm([0.9, 0.8]) == [1.0, 1.0]
    assert verdict.holm([]) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--width", "6"], "argument --width: must be a multiple of 4 for vit, not 6"),
        (["--seeds", "0"], "argument --seeds: must be greater than 0"),
    ],
)
def test_bad_arguments(given, message, capsys):
    with pytest.raises(SystemExit):
        compare.parse(given)
    assert message in capsys.readouterr().err
