"""What one GPU does in nine minutes: images a second, the state space, and CIFAR-10 runs.

    python benchmarks/gpu.py --backends jax torch --download
    KERAS_BACKEND=torch python benchmarks/gpu.py --minutes 4 --part images

The first measures each backend in a process of its own, with an equal share of the time. Every
measurement is a line of results.csv in the output folder, with hardware and versions; a second
call goes on with what is missing. Prints all of them as a table, where what did not fit in the
time is "not yet measured", and what failed says why.

Training steps of ViT-S/16 and ConvNeXt-Tiny run on images from the host's memory, in the given
precision, beside those of timm in PyTorch, where it is installed. The state space stands beside
the Mamba-2 of transformers, where that is. The last part trains small networks with
compare.py, whose own folder has their curves.
"""

import argparse
import csv
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

# What the examples share.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))

from common import folders, lock, options, processes, script

if __name__ == "__main__":
    script.catch_signals("the same command goes on with what is missing")

from gpu_parts import CIFAR, PARTS, TIMM

COLUMNS = ("part", "what", "value", "unit", "backend", "hardware", "versions")
_FAILED = "failed"


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.adder(parser)
    backends = ("jax", "torch", "tensorflow")
    each = "measure these, one process each [KERAS_BACKEND's, in this one]"
    add("--backends", nargs="*", choices=backends, default=[], help=each)
    add("--minutes", type=options.positive(float), default=9.0, help="for all [%(default)s]")
    add("--part", nargs="+", choices=PARTS, default=list(PARTS), help=f"{', '.join(PARTS)} [all]")
    add("--output", type=options.text, default="results/gpu", help="folder [%(default)s]")
    models = options.IMAGENET_MODELS
    add("--model", nargs="+", choices=models, default=list(TIMM), help="for images %(default)s")
    add("--image-size", type=options.positive(int), default=224, help="pixels [%(default)s]")
    add("--batch-size", type=options.positive(int), default=256, help="images [%(default)s]")
    add("--classes", type=options.positive(int), default=1000, help="of images [%(default)s]")
    add("--seconds", type=options.positive(float), default=8.0, help="a measurement [%(default)s]")
    precision = {"choices": options.PRECISION, "default": "bfloat16"}
    add("--mixed-precision", **precision, help="[%(default)s]")
    sizes = "width, state_dim, head_dim and batch of the state space %(default)s"
    size = options.positive(int)
    add("--state-space", nargs=4, type=size, default=[1024, 128, 64, 8], help=sizes)
    add("--lengths", nargs="+", type=size, default=[512, 2048, 8192], help="of it %(default)s")
    options.add_data(add, parser)
    parser.set_defaults(dataset="cifar10")
    add("--epochs", type=options.positive(int), default=5, help="of small networks [%(default)s]")
    add("--seeds", type=options.positive(int), default=3, help="of them [%(default)s]")
    add("--cifar-model", nargs="+", default=["vit", "convnext"], help="%(default)s")
    add("--variant", nargs="+", default=list(CIFAR), help="of variants.py %(default)s")
    return parser.parse_args(argv)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    deadline = time.monotonic() + 60 * args.minutes
    results = Results(pathlib.Path(args.output), deadline)
    failed = False
    if args.backends:
        for number, backend in enumerate(args.backends):
            share = (deadline - time.monotonic()) / (len(args.backends) - number)
            failed |= bool(_run_in_process(argv, backend, share))
    else:
        measure(args, results)
    print(table(results.read()))
    if failed:
        sys.exit(1)


def _run_in_process(argv, backend, seconds):
    """Measure a backend with this script for so many seconds at the most; return its status."""
    command = [sys.executable, __file__, *argv, "--minutes", f"{seconds / 60:.3f}", "--backends"]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    print(f"{backend}: {seconds:.0f} s", flush=True)
    # Its table is left out: one of all backends comes at the end.
    started = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    # With compare.py, which it may have started.
    kill = functools.partial(os.killpg, started.pid, signal.SIGKILL)
    code = processes.wait(started, seconds, kill)
    if code is None:
        print(f"{backend}: the time is over", flush=True)
    return code


class Results:
    """Measurements in a CSV file that only grows.

    A line without a value says what will be measured. A later line of the same measurement
    replaces it.
    """

    def __init__(self, folder, deadline):
        self.path, self.deadline = folder / "results.csv", deadline

    def read(self):
        """Return the last line of each measurement, in the order of the first ones."""
        if not folders.has_file(self.path):
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or COLUMNS) != COLUMNS:
                raise folders.SettingsError(
                    f"{self.path}, line 1: the columns must be {', '.join(COLUMNS)}. Fix it, "
                    "choose another --output, or remove that folder."
                )
            # A line that a kill cut off is none.
            rows = [row for row in reader if None not in row.values()]
        key = [name for name in COLUMNS if name not in ("value", "unit")]
        return list({tuple(row[name] for name in key): row for row in rows}.values())

    def add(self, **row):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        begins = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if begins:
                writer.writeheader()
            writer.writerow(row)

    def value(self, part, what, where):
        """Return what was measured on this hardware with these versions; `None` if not planned."""
        key = {"part": part, "what": what, **where}
        found = [row for row in self.read() if all(row[name] == key[name] for name in key)]
        return found[0]["value"] if found else None

    def left(self):
        """Return the seconds that are left."""
        return self.deadline - time.monotonic()


def measure(args, results):
    """Make all measurements that fit in the time."""
    from common import environment

    lock.take(results.path.parent)
    options.set_precision(args)
    where = environment.current()
    planned = [
        (part, what, unit, function)
        for part in args.part
        for what, unit, function in PARTS[part](args, results)
    ]
    # First, so that a kill leaves a line of each.
    for part, what, unit, _ in planned:
        if results.value(part, what, where) is None:
            results.add(part=part, what=what, value="", unit=unit, **where)
    for part, what, unit, function in planned:
        before = results.value(part, what, where)
        if (before and not before.startswith(_FAILED)) or results.left() <= _least(args):
            continue
        for name, value in _try(what, function).items():
            if value != results.value(part, name, where):
                results.add(part=part, what=name, value=value, unit=unit, **where)


def _least(args):
    """Return the seconds that must be left for a measurement to begin.

    To compile a model for a GPU takes up to a minute.
    """
    return min(20.0, 2 * args.seconds)


def _try(what, function):
    """Return the values that a measurement gives, by name, as text, or why there is none."""
    try:
        values = function()
    except Exception as error:
        # The memory of this GPU may be too small for one of them.
        note = str(error).strip().splitlines() or [""]
        print(f"{what}: {type(error).__name__}: {note[0]}", file=sys.stderr, flush=True)
        return {what: f"{_FAILED}: {type(error).__name__}"}
    values = values if isinstance(values, dict) else {what: values}
    return {name: f"{value:.6g}" for name, value in values.items()}


def table(rows):
    """A Markdown table of all measurements, and of those that are missing."""
    columns = ("part", "what", "value", "unit", "backend", "hardware")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = {**row, "value": row["value"] or "not yet measured"}
        lines.append("| " + " | ".join(cells[name] for name in columns) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    script.run(main)
