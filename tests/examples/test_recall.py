import csv
import shlex

import keras
import numpy as np
import pytest

import recall

SMALL = (
    *("--seeds", "2", "--length", "4", "--width", "16", "--state-dim", "4", "--depth", "1"),
    *("--epochs", "2", "--steps", "2", "--batch-size", "4", "--learning-rate", "1e-2"),
)


def rows_of(folder):
    with (folder / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_copy_asks_for_earlier_symbols():
    tokens, answers, weights = recall.make("copy", 5, 7, seed=0)
    assert tokens.shape == answers.shape == weights.shape == (7, 10)
    np.testing.assert_array_equal(answers[:, 5:], tokens[:, :5])
    np.testing.assert_array_equal(tokens[:, 5], 0)
    # An answer is visible only after it was given.
    np.testing.assert_array_equal(tokens[:, 6:], answers[:, 5:-1])
    np.testing.assert_array_equal(weights, np.arange(10) >= 5 + np.zeros((7, 1)))


def test_recall_asks_for_the_values_of_keys():
    tokens, answers, weights = recall.make("recall", 6, 9, seed=0)
    assert tokens.shape == answers.shape == weights.shape == (9, 18)
    for sequence, wanted in zip(tokens, answers, strict=True):
        keys, values = sequence[:12:2], sequence[1:12:2]
        assert len(set(keys)) == 6
        assert keys.max() < recall.KEYS <= values.min()
        known = dict(zip(keys, values, strict=True))
        assert [known[key] for key in sequence[12:]] == list(wanted[12:])
    assert (np.sort(tokens[:, 12:]) == np.sort(tokens[:, :12:2])).all()
    assert (tokens[:, 12:] != tokens[:, :12:2]).any()
    np.testing.assert_array_equal(weights.sum(axis=1), 6)
    assert max(tokens.max(), answers.max()) < recall.TOKENS["recall"]


def test_batches_are_functions_of_seed_epoch_and_number():
    first, second = (recall.Training("copy", 8, 4, 6, seed=3) for _ in range(2))
    batches = [first[number] for number in range(6)]
    for number in (4, 1):
        for a, b in zip(second[number], batches[number], strict=True):
            np.testing.assert_array_equal(a, b)
    assert [batch[0].shape[1] // 2 for batch in batches] == [2, 4, 6, 8, 2, 4]
    assert (batches[0][0] != batches[4][0]).any()
    first.on_epoch_end()
    for a, b in zip(batches, map(first.__getitem__, range(6)), strict=True):
        assert (a[0] != b[0]).any()


@pytest.mark.one_backend
def test_networks_of_one_seed_share_all_other_weights():
    args = recall.parse(SMALL)
    models = {init: recall.build("copy", init, 0, args) for init in recall.INITS}
    own = models["mamba2"]
    for init, model in models.items():
        different = {
            weight.path.split("/", 1)[-1]
            for weight, other in zip(model.weights, own.weights, strict=True)
            if (keras.ops.convert_to_numpy(weight) != keras.ops.convert_to_numpy(other)).any()
        }
        expected = {
            "mamba2": set(),
            "decay": {"in_projection/kernel", "a_log", "dt_bias"},
            "correlation": {"in_projection/kernel"},
            "convolution": {"conv_kernel", "conv_bias"},
        }
        expected["mimetic"] = expected["decay"]
        expected["recipe"] = expected["decay"] | expected["convolution"]
        assert different == expected[init]


@pytest.mark.one_backend
def test_a_comparison_from_start_to_end(tmp_path, capsys):
    arguments = [*SMALL, "--output", str(tmp_path)]
    recall.main([*arguments, "--task", "copy"])
    printed = capsys.readouterr().out
    table = (tmp_path / "table.md").read_text()
    assert table in printed
    assert "| length 8: accuracy %, mean" in table
    line = next(line for line in table.splitlines() if line.startswith("| copy | mimetic"))
    # Two differences with intervals, and n.
    assert line.count("[") == 2
    assert line.endswith("| 2 |")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    rows = rows_of(tmp_path)
    assert len(rows) == 2 * 2
    assert len({row["twice_accuracy"] for row in rows}) > 1
    assert all(len(row["curve"].split()) == 2 for row in rows)

    # Another task and a missing run, in two processes: it is the same in other company.
    lines = (tmp_path / "runs.csv").read_text().splitlines(keepends=True)
    (tmp_path / "runs.csv").write_text("".join(lines[:2]))
    recall.main([*arguments, "--seeds", "1", "--processes", "2"])
    assert "4 runs, 1 done before, 3 to do" in capsys.readouterr().out
    again = rows_of(tmp_path)
    assert again[0] == rows[0]
    (same,) = (row for row in again[1:] if row["model"] == "copy")
    for name in ("init", "seed"):
        assert same[name] == rows[1][name]
    for name in ("test_accuracy", "twice_accuracy"):
        assert float(same[name]) == pytest.approx(float(rows[1][name]))
    table = (tmp_path / "table.md").read_text()
    for task in recall.TOKENS:
        assert f"\n| {task} | mimetic" in table

    with pytest.raises(SystemExit, match="length: 4 there, 2 now"):
        recall.main([*arguments, "--length", "2"])


def test_it_learns():
    small = ("--length", "4", "--width", "32", "--state-dim", "16", "--depth", "1")
    args = recall.parse([*small, "--epochs", "3", "--steps", "60"])
    key = {"model": "recall", "init": "mimetic", "learning_rate": 2e-2, "seed": 0}
    results = recall.train(args, key)
    # 1 in 16 by chance.
    assert results["test_accuracy"] > 0.5
    assert results["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--length", "17"], "must be 16 or less for recall"),
        (["--length", "0"], "must be greater than 0, not 0"),
        (["--init", "zeros"], "invalid choice: 'zeros'"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        recall.parse(arguments)
    assert message in capsys.readouterr().err


def test_the_commands_of_its_docstring_are_taken():
    lines = [line for line in recall.__doc__.splitlines() if "python examples/recall.py" in line]
    assert len(lines) == 3
    for line in lines:
        recall.parse(shlex.split(line.split("recall.py")[1], comments=True))
