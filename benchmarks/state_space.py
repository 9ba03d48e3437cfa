"""Measure a selective state space by the length of the sequence: time and memory.

    KERAS_BACKEND=torch python benchmarks/state_space.py --output lengths.csv --picture lengths.png
    KERAS_BACKEND=jax python benchmarks/state_space.py --part time --lengths 256 1024 4096

Measures the forward pass of `MimeticStateSpace` and a training step: the gradients of the mean
square of its outputs. It is compared with the recurrence as it is written, `layer.step` step by
step, and on torch with `Mamba2Mixer` of Hugging Face's transformers (its PyTorch code, unless its
kernels for GPUs are installed) in each of the given chunk sizes, of which tables and picture have
the better. All have the same weights, and outputs that are equal to 1e-4, which is checked first.
JAX and TensorFlow compile.

Prints a Markdown table per part for this backend. Times are medians of the wall clock (or, with
`--clock processor`, of the processor time, which other processes disturb less), ratios the median
of ours / beside over rounds that alternate between the two, with its 95 % interval. Memory is what
the first call adds to the peak of a fresh process, without that of a GPU, and needs Linux. On JAX
and TensorFlow this call compiles too. Let nothing else use the machine.
"""

import concurrent.futures
import dataclasses
import functools
import gc
import itertools
import math
import multiprocessing
import os
import pathlib
import statistics
import sys
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import options

PARTS = TIME, MEMORY = ("time", "memory")
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
OTHERS = ("transformers", "naive")
# Below this length, what does not grow with it hides what does.
SHORTEST_FITTED = 1024


def parse(argv=None):
    parser, add = options.parser(__doc__)
    whole = {"type": options.positive(int)}
    add("--part", nargs="+", choices=PARTS, default=PARTS, help="time, memory [both]")
    clock = "clock of times: wall or processor [wall]"
    add("--clock", choices=CLOCKS, default="wall", help=clock)
    beside = "compare with transformers, naive [both]"
    add("--beside", nargs="*", choices=OTHERS, default=OTHERS, help=beside)
    lengths = [2**power for power in range(8, 14)]
    add("--lengths", **whole, nargs="+", default=lengths, help="of the sequence %(default)s")
    for name, default, what in (
        ("width", 256, "channels of the input"),
        ("state-dim", 64, "channels of b and c"),
        ("head-dim", 64, "channels of x in each head"),
        ("batch", 1, "sequences"),
        ("repeats", 11, "rounds of each comparison"),
    ):
        add(f"--{name}", **whole, default=default, help=f"{what} [%(default)s]")
    chunks = "of transformers %(default)s"
    add("--their-chunks", **whole, nargs="+", default=[64, 256], help=chunks)
    add("--output", type=pathlib.Path, metavar="FILE.csv", help="file for every figure [none]")
    add("--picture", type=pathlib.Path, metavar="FILE.png", help="file for a picture [none]")
    args = parser.parse_args(argv)
    for name in ("output", "picture"):
        path = getattr(args, name)
        # Now, because measuring takes long.
        if path and not path.resolve().parent.is_dir():
            parser.error(f"argument --{name}: there is no folder {path.parent}")
    return args


if __name__ == "__main__":
    options.start(parse)

import numpy as np
from keras import ops

from common import folders, pictures
from lib.state_space_layers import (
    FORWARD,
    GROUPS,
    KINDS,
    OURS,
    TRANSFORMERS,
    functions,
    is_run,
    layers,
)
from lib.timing import header, median_interval, rounds, seconds, wait


def main(argv=None):
    args = parse(argv)
    names, note = layers(args)
    sizes = f"width {args.width}, state_dim {args.state_dim}, head_dim {args.head_dim}"
    title = header(f"State space, {sizes}, batch {args.batch}, {note}, {args.clock} time")
    print(title)

    cases = itertools.product(names, KINDS, args.lengths)
    results = [Result(*case) for case in cases if is_run(*case)]
    for part in args.part:
        columns, measure = COLUMNS[part], {TIME: add_times, MEMORY: add_memory}[part]
        print(f"| length | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
        for length in args.lengths:
            measure([result for result in results if result.length == length], args)
            cells = [
                cell(found, args) if (found := best(results, group, kind, length, part)) else ""
                for group, kind, cell in columns.values()
            ]
            print(f"| {length} | {' | '.join(cells)} |", flush=True)
        print(f"\n{growth(results, part)}\n", flush=True)

    if args.output:
        folders.write_rows(args.output, [result.row() for result in results])
    if args.picture:
        draw(args.picture, results, args.part, title.strip())


@dataclasses.dataclass
class Result:
    """One layer, kind and length: seconds by round, ours in the same rounds, memory in MiB."""

    layer: str
    kind: str
    length: int
    seconds: list[float] | None = None
    ours: list[float] | None = None
    mib: float | None = None

    @property
    def time(self):
        return statistics.median(self.seconds)

    @property
    def ratios(self):
        return [a / b for a, b in zip(self.ours, self.seconds, strict=True)]

    def row(self):
        """Return the row of the CSV file."""
        low, high = (self.ours and median_interval(self.ratios)) or (None, None)
        return {
            **{"layer": self.layer, "kind": self.kind, "length": self.length},
            "seconds": self.seconds and self.time,
            "ratio": self.ours and statistics.median(self.ratios),
            **{"low": low, "high": high, "mib": self.mib},
            # Of each round.
            "all_seconds": " ".join(f"{value:.6g}" for value in self.seconds or ()),
            "all_seconds_of_ours": " ".join(f"{value:.6g}" for value in self.ours or ()),
            **folders.environment(),
        }


def inputs(length, args):
    values = np.random.default_rng(0).normal(size=(args.batch, length, args.width))
    return ops.convert_to_tensor(values.astype("float32"))


# Time.


def add_times(results, args):
    """Measure the times of results of one length."""
    x = inputs(results[0].length, args)
    made = {result.layer: functions(result.layer, args) for result in results}
    check_equal(made, x)
    clock = CLOCKS[args.clock]
    for kind in KINDS:
        ours, *others = (result for result in results if result.kind == kind)
        call = functools.partial(to_the_end, made[OURS][kind], x)
        for other in others:
            theirs = functools.partial(to_the_end, made[other.layer][kind], x)
            other.ours, other.seconds = rounds(call, theirs, args.repeats, clock=clock)
        if others:
            ours.seconds = [value for other in others for value in other.ours]
        else:
            ours.seconds, _ = rounds(call, bool, args.repeats, clock=clock)


def to_the_end(function, x):
    wait(function(x))


def check_equal(made, x):
    """Raise `AssertionError` unless all outputs are equal to ours."""

    def outputs(name):
        values = made[name][FORWARD](x)
        if isinstance(values, list):
            return np.stack([ops.convert_to_numpy(value) for value in values], axis=1)
        return ops.convert_to_numpy(values)

    ours = outputs(OURS)
    for name in made:
        np.testing.assert_allclose(outputs(name), ours, rtol=1e-4, atol=1e-4, err_msg=name)


# Memory.


def add_memory(results, args):
    """Measure each result's memory in a fresh process, two at a time."""
    # glibc returns larger blocks at once. By default it keeps many, and others in each run: the
    # naive training step took twice as much in some runs as in others.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    fresh = {"mp_context": multiprocessing.get_context("spawn"), "max_tasks_per_child": 1}
    with concurrent.futures.ProcessPoolExecutor(2, **fresh) as pool:
        found = pool.map(functools.partial(memory_here, args=args), results)
        for result, mib in zip(results, found, strict=True):
            result.mib = mib


def memory_here(result, args):
    """Return the MiB that a call adds to the peak of this process."""
    function = functions(result.layer, args)[result.kind]
    # Load and allocate what does not depend on the length.
    to_the_end(function, inputs(8, args))
    x = inputs(result.length, args)
    gc.collect()
    before = reset_peak()
    to_the_end(function, x)
    return memory_of_process("VmHWM") - before


PROCESS = pathlib.Path("/proc/self")


def reset_peak():
    """Reset the peak of this process's memory to what is resident now, and return it in MiB."""
    try:
        (PROCESS / "clear_refs").write_text("5", encoding="utf-8")
        peak, resident = map(memory_of_process, ("VmHWM", "VmRSS"))
    except (OSError, KeyError):
        peak, resident = math.inf, 0
    # Some systems accept the write and do nothing.
    if peak - resident >= 32:
        raise SystemExit("--part memory: this system cannot reset the peak of a process's memory.")
    return peak


def memory_of_process(entry):
    """Return an entry of this process's status in MiB: "VmRSS" is resident, "VmHWM" its peak."""
    lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[entry].split()[0]) / 2**10


# Tables.


def time_cell(result, args):
    return seconds(result.time)


def token_cell(result, args):
    return f"{1e6 * result.time / (args.batch * result.length):.3g}"


def ratio_cell(result, args=None):
    cell = f"{statistics.median(result.ratios):.3f}"
    if bounds := median_interval(result.ratios):
        cell += " ({:.3f} to {:.3f})".format(*bounds)
    if result.layer.startswith(TRANSFORMERS):
        cell += f", chunks of {result.layer.split()[-1]}"
    return cell


def memory_cell(result, args):
    return f"{result.mib:.1f}"


# For each column whose result it shows, of what group and kind, and how.
COLUMNS = {
    TIME: {
        **{f"ours, {kind}": (OURS, kind, time_cell) for kind in KINDS},
        **{f"µs a token, {kind}": (OURS, kind, token_cell) for kind in KINDS},
        **{
            f"ratio to {group}, {kind}": (group, kind, ratio_cell)
            for group in GROUPS[1:]
            for kind in KINDS
        },
    },
    MEMORY: {
        f"{group}, {kind}, MiB": (group, kind, memory_cell) for group in GROUPS for kind in KINDS
    },
}


def best(results, group, kind, length, part):
    """Return the result of a group, of its better chunk size; `None` if none was run."""
    found = [
        result
        for result in results
        if (result.layer.split()[0], result.kind, result.length) == (group, kind, length)
    ]
    if part == MEMORY:
        return min(found, key=lambda result: result.mib, default=None)
    if group == OURS:
        return found[0]
    # By the ratio, because each was timed in other rounds.
    return max(found, key=lambda result: statistics.median(result.ratios), default=None)


def curve(results, group, kind, part):
    """Return lengths, and medians of seconds or MiB."""
    lengths = sorted({result.length for result in results})
    found = [best(results, group, kind, length, part) for length in lengths]
    found = [result for result in found if result is not None]
    values = [result.time if part == TIME else result.mib for result in found]
    return [result.length for result in found], values


def growth(results, part):
    """Return a line with the power of the length by which ours grows."""
    powers = []
    for kind in KINDS:
        lengths, value = exponent(*curve(results, OURS, kind, part))
        shown = "not fitted" if value is None else f"{value:.2f}"
        powers.append(f"{kind} {shown}")
    over = f"{lengths[0]} to {lengths[-1]}"
    return f"Exponent of the {part} of ours over lengths {over} (1 is linear): {', '.join(powers)}."


def exponent(lengths, values):
    """Return the fitted lengths, all unless two are long, and their least-squares slope."""
    pairs = list(zip(lengths, values, strict=True))
    long = [pair for pair in pairs if pair[0] >= SHORTEST_FITTED]
    fitted, values = zip(*(long if len(long) > 1 else pairs), strict=True)
    if len(fitted) < 2 or min(values) <= 0:
        return fitted, None
    return fitted, float(np.polyfit(np.log(fitted), np.log(values), 1)[0])


# Picture.


def draw(path, results, parts, title):
    """Draw time and memory by length, one line per layer and kind."""
    figure, axes = pictures.panels(len(parts), 5, 4.6)
    ticks = sorted({result.length for result in results})
    for axis, part in zip(axes, parts, strict=True):
        for color, group in enumerate(GROUPS):
            for kind, line in zip(KINDS, ("o--", "o-"), strict=True):
                lengths, values = curve(results, group, kind, part)
                if lengths:
                    style = {"color": f"C{color}", "markersize": 3, "label": f"{group}, {kind}"}
                    axis.plot(lengths, values, line, **style)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(textwrap.fill(growth(results, part), 70), fontsize=8)
        axis.set(xlabel="length", ylabel={TIME: "seconds", MEMORY: "MiB"}[part], xticks=ticks)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.grid(alpha=0.3)
    names = axes[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    pictures.save(figure, path, title)


if __name__ == "__main__":
    main()
