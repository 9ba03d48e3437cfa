"""Fair rounds on a noisy machine, and rows of one table."""

import dataclasses
import math
import os
import pathlib
import re
import statistics
import time

import keras
import numpy as np
from scipy.stats import quantile_test

from common import folders

COLUMNS = (
    *("what", "ours", "beside", "takes", "ratio", "95 % interval"),
    *("fastest rounds", "rounds", "aim, at most", "met"),
)

# What follows the description of a row, and its clock.
CLOCKS = {"": time.process_time, ", wall clock": time.perf_counter}


@dataclasses.dataclass
class Row:
    """Seconds of ours by round, and of what it is compared with in the same rounds, if anything.

    `aim` is an upper bound of the median ratio, or of our median seconds where nothing is compared.
    """

    what: str
    ours: list[float]
    beside: str = ""
    theirs: list[float] | None = None
    aim: float | None = None

    def __str__(self):
        show, ratio, interval, fastest, takes = seconds, "", "", "", ""
        values = self.ours
        if self.theirs is not None:
            show = "{:.3f}".format
            values = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
            ratio = show(statistics.median(values))
            fastest = show(min(self.ours) / min(self.theirs))
            takes = seconds(statistics.median(self.theirs))
        if bounds := median_interval(values):
            interval = " to ".join(map(show, bounds))
        aim = "" if self.aim is None else show(self.aim)
        # Rounded as it is printed, so that no row contradicts itself.
        value = round(statistics.median(values), 4 if self.theirs is None else 3)
        met = "" if self.aim is None else "yes" if value <= self.aim else "no"
        ours = seconds(statistics.median(self.ours))
        cells = (self.what, ours, self.beside, takes, ratio, interval, fastest)
        return "| " + " | ".join((*cells, str(len(values)), aim, met)) + " |"


def table_head():
    """Return the first two lines of the table of rows."""
    return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def header(what):
    """Return what was measured, on what hardware, and its load."""
    where = folders.environment()
    load = ""
    if hasattr(os, "getloadavg"):
        load = f"; load {os.getloadavg()[0]:.1f} at the start"
    hardware = f"{where['hardware']}{processor()}"
    return f"{what}; {where['backend']}, {hardware} ({where['versions']}){load}\n"


def processor():
    """Return what distinguishes processors of one name, on Linux: family, model, AVX-512."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    info = dict(
        re.findall(r"^(cpu family|model|flags)\s*:\s*(.*)$", path.read_text(encoding="utf-8"), re.M)
    )
    if "model" not in info:
        return ""
    avx512 = "AVX-512" if "avx512f" in info.get("flags", "") else "no AVX-512"
    return f", family {info.get('cpu family', '?')} model {info['model']}, {avx512}"


def compare(what, ours, beside, theirs, repeats, *, aim=None, warm=1):
    """Yield a row for each of the `CLOCKS`, all from the same rounds."""
    for name, mine, other in zip(CLOCKS, *rounds([ours, theirs], repeats, warm), strict=True):
        yield Row(what + name, mine, beside, other, aim)


def alone(what, function, repeats, *, aim=None):
    """Yield a row for each of the `CLOCKS`. The first call is in its text, the others are timed."""
    (times,) = rounds([function], repeats + 1, warm=0)
    for name, (first, *others) in zip(CLOCKS, times, strict=True):
        yield Row(f"{what}{name}; first call {seconds(first)}", others, aim=aim)


def rounds(functions, repeats, warm=1):
    """Return seconds by clock for each function, in rounds of all, so that noise slows all.

    `warm` rounds come first, unmeasured, which compile and allocate.
    """
    backward = functions[::-1]
    for function in backward * warm:
        function()
    times = {function: [] for function in functions}
    for number in range(repeats):
        # The order alternates, because the second may find a warmer cache.
        for function in backward if number % 2 else functions:
            start = [clock() for clock in CLOCKS.values()]
            function()
            ends = [clock() for clock in CLOCKS.values()]
            times[function].append(np.subtract(ends, start))
    return [np.transpose(found) for found in times.values()]


def median_interval(values):
    """Return a distribution-free 95 % interval of the median; `None` for fewer than six values."""
    interval = quantile_test(values, p=0.5).confidence_interval(0.95)
    ends = float(interval.low), float(interval.high)
    return None if any(map(math.isnan, ends)) else ends


def seconds(value):
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def wait(values):
    """Block until tensors in any structure are computed. JAX and GPUs return earlier."""
    for tensor in keras.tree.flatten(values):
        getattr(tensor, "block_until_ready", lambda: None)()
        if keras.backend.backend() == "torch" and tensor.is_cuda:
            import torch

            torch.cuda.synchronize()
