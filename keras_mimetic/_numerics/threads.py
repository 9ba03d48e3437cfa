"""Threads: the package's own, and those of BLAS."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def in_threads(function: Callable[[int], None], items: range) -> None:
    """Call a function with each item, in at most one thread per processor."""
    threads = min(processors(), len(items))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(function, items))
    else:
        for item in items:
            function(item)


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager:
    """Use one BLAS thread, so that rounding does not depend on the thread count."""
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> "ThreadpoolController":
    """Find the BLAS libraries, which takes milliseconds."""
    import scipy.linalg  # noqa: F401  (loads the BLAS of SciPy)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
