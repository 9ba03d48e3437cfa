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
the first call adds to the peak of a fresh process, without that of a GPU. On JAX and TensorFlow
this call compiles too. Let nothing else use the machine.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import time
import warnings

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
    # For a fresh process: measure the memory of this layer, kind and length.
    add("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("output", "picture"):
        path = getattr(args, name)
        # Now, because measuring takes long.
        if path and not path.resolve().parent.is_dir():
            parser.error(f"argument --{name}: there is no folder {path.parent}")
    return args


if __name__ == "__main__":
    options.start(parse)

import keras
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
    if args.memory:
        print(memory_here(*args.memory, args))
        return
    names, note = layers(args)
    sizes = f"width {args.width}, state_dim {args.state_dim}, head_dim {args.head_dim}"
    title = header(f"State space, {sizes}, batch {args.batch}, {note}, {args.clock} time")
    print(title)

    cases = itertools.product(names, KINDS, args.lengths)
    results = [Result(*case) for case in cases if is_run(*case)]
    for part in args.part:
        measure, columns, cells = {
            TIME: (add_times, TIME_COLUMNS, time_cells),
            MEMORY: (add_memory, MEMORY_COLUMNS, memory_cells),
        }[part]
        print(table_head(columns))
        for length in args.lengths:
            measure([result for result in results if result.length == length], args)
            print(table_row(length, cells(results, length, args)), flush=True)
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
        row = dict.fromkeys(("layer", "kind", "length", "seconds", "ratio", "low", "high", "mib"))
        row.update(layer=self.layer, kind=self.kind, length=self.length, mib=self.mib)
        if self.seconds:
            row["seconds"] = self.time
        if self.ours:
            row["ratio"] = statistics.median(self.ratios)
            row["low"], row["high"] = median_interval(self.ratios) or (None, None)
        # Of each round.
        row["all_seconds"] = " ".join(f"{value:.6g}" for value in self.seconds or ())
        row["all_seconds_of_ours"] = " ".join(f"{value:.6g}" for value in self.ours or ())
        return {**row, **folders.environment()}


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
    for tensor in keras.tree.flatten(function(x)):
        wait(tensor)


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

KEEPS_PEAK = "This system does not forget the peak of the imports: small figures are too low."


def add_memory(results, args):
    """Measure each result's memory, running two processes at a time."""
    # glibc returns larger blocks at once. By default it keeps many, and others in each run: the
    # naive training step took twice as much in some runs as in others.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}

    def in_fresh_process(result):
        options = ("width", "state_dim", "head_dim", "batch")
        sizes = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in options]
        memory = ("--memory", result.layer, result.kind, str(result.length))
        command = [sys.executable, __file__, *sizes, *memory]
        finished = subprocess.run(command, env=env, capture_output=True, text=True)
        if finished.returncode:
            raise RuntimeError(finished.stderr)
        if KEEPS_PEAK in finished.stderr:
            warnings.warn(KEEPS_PEAK, stacklevel=2)
        return float(finished.stdout.split()[-1])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for result, mib in zip(results, pool.map(in_fresh_process, results), strict=True):
            result.mib = mib


def memory_here(name, kind, length, args):
    """Return the MiB that a call adds to the peak of this process."""
    function = functions(name, args)[kind]
    # Load and allocate what does not depend on the length.
    to_the_end(function, inputs(8, args))
    x = inputs(int(length), args)
    gc.collect()
    if not forget_peak():
        warnings.warn(KEEPS_PEAK, stacklevel=2)
    before = peak()
    to_the_end(function, x)
    return peak() - before


PROCESS = pathlib.Path("/proc/self")


def forget_peak():
    """Reset the peak to what is resident now, and return whether this system can, as Linux does."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text("5", encoding="utf-8")
        # Some systems accept the write and do nothing.
        return status("VmHWM") - status("VmRSS") < 32
    return False


def peak():
    """Return the largest resident set of this process so far, in MiB.

    On Linux `ru_maxrss` is no use: it starts at the peak of the parent process and cannot be reset.
    """
    with contextlib.suppress(OSError):
        return status("VmHWM")
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 2 ** (20 if sys.platform == "darwin" else 10)


def status(entry):
    """Return an entry of this process's status on Linux, in MiB."""
    for line in (PROCESS / "status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == entry:
            return int(value.split()[0]) / 2**10
    raise OSError(f"no {entry}")


# Tables.

TIME_COLUMNS = (
    *("length", *(f"ours, {kind}" for kind in KINDS)),
    *(f"µs a token, {kind}" for kind in KINDS),
    *(f"ratio to {group}, {kind}" for group in GROUPS[1:] for kind in KINDS),
)
MEMORY_COLUMNS = ("length", *(f"{group}, {kind}, MiB" for group in GROUPS for kind in KINDS))


def table_head(columns):
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def table_row(length, cells):
    return f"| {' | '.join((str(length), *cells))} |"


def time_cells(results, length, args):
    ours = [best(results, OURS, kind, length, TIME).time for kind in KINDS]
    yield from map(seconds, ours)
    yield from (f"{1e6 * value / (args.batch * length):.3g}" for value in ours)
    for group in GROUPS[1:]:
        for kind in KINDS:
            yield ratio_cell(best(results, group, kind, length, TIME))


def ratio_cell(result):
    if result is None:
        return ""
    cell = f"{statistics.median(result.ratios):.3f}"
    if bounds := median_interval(result.ratios):
        cell += " ({:.3f} to {:.3f})".format(*bounds)
    if result.layer.startswith(TRANSFORMERS):
        cell += f", chunks of {result.layer.split()[-1]}"
    return cell


def memory_cells(results, length, args):
    for group in GROUPS:
        for kind in KINDS:
            result = best(results, group, kind, length, MEMORY)
            yield "" if result is None else f"{result.mib:.1f}"


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
    for axis, part in zip(axes, parts, strict=True):
        for color, group in enumerate(GROUPS):
            for kind, line in zip(KINDS, ("o--", "o-"), strict=True):
                lengths, values = curve(results, group, kind, part)
                if lengths:
                    style = {"color": f"C{color}", "markersize": 3, "label": f"{group}, {kind}"}
                    axis.plot(lengths, values, line, **style)
        ticks = sorted({result.length for result in results})
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        label = {TIME: "seconds", MEMORY: "MiB"}[part]
        powers = {kind: exponent(*curve(results, OURS, kind, part))[1] for kind in KINDS}
        grows = [f"length^{x:.2f} ({kind})" for kind, x in powers.items() if x is not None]
        heading = f"{part} of ours grows as {', '.join(grows)}" if grows else part
        axis.set_title(heading, fontsize=8)
        axis.set(xlabel="length", ylabel=label, xticks=ticks)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.grid(alpha=0.3)
    names = axes[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    pictures.save(figure, path, title)


if __name__ == "__main__":
    main()
