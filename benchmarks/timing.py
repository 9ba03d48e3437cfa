"""What the benchmarks share: fair timing on a noisy machine, and a header."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))

from report import environment


def alternate(functions, repeats):
    """Seconds of each function, in rounds that go through all of them."""
    for function in functions.values():
        function()  # compiles, allocates
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def header(what):
    """What was measured, on what."""
    where = environment()
    return f"{what}; {where['backend']}, {where['hardware']} ({where['versions']})\n"
