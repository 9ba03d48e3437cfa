import csv
import importlib.util
import mmap
import pathlib
import sys

import keras
import pytest
import scripts

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))

import state_space
from lib.state_space_layers import FORWARD, NAIVE, OURS, TRAINING
from state_space import Result

SIZES = (
    *("--lengths", "16", "32", "--width", "32", "--state-dim", "8", "--head-dim", "16"),
    *("--batch", "64", "--repeats", "2", "--their-chunks", "8", "16"),
)
TORCH = keras.backend.backend() == "torch"
TRANSFORMERS = TORCH and importlib.util.find_spec("transformers") is not None


@pytest.fixture(autouse=True)
def quick_processes(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    # On a busy machine so small a call mostly waits for its second thread.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def read(printed, lengths=("16", "32")):
    header, table, growth = printed.split("\n\n", 2)
    assert header.startswith("State space, width 32, state_dim 8, head_dim 16, batch 64, ")
    columns, rule, *rows = (
        [cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()
    )
    assert len(rule) == len(columns)
    assert tuple(row[0] for row in rows) == lengths
    assert growth.startswith("Exponent of the ")
    over = f"over lengths {lengths[0]} to {lengths[-1]} (1 is linear): forward "
    assert over in growth
    return header, [dict(zip(columns, row, strict=True)) for row in rows]


@pytest.mark.parametrize("name", ["--output", "--picture"])
def test_files_that_cannot_be_written_are_refused_before_anything_is_measured(name, tmp_path):
    finished = scripts.run("benchmarks/state_space.py", *SIZES, name, tmp_path / "no" / "file")
    assert finished.returncode == 2
    assert f"argument {name}: there is no folder {tmp_path / 'no'}" in finished.stderr
    assert not finished.stdout


@pytest.mark.one_backend
def test_times_of_each_length(tmp_path):
    output = tmp_path / "times.csv"
    arguments = (*SIZES, "--part", "time", "--clock", "processor", "--output", output)
    finished = scripts.run("benchmarks/state_space.py", *arguments)
    assert finished.returncode == 0, finished.stderr
    header, rows = read(finished.stdout)
    assert ", processor time; " in header
    assert ("beside transformers" in header) == TRANSFORMERS
    assert ("without transformers" in header) != TRANSFORMERS
    for row in rows:
        assert tuple(row) == ("length", *state_space.COLUMNS["time"])
        for kind, naive in ((FORWARD, True), (TRAINING, TORCH)):
            assert float(row[f"ours, {kind}"].split()[0]) > 0
            assert float(row[f"µs a token, {kind}"]) > 0
            for other, there in (("naive", naive), ("transformers", TRANSFORMERS)):
                cell = row[f"ratio to {other}, {kind}"]
                assert float(cell.split(",")[0]) > 0 if there else cell == ""

    # The file has both chunk sizes, and two rounds of each.
    with output.open() as file:
        rows = list(csv.DictReader(file))
    layers = [OURS, *(["transformers 8", "transformers 16"] if TRANSFORMERS else []), NAIVE]
    assert list(dict.fromkeys(row["layer"] for row in rows)) == layers
    assert len(rows) == 4 * len(layers) - (0 if TORCH else 2)
    for row in rows:
        assert float(row["seconds"]) > 0
        assert row["mib"] == ""
        assert len(row["all_seconds"].split()) >= 2


@pytest.mark.one_backend
def test_memory_and_a_picture(tmp_path, capsys):
    picture = tmp_path / "memory.png"
    # Here, since each figure comes from a process of its own anyway.
    one = ("--part", "memory", "--beside", "--lengths", "32")
    state_space.main([*SIZES, *one, "--picture", str(picture)])
    header, (row,) = read(capsys.readouterr().out, ("32",))
    assert "without transformers" in header
    assert tuple(row) == ("length", *state_space.COLUMNS["memory"])
    assert [column for column in row if row[column]][1:] == [
        f"ours, {kind}, MiB" for kind in (FORWARD, TRAINING)
    ]
    assert float(row["ours, forward, MiB"]) > 0
    # The backward pass needs kept values.
    assert float(row["ours, training step, MiB"]) > float(row["ours, forward, MiB"])
    assert picture.read_bytes().startswith(b"\x89PNG")


# Only whether it can be measured: a fresh process would measure it.
@pytest.mark.parametrize("name", [NAIVE, "transformers 8"])
def test_memory_of_other_layers(name):
    if name != NAIVE and not TRANSFORMERS:
        pytest.skip("without transformers")
    args = state_space.parse([*SIZES, "--batch", "1"])
    for kind in (FORWARD, TRAINING):
        if state_space.is_run(name, kind, 16):
            assert state_space.memory_here(Result(name, kind, 16), args) >= 0


def test_layers_that_differ_are_not_compared():
    args = state_space.parse(SIZES)
    made = {name: state_space.functions(name, args) for name in (OURS, NAIVE)}
    x = state_space.inputs(5, args)
    state_space.check_equal(made, x)
    made[NAIVE] = {FORWARD: lambda x: 1.001 * made[OURS][FORWARD](x)}
    with pytest.raises(AssertionError, match="naive"):
        state_space.check_equal(made, x)


@pytest.mark.one_backend
def test_the_peak_is_that_of_this_process():
    before = state_space.reset_peak()
    # Fresh pages: Python's allocator may have resident ones left for so large a block.
    with mmap.mmap(-1, 2**27) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert 96 < state_space.memory_of_process("VmHWM") - before < 256
    assert state_space.memory_of_process("VmHWM") - before > 96
    assert state_space.reset_peak() - before < 64


@pytest.mark.one_backend
@pytest.mark.parametrize("peak", [None, 307200])
def test_a_system_that_keeps_its_peak_is_refused(monkeypatch, tmp_path, peak):
    # Where it cannot be written, and where that does nothing.
    monkeypatch.setattr(state_space, "PROCESS", tmp_path / "missing" if peak is None else tmp_path)
    (tmp_path / "status").write_text(f"VmHWM:\t {peak} kB\nVmRSS:\t 102400 kB\n")
    with pytest.raises(SystemExit, match="cannot reset the peak"):
        state_space.memory_here(Result(OURS, FORWARD, 16), state_space.parse(SIZES))


def test_the_table_has_the_better_of_two_chunk_sizes():
    # Each was timed beside ours, which was slower in the rounds of the second.
    results = [
        Result(OURS, FORWARD, 64, [1.0, 3.0], mib=5.0),
        Result("transformers 64", FORWARD, 64, [2.0], [1.0], mib=8.0),
        Result("transformers 256", FORWARD, 64, [4.0], [3.0], mib=9.0),
    ]
    time = state_space.best(results, "transformers", FORWARD, 64, state_space.TIME)
    assert time.layer == "transformers 256"
    assert state_space.ratio_cell(time) == "0.750, chunks of 256"
    memory = state_space.best(results, "transformers", FORWARD, 64, state_space.MEMORY)
    assert memory.layer == "transformers 64"
    assert state_space.best(results, NAIVE, FORWARD, 64, state_space.TIME) is None
    assert state_space.ratio_cell(Result(NAIVE, FORWARD, 64, [2.0] * 6, [1.0] * 6)) == (
        "0.500 (0.500 to 0.500)"
    )


def test_exponents_are_those_of_powers_over_long_sequences():
    # 3 + length^2 would not be a power, but the short ones do not count.
    lengths, value = state_space.exponent((256, 1024, 2048, 4096), (9.0, 1.0, 4.0, 16.0))
    assert lengths == (1024, 2048, 4096)
    assert value == pytest.approx(2)
    assert state_space.exponent((16, 32), (3.0, 6.0)) == ((16, 32), pytest.approx(1))
    assert state_space.exponent((16, 32), (0.0, 6.0)) == ((16, 32), None)
    assert state_space.exponent((16,), (3.0,)) == ((16,), None)
