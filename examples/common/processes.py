"""Independent runs in several processes, which share the cores out."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import threading

from common import script


def run_all(function, items, count, start=None, args=()):
    """Each item with `function(item)`, as they come, from `count` processes.

    Each process has its part of the cores, for as many threads, and calls `start(*args)` first.
    All of these must be what can be pickled, functions those of a module.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    each = max(1, (len(cores) if cores else os.cpu_count()) // count)
    # Read by the numeric libraries of the processes, when these start.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(each)
    # Where this process is ended, another one tidies up after it, and need not say so.
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.getenv("PYTHONWARNINGS"), quiet)))
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(count):
        numbers.put(cores and cores[number * each :][:each])
    with concurrent.futures.ProcessPoolExecutor(
        count, mp_context=context, initializer=_start, initargs=(numbers, start, args)
    ) as pool:
        # They inherit what is blocked: Ctrl-C is for this process, with which they end.
        with blocked_interrupts():
            waiting = {pool.submit(function, item): item for item in items}
        try:
            for future in concurrent.futures.as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def blocked_interrupts():
    """Let processes that are started in this context never hear of Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent():
    """However that one ends, also killed."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _start(numbers, start, args):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cores = numbers.get()
    if cores:
        os.sched_setaffinity(0, cores)
    if start:
        start(*args)


def wait(process, seconds, kill):
    """Return a process's exit status, or `None` if it takes too long and `kill` ends it.

    A signal to this process calls `kill`, too.
    """
    with script.at_signals(kill):
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill()
            process.wait()
            return None
