"""Fair rounds on a noisy machine, and rows of one table."""

import dataclasses
import math
import os
import pathlib
import re
import statistics
import time

import keras
from scipy.stats import quantile_test

from common import folders

COLUMNS = (
    *("what", "ours", "beside", "takes", "ratio", "95 % interval"),
    *("fastest rounds", "rounds", "aim, at most", "met"),
)


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


def rounds(ours, theirs, repeats, *, clock=time.perf_counter, warm=1, pause=0.0):
    """Return the seconds of both, in rounds that call both, so that noise slows both.

    `warm` calls come first, unmeasured, which compile and allocate. A pause before each call lets
    the other's threads, which spin a while after their work, go to sleep where `clock` would count
    them.
    """
    for function in (theirs, ours) * warm:
        function()
    times = {ours: [], theirs: []}
    for number in range(repeats):
        # The order alternates too, because the second may find a warmer cache.
        for function in (theirs, ours) if number % 2 else (ours, theirs):
            time.sleep(pause)
            start = clock()
            function()
            times[function].append(clock() - start)
    return times[ours], times[theirs]


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
