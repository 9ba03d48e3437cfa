"""How scripts end, and what is written when."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from paths import EXAMPLES, ROOT

from common import folders, script

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and shells of POSIX")
ROW = {
    **{"model": "vit", "init": "all", "learning_rate": 0.002, "seed": 0},
    **{"validation_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 1.0, "curve": "0.5"},
    **{"backend": "torch", "hardware": "h", "versions": "v"},
}
SMALL = """
import sys
from common import script
script.start(lambda: None, "The same command resumes", needs_keras=False)
"""


def write_script(folder, code):
    path = folder / "small.py"
    path.write_text(SMALL + textwrap.dedent(code))
    return path


def start(path, *arguments, **more):
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    path_of_modules = f"{EXAMPLES}{os.pathsep}{ROOT}"
    more["env"] = {**os.environ, "PYTHONPATH": path_of_modules, **more.get("env", {})}
    return subprocess.Popen([sys.executable, path, *map(str, arguments)], **more)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            "script.Stop('Say this. (ValueError: it\\n\\n  is wrong)')",
            "Say this. (ValueError: it is",
        ),
        ("OSError(28, 'No space left', 'x.csv')", "No space left (x.csv). Fix this"),
        ("KeyboardInterrupt", "Interrupted. The same command resumes."),
    ],
)
def test_an_error_is_one_sentence(failure, message, tmp_path):
    process = start(write_script(tmp_path, f"raise {failure}"))
    _, errors = process.communicate()
    assert process.returncode in (1, -signal.SIGINT)
    assert errors.startswith(f"\nsmall.py: {message}")
    assert errors.count("\n") == 2


def test_a_bug_has_its_traceback(tmp_path):
    _, errors = start(write_script(tmp_path, "1 / 0")).communicate()
    assert "Traceback" in errors
    assert "ZeroDivisionError" in errors


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("has_reader", [True, False])
def test_signals_end_a_script_also_without_a_reader(number, has_reader, tmp_path):
    path = write_script(tmp_path, "print('begun', flush=True); import time; time.sleep(600)")
    # A background job ignores Ctrl-C, which its processes inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(path, stderr=subprocess.STDOUT)
    signal.signal(signal.SIGINT, before)
    assert process.stdout.readline() == "begun\n"
    if not has_reader:
        process.stdout.close()  # As `tee` does, which got Ctrl-C too.
    process.send_signal(number)
    assert process.wait(20) != 0
    if has_reader:
        assert process.stdout.read() == "\nsmall.py: Interrupted. The same command resumes.\n"
        process.stdout.close()


@POSIX
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(closed, tmp_path):
    path = write_script(
        tmp_path, "print('\\xb1', sys.stdout.isatty()); raise script.Stop('Say this.')"
    )
    command = ["bash", "-c", f'exec "$0" "$1" {closed}', sys.executable, path]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr == ("" if "2>&-" in closed else "\nsmall.py: Say this.\n")


def test_files_are_utf_8_in_any_locale(tmp_path):
    code = """
        from common import folders
        folders.write(sys.argv[1], "75.2 \\xb1 0.3\\n")
        print("75.2 \\xb1 0.3")
    """
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = start(write_script(tmp_path, code), tmp_path / "table.md", env=locale)
    printed, errors = process.communicate()
    assert not errors
    assert "75.2" in printed
    assert (tmp_path / "table.md").read_bytes() == "75.2 \xb1 0.3\n".encode()


def test_links_are_not_followed(tmp_path):
    thesis = tmp_path / "thesis"
    thesis.write_text("the work of years")
    for name in ("part-table.md", "table.md", ".lock"):
        (tmp_path / name).symlink_to(thesis)
    folders.write(tmp_path / "table.md", "text")
    assert (tmp_path / "table.md").read_text() == "text"
    with contextlib.suppress(OSError):
        folders.keep_settings(tmp_path, {"a": 1})
    assert thesis.read_text() == "the work of years"


def test_a_write_that_fails_leaves_the_file_before(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("before")

    def write_half():
        with folders.replacing(path) as part:
            part.write_text("half")
            raise ValueError("half of it")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"]
    assert path.read_text() == "before"


def test_one_process_writes_into_a_folder(tmp_path):
    code = """
        from common import environment, folders
        environment.current = dict
        folders.keep_settings(sys.argv[1], {"a": 1})
        print("held", flush=True)
        input()
    """
    path, out = write_script(tmp_path, code), tmp_path / "out"
    first = start(path, out, stdin=subprocess.PIPE)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(folders.SettingsError, match="out is in use by another process"):
        folders.keep_settings(out, {"a": 1})
    first.communicate("\n")
    folders.keep_settings(out, {"a": 1})
    folders.keep_settings(out, {"a": 1})  # As often as one likes.


@POSIX
def test_ctrl_c_ends_the_processes_of_a_comparison(tmp_path):
    code = """
        import keras, os, time
        from common import folders

        def run(key):
            open(os.path.join(sys.argv[1], f"run{key['seed']}"), "w").close()
            time.sleep(600)

        runs = folders.Runs(sys.argv[1], {"a": 1})
        keys = [("vit", "all", 0.1, seed) for seed in range(4)]
        runs.run_missing(keys, run, str, processes=2)
    """
    out = tmp_path / "out"
    path = write_script(tmp_path, code.replace("sys.argv[1]", repr(str(out))))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(path, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    while len(list(out.glob("run?"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    # They hold these streams.
    _, errors = process.communicate(timeout=30)
    assert errors.endswith("small.py: Interrupted. The same command resumes.\n")
    assert "Traceback" not in errors


@pytest.mark.parametrize("backend", ["pytorch", "Jax", "tensorflow"])
def test_a_backend_that_cannot_train_says_what_to_type(backend, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(sys, "argv", ["examples/cifar10.py", "--seeds", "1"])
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: name == "torch" or None)
    with pytest.raises(script.Stop) as caught:
        script.check_backend()
    assert f"Keras's backend is {backend!r}, which is not" in str(caught.value)
    command = "Type: KERAS_BACKEND=torch python examples/cifar10.py --seeds 1"
    assert str(caught.value).endswith(command)


def test_the_backend_of_keras_json_counts(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert script._configured_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert script._configured_backend() == "torch"


def test_rows_are_read_back_as_they_were(tmp_path):
    runs = folders.Runs(tmp_path, {"a": 1})
    for seed in range(3):
        runs.add({**ROW, "seed": seed, "learning_rate": 4e-3})
    text = runs.path.read_text()
    again = folders.Runs(tmp_path, {"a": 1})
    again.add({**ROW, "seed": 3, "learning_rate": 4e-3})
    assert again.path.read_text().startswith(text)
    assert [row["seed"] for row in folders.Runs(tmp_path).rows] == [0, 1, 2, 3]
