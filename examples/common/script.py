"""How an example runs as a script: whatever stops it is said in one sentence.

A script calls `catch_signals` before its other imports, which take seconds, and `run` at its end:

    from common import script

    if __name__ == "__main__":
        script.catch_signals("the same command goes on with what is missing")
    ...
    if __name__ == "__main__":
        script.run(main)
"""

import concurrent.futures.process
import contextlib
import multiprocessing
import os
import pathlib
import signal
import socket
import sys
import threading


class Stop(Exception):  # noqa: N818 (it is the base of errors)
    """Ends a script; its text is one sentence that says why, and what to do."""


def catch_signals(how_to_go_on):
    """Lets Ctrl-C, SIGTERM and SIGHUP end the process at once, with one sentence.

    A thread does it, so that it works inside long calls of the backends, and where Python drops
    exceptions, as in `__del__`. Nothing is tidied up: what the examples write is whole at any
    moment.

    Args:
        how_to_go_on: The sentence's end, such as "--resume goes on from the last whole epoch".
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Ignored is what `nohup` means to stay so.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _nothing)
    # Python's own process that cleans up after us would add lines of its own.
    quiet = "ignore:resource_tracker:UserWarning"
    warnings = [os.environ.get("PYTHONWARNINGS"), quiet]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, warnings))
    sentence = f"\n{_name()}: Interrupted; {how_to_go_on}.\n"
    arguments = (reader, writer, sentence)
    threading.Thread(target=_end_at_a_signal, args=arguments, daemon=True).start()


# What a signal calls before it ends the process.
_at_signals = []


@contextlib.contextmanager
def at_signals(function):
    """While this context is open, a signal that ends the process calls `function` first.

    For example to kill a process that this one has started.
    """
    _at_signals.append(function)
    try:
        yield
    finally:
        _at_signals.remove(function)


def run(main):
    """Calls `main()`; what is wrong with options, files or the disk ends it with one sentence."""
    try:
        main()
    except Stop as error:
        # Errors of other packages, which it quotes, may have many lines.
        lines = (line.strip() for line in str(error).splitlines())
        sys.exit(f"{_name()}: {' '.join(filter(None, lines))}")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sys.exit(
            f"{_name()}: {error.strerror or error}{where}. What is finished is kept: fix this and "
            "run the command again."
        )
    except concurrent.futures.process.BrokenProcessPool:
        sys.exit(
            f"{_name()}: One of the processes was killed, perhaps for want of memory. What is "
            "finished is kept: run the command again, perhaps with fewer --processes."
        )
    except KeyboardInterrupt:  # where `catch_signals` was not called
        sys.exit(f"{_name()}: Interrupted.")


def _name():
    return pathlib.Path(sys.argv[0]).name


def _nothing(number, frame):
    """A handler, without which Python would tell nobody of the signal."""


def _end_at_a_signal(reader, writer, sentence):
    number = 0
    while number not in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)):
        number = reader.recv(1)[0]
    # What was printed before; another thread may hold the stream.
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(1.0)
    os.write(2, sentence.encode())
    # They end without it, too, but not before they have imported everything.
    for child in multiprocessing.active_children():
        child.kill()
    for function in [*_at_signals]:
        function()
    os._exit(128 + number)
