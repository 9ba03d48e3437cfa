"""Runs examples and benchmarks as their commands do, without a process for each.

A process pays seconds of imports. Where it is not the point, the script runs here.
"""

import contextlib
import importlib
import io
import os
import subprocess
import sys
import traceback
import warnings

import keras
import paths

ROOT = paths.ROOT


def run(script, *arguments, in_process=True):
    """Run a script, given by its path in the repository, from the repository's root.

    Returns:
        `subprocess.CompletedProcess` with `returncode`, `stdout` and `stderr`.
    """
    arguments = list(map(str, arguments))
    if in_process:
        return _here(script, arguments)
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def _module(script):
    """Return the name of the module with the script's `main`. For a folder it is `train`."""
    path = ROOT / script
    return f"{path.name}.train" if path.is_dir() else path.stem


def _here(script, arguments):
    out, err = io.StringIO(), io.StringIO()
    argv, path, policy = sys.argv, list(sys.path), keras.config.dtype_policy()
    code = 0
    try:
        sys.argv = [script, *arguments]
        sys.path.insert(0, str((ROOT / script).parent))
        with (
            contextlib.chdir(ROOT),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            # They do not end a process.
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            importlib.import_module(_module(script)).main()
    except SystemExit as stop:
        code = stop.code or 0
        if isinstance(code, str):
            err.write(f"{code}\n")
            code = 1
    except Exception:
        err.write(traceback.format_exc())
        code = 1
    finally:
        sys.argv, sys.path[:] = argv, path
        keras.config.set_dtype_policy(policy)
    return subprocess.CompletedProcess([script, *arguments], code, out.getvalue(), err.getvalue())
