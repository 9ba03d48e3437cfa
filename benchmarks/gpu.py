"""Measure one GPU in nine minutes: images per second, the state space, and CIFAR-10 runs.

    python benchmarks/gpu.py --backends jax torch --download
    KERAS_BACKEND=torch python benchmarks/gpu.py --minutes 4 --part images

The first measures each backend in a process of its own, with an equal share of the time. Every
measurement is a line of results.csv in the output folder, with hardware and versions. A second call
continues with what is missing. At the end all of them are printed as a table, where "not yet
measured" did not fit in the time.

Training steps of ViT-S/16 and ConvNeXt-Tiny take images from the host's memory, in the given
precision, beside those of timm in PyTorch if it is installed. The state space is compared with the
Mamba-2 of transformers if that is installed. The last part trains small networks with compare.py,
whose own folder has their curves.
"""

import csv
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import folders, options
from imagenet.recipe import MODELS

# The names of `lib.gpu_parts.PARTS`, which come with Keras.
NAMES = ("images", "state-space", "cifar10")
COLUMNS = ("part", "what", "value", "unit", "backend", "hardware", "versions")
_FAILED = "failed"


def parse(argv=None):
    parser, add = options.parser(__doc__)
    whole, positive = options.positive(int), options.positive(float)
    backends = ("jax", "torch", "tensorflow")
    each = "measure these, one process each [KERAS_BACKEND's, in this one]"
    add("--backends", nargs="*", choices=backends, default=[], help=each)
    add("--minutes", type=positive, default=9.0, help="for all [%(default)s]")
    add("--part", nargs="+", choices=NAMES, default=list(NAMES), help=f"{', '.join(NAMES)} [all]")
    published = ["vit_s16", "convnext_tiny"]
    add("--model", nargs="+", choices=MODELS, default=published, help="for images %(default)s")
    add("--image-size", type=whole, default=224, help="pixels [%(default)s]")
    add("--batch-size", type=whole, default=256, help="images [%(default)s]")
    add("--classes", type=whole, default=1000, help="of images [%(default)s]")
    add("--seconds", type=positive, default=8.0, help="per measurement [%(default)s]")
    precision = {"choices": options.PRECISION, "default": "bfloat16"}
    add("--mixed-precision", **precision, help="of all parts [%(default)s]")
    sizes = "width, state_dim, head_dim and batch of the state space %(default)s"
    add("--state-space", nargs=4, type=whole, default=[1024, 128, 64, 8], help=sizes)
    add("--lengths", nargs="+", type=whole, default=[512, 2048, 8192], help="of it %(default)s")
    options.add_data(add)
    parser.set_defaults(dataset="cifar10")
    add("--epochs", type=whole, default=5, help="of small networks [%(default)s]")
    add("--seeds", type=whole, default=3, help="of them [%(default)s]")
    networks = "small networks %(default)s"
    add("--cifar-model", nargs="+", default=["vit", "convnext"], metavar="NAME", help=networks)
    variants = "their variants %(default)s"
    inits = ["default", "control", "spatial", "all"]
    add("--variant", nargs="+", default=inits, metavar="NAME", help=variants)
    options.add_output(add, "results/gpu")
    return parser.parse_args(argv)


if __name__ == "__main__" and "--backends" not in sys.argv:
    options.start(parse)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    deadline = time.monotonic() + 60 * args.minutes
    folder = args.output or pathlib.Path("results/gpu")
    results = Results(folder, deadline)
    failed = False
    if args.backends:
        for number, backend in enumerate(args.backends):
            share = results.left() / (len(args.backends) - number)
            failed |= _run_in_process(argv, backend, share) != 0
    else:
        measure(args, results)
    # Anew, since other processes add to the file.
    print(table(Results(folder, deadline).rows.values()))
    if failed:
        sys.exit(1)


def _run_in_process(argv, backend, seconds):
    """Measure a backend with this script and return its status. It knows how much time it has."""
    command = [sys.executable, __file__, *argv, "--minutes", f"{seconds / 60:.3f}", "--backends"]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    print(f"{backend}: {seconds:.0f} s", flush=True)
    # Its table is left out: one of all backends comes at the end.
    finished = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
    return finished.returncode


class Results:
    """Measurements in a CSV file, where a row without a value is not yet measured.

    Attributes:
        rows: A dict by part, name, backend, hardware and versions.
    """

    def __init__(self, folder, deadline):
        self.path, self.deadline = folder / "results.csv", deadline
        self.rows = {}
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or COLUMNS) != COLUMNS:
                raise SystemExit(
                    f"{self.path}, line 1: the columns must be {', '.join(COLUMNS)}. Fix it, "
                    "choose another --output, or remove that folder."
                )
            self.rows = {_key(row): row for row in reader}

    def value(self, **row):
        """Return what was measured on this hardware with these versions, or `None`."""
        return self.rows.get(_key(row), {}).get("value")

    def add(self, **row):
        """Add a row, or replace that of the same measurement."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows[_key(row)] = row
        folders.write_rows(self.path, list(self.rows.values()))

    def left(self):
        """Return the seconds that are left."""
        return self.deadline - time.monotonic()


def _key(row):
    return tuple(row[name] for name in COLUMNS if name not in ("value", "unit"))


def measure(args, results):
    """Make all measurements that fit in the time."""
    from lib.gpu_parts import PARTS

    options.set_precision(args)
    where = folders.environment()
    planned = [
        ({"part": part, "what": what, "value": "", "unit": unit, **where}, function)
        for part in args.part
        for what, unit, function in PARTS[part](args, results)
    ]
    for row, _ in planned:
        if results.value(**row) is None:
            results.add(**row)
    for row, function in planned:
        before = results.value(**row)
        # To compile a model for a GPU takes up to a minute.
        is_late = results.left() <= min(20.0, 2 * args.seconds)
        if is_late or (before and not before.startswith(_FAILED)):
            continue
        for what, value in _try(row["what"], function).items():
            results.add(**{**row, "what": what, "value": value})


def _try(what, function):
    """Return the values of a measurement by name, as text, or why there is none."""
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
    """Return a Markdown table of all measurements, also of those that are missing."""
    columns = ("part", "what", "value", "unit", "backend", "hardware")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = {**row, "value": row["value"] or "not yet measured"}
        lines.append("| " + " | ".join(cells[name] for name in columns) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
