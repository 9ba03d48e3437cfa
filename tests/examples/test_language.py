import csv
import itertools
import json
import shlex

import keras
import numpy as np
import pytest

import language
from common import folders, report

pytest.importorskip("matplotlib")

SMALL = (
    *("--seeds", "2", "--width", "12", "--heads", "2", "--depth", "1", "--context", "8"),
    *("--epochs", "2", "--steps", "2", "--batch-size", "4"),
    *("--sample", "10"),
)


def text_file(folder, count=200):
    """Write random words."""
    words = np.random.default_rng(0).choice(["tea", "for", "two", "and\n"], count)
    path = folder / "words.txt"
    path.write_text(" ".join(words))
    return path


def test_parts_are_consecutive(tmp_path):
    path = text_file(tmp_path)
    text = language.load(str(path), 8)
    parts = (text.train, text.validation, text.test)
    assert "".join(map(text.decode, parts)) == path.read_text()
    size = len(path.read_text())
    assert len(text.validation) == pytest.approx(0.05 * size, abs=1)
    assert len(text.test) == pytest.approx(0.1 * size, abs=1)
    other = tmp_path / "other.txt"
    other.write_text(path.read_text().replace("tea", "eat", 1))
    assert language.load(str(other), 8).digest != text.digest


@pytest.mark.parametrize("name", ["topics", "docstrings"])
def test_python_texts_are_english_without_repetitions(name, monkeypatch):
    if name == "docstrings":
        # Reading the whole library takes seconds.
        monkeypatch.setattr("sys.stdlib_module_names", {"json", "email"})
    text = language.load(name, 64)
    train, test = text.decode(text.train), text.decode(text.test)
    assert len(train) > 20_000
    assert train.count(" the ") > 100
    assert "def __init__" not in train or name == "topics"
    paragraphs = {part.strip("\n") for part in train.split("\n\n")}
    # Not the first and last, which may be parts.
    assert paragraphs.isdisjoint(part.strip("\n") for part in test.split("\n\n")[1:-1])


def test_targets_are_the_characters_after_the_inputs():
    tokens = np.random.default_rng(0).integers(20, size=900).astype("int32")
    inputs, targets = language.held_out(tokens, 8)
    assert inputs.shape == targets.shape == (64, 8)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    found = "".join(map(chr, tokens)).find
    starts = [found("".join(map(chr, window))) for window in inputs]
    assert starts[0] == 0
    # They cover the text without overlap.
    assert starts[-1] == 900 - 9
    assert (np.diff(starts) >= 8).all()
    assert targets[-1, -1] == tokens[-1]


def test_batches_are_functions_of_seed_and_step():
    tokens = np.arange(100, dtype="int32")

    def batches(steps, seed, epochs):
        made = language.Batches(tokens, context=8, batch_size=3, steps=steps, seed=seed)
        for _ in range(epochs):
            assert len(made) == steps
            yield from (made[number][0] for number in range(steps))
            made.on_epoch_end()

    by_two, by_four = list(batches(2, 5, 4)), list(batches(4, 5, 2))
    np.testing.assert_array_equal(by_two, by_four)
    assert len({batch.tobytes() for batch in by_two}) == 8
    assert (np.array(by_two) != list(batches(2, 6, 4))).any()


def test_models_of_one_seed_share_all_other_weights():
    args = language.parse(SMALL)
    weights = {}
    for init in language.INITS:
        keras.backend.clear_session()  # layers have the same names in every model
        model = language.build(30, init, 3, args)
        weights[init] = {
            "/".join(weight.path.split("/")[-2:]): keras.ops.convert_to_numpy(weight)
            for weight in model.weights
        }
    own = weights["default"]
    value_output = {"value/kernel", "attention_output/kernel"}
    query_key = {"query/kernel", "key/kernel"}
    expected = dict.fromkeys(("control", "vo-", "vo0", "vo+"), value_output)
    expected |= {"default": set(), "qk": query_key, "both": value_output | query_key}
    expected |= {"bias": {"fc1/bias"}, "mean": {"fc1/kernel"}}
    expected["all"] = value_output | expected["bias"] | expected["mean"]
    for init, found in weights.items():
        assert {name for name in own if (found[name] != own[name]).any()} == expected[init]
        product = np.einsum("ihd,hdo->io", *(found[name] for name in sorted(value_output)[::-1]))
        sign = {"vo-": -1, "both": -1, "all": -1, "vo+": 1}.get(init, 0)
        assert np.trace(product) / 12 == pytest.approx(0.4 * sign, abs=0.2)
    for name in value_output:
        norms = [np.linalg.norm(weights[init][name]) for init in ("control", "vo-")]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        np.testing.assert_array_equal(weights["all"][name], weights["vo-"][name])
    shift = weights["mean"]["fc1/kernel"] - own["fc1/kernel"]
    np.testing.assert_allclose(shift, shift.mean(), rtol=1e-4)
    assert shift.mean() == pytest.approx(-own["fc1/kernel"].std(), rel=0.1)
    assert (weights["bias"]["fc1/bias"] < 0).all()


def test_no_character_depends_on_later_ones():
    args = language.parse(SMALL)
    model = language.build(30, "default", 0, args)
    tokens = np.random.default_rng(1).integers(30, size=(2, 8)).astype("int32")
    before = keras.ops.convert_to_numpy(model(tokens))
    tokens[:, 5] += 1
    after = keras.ops.convert_to_numpy(model(tokens % 30))
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-6)
    assert (abs(after[:, 5:] - before[:, 5:]).max(axis=-1) > 1e-4).all()


def test_a_comparison_from_start_to_end(tmp_path, capsys):
    arguments = [*SMALL, "--text", str(text_file(tmp_path)), "--rate-seeds", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    language.main([*arguments, "--init", "default", "vo-", "vo0", "--output", str(one)])
    printed = capsys.readouterr().out
    table = (one / "table.md").read_text()
    assert table in printed
    assert "Sampled from default, seed 0:" in printed
    lines = {" |".join(line.split(" |")[:2]): line for line in table.splitlines()}
    for name in ("| gpt | vo-", "| gpt | vo0", "| gpt | vo- over vo0"):
        assert lines[name].count("[") == 1
        assert lines[name].endswith("| 2 |")
    assert (one / "losses.png").read_bytes().startswith(b"\x89PNG")
    with (one / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Two rates at the first seed, the better one at the second.
    assert [row["seed"] for row in rows] == ["0"] * 6 + ["1"] * 3
    for init in ("default", "vo-", "vo0"):
        first, second, last = (row for row in rows if row["init"] == init)
        best = min(first, second, key=lambda row: float(row["validation_loss"]))
        assert last["learning_rate"] == best["learning_rate"]
        assert last["curve"].split()[-1] == f"{float(last['validation_loss']):.4f}"
        for line in json.loads(first["samples"]):
            assert len(line) == 10
        assert not last["samples"]

    # Of two runs one is missing. It is the same in other company.
    lines = (one / "runs.csv").read_text().splitlines(keepends=True)
    two.mkdir()
    (two / "args.json").write_text((one / "args.json").read_text())
    (two / "runs.csv").write_text("".join(lines[:2]))
    language.main([*arguments, "--seeds", "1", "--output", str(two), "--processes", "2"])
    assert "4 runs, 1 done before, 3 to do" in capsys.readouterr().out
    with (two / "runs.csv").open() as file:
        again = {tuple(row[name] for name in folders.KEY): row for row in csv.DictReader(file)}
    assert len(again) == 4
    for row in rows:
        if same := again.get(tuple(row[name] for name in folders.KEY)):
            for name in ("validation_loss", "test_loss"):
                assert float(same[name]) == pytest.approx(float(row[name]), rel=1e-4)

    with pytest.raises(SystemExit, match="steps: 2 there, 3 now"):
        language.main([*arguments, "--output", str(two), "--steps", "3"])


def test_it_learns(tmp_path):
    path = tmp_path / "alphabet.txt"
    path.write_text("abcdefgh" * 100)
    more = ("--steps", "40", "--epochs", "1", "--sample", "100")
    args = language.parse([*SMALL, "--text", str(path), *more])
    results = language.train(args, {"init": "default", "learning_rate": 2e-2, "seed": 0})
    # log 8 is 2.1; nothing tells the first character of a window.
    assert results["test_loss"] < 0.7
    lines = json.loads(results["samples"])
    pairs = ["".join(pair) for line in lines for pair in itertools.pairwise(line)]
    assert sum(pair in "abcdefgha" for pair in pairs) / len(pairs) > 0.5


def test_the_rate_of_a_run_that_diverged_is_not_the_best(tmp_path):
    runs = folders.Runs(tmp_path, {})
    for rate, loss in ((1e-2, float("nan")), (1e-3, 2.0), (1e-4, 2.5)):
        key = dict(zip(folders.KEY, ("gpt", "default", rate, 0), strict=True))
        losses = {"validation_loss": loss, "test_loss": loss}
        runs.add({**key, **losses})
    for read in (runs, folders.Runs(tmp_path, {})):
        pairs, rates = [("gpt", "default")], [1e-2, 1e-3, 1e-4]
        best = report.best_rates(read, pairs, rates, range(1), "validation_loss")
        assert best == {("gpt", "default"): 1e-3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "32"], "must be a multiple of --heads, not 32 for 3"),
        (["--steps", "0"], "must be greater than 0, not 0"),
        (["--init", "zeros"], "invalid choice: 'zeros'"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        language.parse(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "could not be read: give topics, docstrings or the path"),
        (b"\xff" * 1000, "could not be read.*UnicodeDecodeError"),
        (b"too short", "has 9 characters. It takes more than 1280"),
    ],
)
def test_bad_texts(content, message, tmp_path):
    path = tmp_path / "text"
    if content:
        path.write_bytes(content)
    with pytest.raises(language.TextError, match=message):
        language.main(["--text", str(path), "--output", str(tmp_path)])


def test_the_commands_of_its_docstring_are_taken():
    lines = [line for line in language.__doc__.splitlines() if "examples/language.py" in line]
    assert len(lines) == 3
    for line in lines:
        args = language.parse(shlex.split(line.split("language.py")[1]))
        assert len(args.init) == (len(language.INITS) if "all-rows" in line else 2)
