"""What stops a script of examples/, and how two of them keep off one another."""

import importlib.metadata
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from paths import EXAMPLES, ROOT

import keras_mimetic
from common import environment, folders, lock

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
ROW = {
    **{"model": "vit", "init": "all", "learning_rate": 0.002, "seed": 0},
    **{"validation_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 1, "curve": "0.5"},
    **{"backend": "torch", "hardware": "h", "versions": "v"},
}


def start(code, folder, name="small.py"):
    """A script of the tests' own, which finds the examples' modules."""
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return start_script(path, folder)


_started = []


@pytest.fixture(autouse=True)
def kill_what_goes_on():
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def hear_signals():
    """As in a terminal: a background job ignores Ctrl-C, and its processes inherit that."""
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def start_script(path, *arguments, folder=None):
    process = subprocess.Popen(
        [sys.executable, path, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{EXAMPLES}{os.pathsep}{EXAMPLES.parent}"},
    )
    _started.append(process)
    return process


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


HOLD = """
    import sys, time
    from common import lock
    lock.take(sys.argv[1])
    print("held", flush=True)
    time.sleep(600)
"""


@POSIX
def test_one_process_holds_a_folder_and_is_named(tmp_path):
    process = start(HOLD, tmp_path)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(lock.LockError, match=f"in use by process {process.pid}: wait"):
            folders.keep_settings(tmp_path, {"a": 1})
        assert not (tmp_path / "args.json").exists()
    finally:
        process.kill()
        process.communicate()
    # Killed, it holds nothing any more, though the file is still there.
    assert (tmp_path / lock.NAME).exists()
    lock.take(tmp_path)
    lock.take(tmp_path)  # as often as one likes
    assert (tmp_path / lock.NAME).read_text() == f"{os.getpid()}\n"


@POSIX
def test_a_lock_leaves_nothing_behind(tmp_path):
    process = start("import sys; from common import lock; lock.take(sys.argv[1])", tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert not (tmp_path / lock.NAME).exists()


@POSIX
def test_of_many_processes_one_adds_rows(tmp_path):
    code = f"""
        import sys
        from common import folders
        runs = folders.Runs(sys.argv[1], {{"a": 1}})
        for seed in range(20):
            runs.add({{**{ROW!r}, "seed": seed}})
        input()
    """
    (tmp_path / "small.py").write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": f"{EXAMPLES}{os.pathsep}{EXAMPLES.parent}"}
    arguments = [sys.executable, tmp_path / "small.py", tmp_path]
    first = subprocess.Popen(arguments, stdin=subprocess.PIPE, env=environment)
    wait_for(lambda: (tmp_path / "runs.csv").exists())
    second = subprocess.run(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    first.communicate(b"\n")
    assert first.returncode == 0
    assert second.returncode != 0
    assert f"is in use by process {first.pid}" in second.stderr
    assert [row["seed"] for row in folders.Runs(tmp_path, {"a": 1}).rows] == list(range(20))


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "busy", ["time.sleep(600)", "pbkdf2_hmac('md5', b'', b'', 2**31 - 1)", "Slow(); 1"]
)
def test_signals_end_a_script_with_one_sentence(number, busy, tmp_path):
    code = f"""
        from common import script
        script.catch_signals("the same command goes on")
        import time
        from hashlib import pbkdf2_hmac

        class Slow:
            def __del__(self):  # Python drops what is raised here.
                time.sleep(600)

        def main():
            print("begun")
            open("begun", "w").close()
            {busy}

        script.run(main)
    """
    (tmp_path / "small.py").write_text(textwrap.dedent(code))
    process = start_script(tmp_path / "small.py", folder=tmp_path)
    wait_for((tmp_path / "begun").exists)
    time.sleep(0.1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert errors == "\nsmall.py: Interrupted; the same command goes on.\n"
    assert output == "begun\n"


@POSIX
def test_signals_end_processes_that_a_script_started(tmp_path):
    code = """
        from common import script
        script.catch_signals("the same command goes on")
        import subprocess, sys

        def main():
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with script.at_signals(child.kill):
                print("begun", flush=True)
                child.wait()

        script.run(main)
    """
    process = start(code, tmp_path)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    # Comes to an end when the child does, too, which holds these streams.
    _, errors = process.communicate(timeout=20)
    assert errors == "\nsmall.py: Interrupted; the same command goes on.\n"


SCRIPTS = [
    path
    for folder in (EXAMPLES, ROOT / "benchmarks")
    for path in sorted(folder.rglob("*.py"))
    # All but the tutorial, which is read as a page and a notebook, and keeps nothing.
    if '__name__ == "__main__"' in path.read_text() and path.parent.name != "common"
]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_script_catches_signals_and_says_errors(path):
    text = path.read_text()
    assert "    script.run(" in text
    # Before the imports, which take seconds.
    before, caught, _ = text.partition("    script.catch_signals(")
    assert caught
    assert "import keras" not in before


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("script.Stop('Say this.')", "small.py: Say this."),
        (
            r"script.Stop('Say this. (ValueError: it\n\n  is wrong)')",
            "small.py: Say this. (ValueError: it is wrong)",
        ),
        ("OSError(28, 'No space left', 'x.csv')", "small.py: No space left (x.csv). What is"),
        ("PermissionError(13, 'Permission denied', '/no')", "small.py: Permission denied (/no)."),
        ("KeyboardInterrupt", "small.py: Interrupted."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(failure, message, tmp_path):
    code = f"""
        from common import script

        def main():
            raise {failure}

        script.run(main)
    """
    process = start(code, tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith(message)
    assert errors.count("\n") == 1


@POSIX
@pytest.mark.parametrize(
    ("name", "arguments", "how"),
    [
        ("cifar10.py", ("--epochs", 500), "the same command goes on with what is missing"),
        ("language.py", ("--steps", 500), "the same command goes on with what is missing"),
        ("look_inside.py", ("--epochs", 500), "the same command trains what is not trained yet"),
        (
            "recall.py",
            ("--epochs", 500, "--processes", 2, "--task", "copy"),
            "the same command goes on with what is missing",
        ),
        (
            "imagenet",
            ("--dataset", "synthetic", "--model", "vit_trial", "--image-size", 32),
            "--resume goes on from the last whole epoch",
        ),
    ],
)
def test_ctrl_c_ends_each_script(name, arguments, how, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    out = tmp_path / "out"
    process = start_script(EXAMPLES / name, *arguments, "--output", out, folder=EXAMPLES.parent)
    wait_for((out / "args.json").exists)
    time.sleep(1)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    # Also of the processes that it started, which hold these streams.
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begin < 15
    assert process.returncode == 130
    assert errors.endswith(f"\n{name}: Interrupted; {how}.\n")
    assert "Traceback" not in errors


@POSIX
def test_ctrl_c_while_a_script_imports(tmp_path):
    process = start_script(EXAMPLES / "imagenet", folder=tmp_path)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.endswith("--resume goes on from the last whole epoch.\n")
    assert "Traceback" not in errors


def test_the_package_need_not_be_installed(monkeypatch):
    """It may stand on PYTHONPATH, without metadata."""
    version = importlib.metadata.version

    def only_of_others(name):
        if "mimetic" in name:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", only_of_others)
    versions = environment.current()["versions"]
    assert f"keras_mimetic {keras_mimetic.__version__}" in versions
