"""Results are rich tables in a terminal, and plain text elsewhere."""

import io

import keras
import pytest
import rich.console
from keras import layers

import keras_mimetic


@pytest.fixture(scope="module")
def results():
    inputs = keras.Input((10, 16))
    x = layers.LayerNormalization()(inputs)
    x = inputs + layers.MultiHeadAttention(2, 8, name="[bold]mix")(x, x)
    gate = layers.Dense(64, activation="silu", name="gate")(x)
    gated = layers.Multiply()([gate, layers.Dense(64, name="up")(x)])
    model = keras.Model(inputs, x + layers.Dense(16, name="down")(gated))
    rules = {"gate|up|down": None}
    return keras_mimetic.initialize(model, seed=0), keras_mimetic.measure(model, rules=rules)


def printed(result, width):
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=width)
    console.print(result)
    return rich.text.Text.from_ansi(console.file.getvalue()).plain


@pytest.mark.parametrize("number", [0, 1], ids=["report", "measurements"])
def test_wide_tables_have_the_cells_of_print(results, number):
    result = results[number]
    shown = printed(result, width=400)
    # Brackets are part of a name or a range, not rich's markup.
    for cell in (cell for line in str(result).splitlines()[1:] for cell in line.split("  ")):
        assert cell.strip(" :") in shown or "noise and" in cell
    assert "[bold]mix" in shown


@pytest.mark.parametrize("number", [0, 1], ids=["report", "measurements"])
def test_tables_fit_a_narrow_terminal(results, number):
    result = results[number]
    assert max(map(len, str(result).splitlines())) > 80
    shown = printed(result, width=80)
    assert max(map(len, shown.splitlines())) <= 80
    # Cells are folded, not cut.
    assert "…" not in shown


@pytest.mark.parametrize("number", [0, 1], ids=["report", "measurements"])
def test_show_prints_plain_text_to_a_pipe(results, number, capsys):
    results[number].show()
    assert capsys.readouterr().out == f"{results[number]}\n"


def test_show_prints_a_table_to_a_terminal(results, capsys, monkeypatch):
    # rich reads them from the environment.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    results[0].show()
    shown = capsys.readouterr().out
    assert "\x1b[" in shown
    assert max(len(rich.text.Text.from_ansi(line).plain) for line in shown.splitlines()) <= 100


def test_str_is_plain_text_everywhere(results, monkeypatch):
    plain = [str(result) for result in results]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert [str(result) for result in results] == plain
    assert not any("\x1b" in text for text in plain)
