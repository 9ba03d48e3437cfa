"""Results are rich tables in a terminal, and plain text elsewhere."""

import io
import re

import keras
import pytest
import rich.console
from keras import layers

import keras_mimetic
from keras_mimetic._tables import Table


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
    for line in str(result).splitlines()[1:]:
        for cell in re.split("  |: ", line):
            assert cell.strip(" :") in shown or "noise and" in cell
    assert "[bold]mix" in shown


@pytest.mark.parametrize("number", [0, 1], ids=["report", "measurements"])
def test_tables_fit_a_narrow_terminal(results, number):
    result = results[number]
    shown = printed(result, width=80)
    assert max(map(len, shown.splitlines())) <= 80
    # No word is broken, and no cell is cut.
    assert set(shown.replace("─", "").split()) <= set(printed(result, width=400).split())
    assert "…" not in shown


@pytest.mark.parametrize("width", range(26, 60))
def test_columns_that_just_fit_are_not_broken(width):
    cells = ["-1.000*", "+0.50 [+0.25 to +0.75]", "0.125"]
    table = Table("mlp", [["", "first", "second", "third"], ["a_layer", *cells]])
    console = rich.console.Console(file=io.StringIO(), width=width)
    console.print(rich.console.Group(*table.rich(width)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    # Ranges wrap only where they do not fit beside the name.
    for cell in cells if width >= 44 else cells[::2]:
        assert any(cell in line for line in lines)


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


def test_names_from_elsewhere_are_shown_and_not_obeyed():
    name = "\x1b[2Jdense\nall weights are fine"
    x = keras.Input((16,))
    model = keras.Model(x, layers.Dense(16)(layers.Dense(32, "gelu", name=name)(x)))
    report = keras_mimetic.initialize(model, seed=0, dry_run=True)
    measured = keras_mimetic.measure(model)
    for result in (report, measured):
        for text in (str(result), printed(result, width=200)):
            assert "\\x1b[2Jdense\\nall" in text.replace("\n", "")
            assert "\x1b" not in text
    assert len(str(report).splitlines()) == 2 + len(report)


def test_csv_cells_are_no_formulas():
    x = keras.Input((16,))
    model = keras.Model(x, layers.Dense(16)(layers.Dense(32, "gelu", name="=1+1")(x)))
    assert ",'=1+1," in keras_mimetic.measure(model).to_csv()


@pytest.fixture(scope="module")
def long():
    x = inputs = keras.Input((16,))
    for number in range(12):
        name = f"a_long_name_of_a_layer_in_a_model_of_many_blocks_{number}"
        y = layers.Dense(32 * (1 + number // 6), "gelu", name=name)(layers.LayerNormalization()(x))
        x = x + layers.Dense(16)(y)
    return keras.Model(inputs, x)


def test_equal_rows_of_a_long_report_are_one(long):
    report = keras_mimetic.initialize(long, seed=0)
    assert len(report) == len(report.rows) == 24
    lines = str(report).splitlines()
    assert len(lines) == 2 + 2
    assert all("_blocks_*/" in line and "(12)" in line for line in lines[2:])
    # In the order of the network.
    assert [row.path.split("_")[-1] for row in report.rows[:3]] == [
        "0/kernel",
        "0/bias",
        "1/kernel",
    ]


def test_long_names_of_layers_keep_their_end_in_a_narrow_terminal(long):
    for result in (keras_mimetic.initialize(long, seed=0), keras_mimetic.measure(long)):
        shown = printed(result, width=80)
        assert max(map(len, shown.splitlines())) <= 80
        names = [line.split()[0] for line in shown.splitlines() if line.startswith("...")]
        assert names
        assert all("_blocks_" in name for name in names)


def test_printed_measurements_are_narrow(long):
    text = str(keras_mimetic.measure(long))
    assert max(map(len, text.splitlines())) <= 100
