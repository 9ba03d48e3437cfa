"""How every script starts and ends: a sentence in place of a traceback.

A script calls `start` before it imports Keras, which takes seconds:

    if __name__ == "__main__":
        script.start(parse)

    import keras
"""

import concurrent.futures
import functools
import importlib.util
import json
import os
import pathlib
import signal
import sys

_BACKENDS = ("jax", "tensorflow", "torch")


class Stop(Exception):  # noqa: N818 (it is the base of errors)
    """End a script with one sentence that says why, and what to do."""


def start(parse, resume="The same command resumes", needs_keras=True):
    """Read the options, check Keras's backend, and print errors as one sentence.

    Args:
        parse: `parse()` reads the options. It exits for `--help` and wrong ones.
        resume: How to continue after an interrupt.
        needs_keras: Whether Keras's backend must be there.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # It is closed, as by `>&-`.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        else:
            stream.reconfigure(errors="replace")
    # With it Python raises KeyboardInterrupt, as for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.excepthook = functools.partial(_print_error, resume)
    parse()
    if needs_keras:
        check_backend()


def check_backend():
    """Raise `Stop` unless Keras's backend can train and is installed."""
    backend = os.environ.get("KERAS_BACKEND") or _configured_backend()
    installed = [name for name in _BACKENDS if importlib.util.find_spec(name)]
    if backend in installed:
        return
    if not installed:
        raise Stop(f"Keras needs a backend: install one of {', '.join(_BACKENDS)}.")
    reason = "is not installed" if backend in _BACKENDS else "is not one that trains"
    command = " ".join(["python", *sys.argv])
    raise Stop(
        f"Keras's backend is {backend!r}, which {reason}. Installed: {', '.join(installed)}. "
        f"Type: KERAS_BACKEND={installed[0]} {command}"
    )


def _configured_backend():
    """Return the backend that Keras uses where KERAS_BACKEND is not set."""
    folder = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    try:
        text = pathlib.Path(folder, "keras.json").read_text(encoding="utf-8")
        return json.loads(text)["backend"]
    except (OSError, ValueError, KeyError):
        return "tensorflow"


def sentence(error, resume="The same command resumes"):
    """Return what to print for an error; `None` if its traceback matters."""
    if isinstance(error, KeyboardInterrupt):
        return f"Interrupted. {resume}."
    if isinstance(error, Stop):
        # Messages of other packages, which it quotes, may have many lines.
        return " ".join(str(error).split())
    if isinstance(error, BrokenPipeError):
        return ""  # Nobody reads on, as after `| head`.
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}. Fix this and run the command again."
    if isinstance(error, concurrent.futures.BrokenExecutor):
        return (
            "A process was killed, perhaps because memory ran out. "
            "Run the command again, perhaps with fewer --processes."
        )
    return None


def _print_error(resume, kind, error, traceback):
    text = sentence(error, resume)
    if text is None:
        sys.__excepthook__(kind, error, traceback)
    elif text:
        print(f"\n{pathlib.Path(sys.argv[0]).name}: {text}", file=sys.stderr)
