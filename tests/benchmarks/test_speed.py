import time

import pytest
import scripts

from lib import timing

SMALL = (
    *("--shape", 64, 64, "--width", 32, "--heads", 2, "--depth", 1, "--wide", 64, 4),
    *("--block", 8, 1, 4, 2, "--repeats", 1),
)


def run(*arguments):
    finished = scripts.run("benchmarks/speed.py", *arguments)
    assert finished.returncode == 0, finished.stderr
    header, table = finished.stdout.split("\n\n")
    assert header.startswith("Speed; ")
    columns, rule, *rows = (line.strip("| \n").split(" | ") for line in table.splitlines())
    assert columns == list(timing.COLUMNS)
    assert rule[0].count("---") == len(columns)
    return [row[0] for row in rows]


@pytest.mark.one_backend
def test_the_table_has_two_rows_for_each_comparison():
    whats = run(*SMALL)
    assert len(set(whats)) == len(whats) == 23
    for part, rows in {
        "MimeticMean": 6,
        "attention weights": 4,
        "`initialize`": 4,
        "`measure`": 4,
        "first call": 6,
        "MimeticMLPBlock": 4,
        "import keras_mimetic": 1,
        "wall clock": 11,
    }.items():
        assert sum(part in what for what in whats) == rows, part


def test_parts_can_be_chosen():
    assert len(run("--part", "draws", *SMALL)) == 6


def test_a_row_by_hand():
    # Ratios 1/2, 3/4, 1, 1, 1 and 2: their median is 1, that of ours 3, of theirs 3.5.
    row = timing.Row("it", [1, 3, 3, 3, 4, 8], "other", [2, 4, 3, 3, 4, 4], aim=1.0)
    assert str(row) == (
        "| it | 3.00 s | other | 3.50 s | 1.000 | 0.500 to 2.000 | 0.500 | 6 | 1.000 | yes |"
    )
    # A ratio of 1.0004 is printed as 1.000, and is that.
    assert str(timing.Row("it", [1.0004], "other", [1.0], aim=1.0)).endswith(" 1.000 | yes |")
    assert str(timing.Row("it", [1.1], "other", [1.0], aim=1.0)).endswith(" 1.000 | no |")
    assert str(timing.Row("it", [1.1], "other", [1.0])).endswith(" | 1 |  |  |")
    # With nothing to compare, the aim is in seconds.
    alone = timing.Row("it", [0.049, 0.051, 0.052], aim=0.05)
    assert str(alone) == "| it | 51.0 ms |  |  |  |  |  | 3 | 50.0 ms | no |"


def test_an_interval_needs_six_values_and_shrinks():
    assert timing.median_interval(range(5)) is None
    assert timing.median_interval(range(6)) == (0, 5)
    # Order statistics 10 and 21 of 30: the tables of the sign test.
    assert timing.median_interval(range(1, 31)) == (10, 21)


def test_rounds_alternate_after_the_warm_calls():
    calls = []
    ours, theirs = timing.rounds(
        [lambda: calls.append("ours"), lambda: calls.append("theirs")], 3, warm=2
    )
    assert calls[:4] == ["theirs", "ours"] * 2
    assert calls[4:] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert ours.shape == theirs.shape == (len(timing.CLOCKS), 3)


def test_the_first_call_is_not_timed_with_the_others():
    pauses = iter((0.2, 0.0, 0.0, 0.0))
    processor, wall = timing.alone("it", lambda: time.sleep(next(pauses)), 3)
    assert processor.what.startswith("it; first call ")
    assert wall.what.startswith("it, wall clock; first call 2")
    assert len(processor.ours) == len(wall.ours) == 3


def test_seconds_have_readable_units():
    assert [timing.seconds(value) for value in (0.0341, 1.5)] == ["34.1 ms", "1.50 s"]
