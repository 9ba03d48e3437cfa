import shlex

import keras
import numpy as np
import pytest

import language

pytest.importorskip("matplotlib")

SMALL = (
    *("--width", "12", "--heads", "2", "--depth", "1", "--context", "8", "--batch-size", "4"),
    *("--learning-rate", "2e-2"),
)


def test_windows_cover_the_text_in_order():
    text = "".join(np.random.default_rng(0).choice([*"abcd"], 100))
    found, symbols = language.windows(text, 8)
    assert symbols == 4
    assert found.shape == (11, 9)
    assert "".join("abcd"[number] for number in found.ravel()) == text[:99]


def test_docstrings_are_english_without_repetitions(monkeypatch):
    # Reading the whole library takes seconds.
    monkeypatch.setattr("sys.stdlib_module_names", {"json", "email"})
    text = language.read(None)
    assert text.count(" the ") > 100
    assert "def __init__" not in text
    paragraphs = text.split("\n\n")
    assert len({*paragraphs}) == len(paragraphs) > 100


def test_no_character_depends_on_later_ones():
    model = language.gpt(30, language.parse(SMALL))
    tokens = np.random.default_rng(1).integers(30, size=(2, 8)).astype("int32")
    before = keras.ops.convert_to_numpy(model(tokens))
    tokens[:, 5] += 1
    after = keras.ops.convert_to_numpy(model(tokens % 30))
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-6)
    assert (abs(after[:, 5:] - before[:, 5:]).max(axis=-1) > 1e-4).all()


@pytest.mark.one_backend
def test_it_learns_and_tells_the_loss_from_both_starts(tmp_path, capsys):
    path = tmp_path / "alphabet.txt"
    path.write_text("abcdefgh" * 400)
    picture = tmp_path / "losses.png"
    language.main([*SMALL, "--text", str(path), "--seeds", "2", "--output", str(picture)])
    printed = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert printed.count("nats per character") == 4
    assert printed.count("value-output: 0.4 noise -0.4 identity") == 2
    last = next(line for line in printed.splitlines() if line.startswith("Held-out loss"))
    # log 8 is 2.1.
    assert all(float(word) < 1.0 for word in last.split() if word[0].isdigit())


def test_the_commands_of_its_docstring_are_taken():
    lines = [line for line in language.__doc__.splitlines() if "examples/language.py" in line]
    assert len(lines) == 2
    for line in lines:
        language.parse(shlex.split(line.split("language.py")[1].split("#")[0]))
