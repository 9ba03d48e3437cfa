"""What an example leaves behind: args.json, runs.csv, a table and a picture."""

import csv
import importlib.metadata
import io
import itertools
import json
import math
import operator
import os
import pathlib
import platform
import statistics
import textwrap

import keras
import lock
import script

import keras_mimetic

# What makes a run the run that it is; the other columns are its results.
KEY = ("model", "init", "learning_rate", "seed")
RESULTS = ("validation_accuracy", "test_accuracy")
_ABOUT = ("seconds", "curve", "backend", "hardware", "versions")
COLUMNS = (*KEY, *RESULTS, *_ABOUT)


class SettingsError(script.Stop):
    """The output folder holds what does not fit to the runs asked for, or cannot be read."""


def environment():
    """Backend, hardware and versions, as they stand in every output."""
    backend = keras.backend.backend()
    package = {"tensorflow": ("tensorflow", "tensorflow-cpu")}.get(backend, (backend,))
    versions = {"keras": keras.__version__, "python": platform.python_version()}
    for name in package:
        try:
            versions[backend] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    # Its own, which is there without an installation, too.
    versions["keras_mimetic"] = keras_mimetic.__version__
    return {
        "backend": backend,
        "hardware": _hardware(backend),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }


def _hardware(backend):
    gpus = []
    if backend == "torch":
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    elif backend == "jax":
        import jax

        gpus = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    elif backend == "tensorflow":
        import tensorflow as tf

        gpus = [
            tf.config.experimental.get_device_details(d).get("device_name", d.name)
            for d in tf.config.list_physical_devices("GPU")
        ]
    if gpus:
        return f"{len(gpus)} x {gpus[0]}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} core{'s' if cores != 1 else ''}"


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def where(rows):
    """Hardware and versions of some rows: more than one where they were mixed."""
    distinct = dict.fromkeys(
        f"{row['backend']}, {row['hardware']} ({row['versions']})" for row in rows
    )
    return " and ".join(distinct)


def keep_settings(folder, settings):
    """Makes a folder for results with these settings, unless it has some with others.

    It is locked for this process.
    """
    folder = pathlib.Path(folder)
    lock.take(folder)
    path = folder / "args.json"
    if path.exists():
        before = _settings_in(path)
        if listed := different_settings(before, settings):
            raise SettingsError(
                f"{folder} holds runs with other settings ({listed}). "
                "Choose another --output, or remove that folder."
            )
    write(path, json.dumps({"settings": settings, **environment()}, indent=2) + "\n")


def _settings_in(path):
    """The settings of an args.json."""
    try:
        settings = json.loads(path.read_text())["settings"]
        if not isinstance(settings, dict):
            raise TypeError("its settings are not")
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path} is not as it was written ({type(error).__name__}: {error}). Choose another "
            "--output, or remove that folder."
        ) from error
    return settings


def different_settings(before, settings):
    """What differs between the settings of a folder or file and those of now, as text."""
    different = [name for name in settings if before.get(name) != settings[name]]
    return "; ".join(
        f"{name}: {before.get(name)!r} there, {settings[name]!r} now" for name in different
    )


class Runs:
    """The runs of one folder: read when opened, a row added as each run ends.

    A row is on the disk before the next run begins, and a row that was cut off
    in the middle is dropped when the folder is opened again, so that an
    interrupted comparison goes on where it was. `columns` are further ones,
    `results` those that are numbers.
    Without `settings` the folder is only read.
    """

    def __init__(self, folder, settings=None, columns=(), results=RESULTS):
        self.folder = pathlib.Path(folder)
        self.results = results
        self.required = (*KEY, *results, *_ABOUT)
        self.columns = (*self.required, *columns)
        if settings is not None:
            keep_settings(self.folder, settings)
        self.path = self.folder / "runs.csv"
        # Only to be read, it may have any columns besides.
        self.rows = self._read(exactly=settings is not None)

    def _read(self, exactly):
        if not self.path.exists():
            return []
        try:
            text = self.path.read_text()
        except UnicodeDecodeError as error:
            raise SettingsError(f"{self.path} is no text ({error}). {_MEND}") from error
        complete = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(complete.splitlines(), strict=True)
        rows = []
        try:
            header = tuple(reader.fieldnames or ())
            if complete and (
                header != self.columns if exactly else not {*self.required} <= {*header}
            ):
                raise ValueError(f"the columns must be {', '.join(self.columns)}")
            for row in reader:
                rows.append(_checked(row, self.required, self.results))
        except (ValueError, csv.Error) as error:
            line = max(1, reader.line_num)
            raise SettingsError(f"{self.path}, line {line}: {error}. {_MEND}") from error
        if complete != text:
            write(self.path, complete)
        return rows

    def find(self, **key):
        """The rows with these values, in the order in which they were run."""
        return [row for row in self.rows if all(row[k] == v for k, v in key.items())]

    def missing(self, models, inits, rates, seeds):
        """A label and the key of each run that is not there yet; prints which are."""
        todo = list(itertools.product(models, range(seeds), rates, inits))
        for number, (model, seed, rate, init) in enumerate(todo, start=1):
            key = dict(zip(KEY, (model, init, rate, seed), strict=True))
            label = f"[{number}/{len(todo)}] {model}, init {init}, rate {rate:g}, seed {seed}"
            if self.find(**key):
                print(f"{label}: done before")
            else:
                yield label, key

    def add(self, row):
        """Appends a row, on the disk when this returns."""
        new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)


_MEND = "Mend it, choose another --output, or remove that folder"


def _checked(row, required, results):
    """A row of runs.csv with its numbers, or `ValueError`."""
    if None in row or None in row.values():
        raise ValueError("there are more or fewer fields than columns")
    for name in required:
        if not row[name]:
            raise ValueError(f"{name} is empty")
    accuracies = {name for name in row if name.endswith("_accuracy")}
    for name in {"learning_rate", "seconds", *results, *accuracies}:
        row[name] = float(row[name])
        # A loss is whatever it came to, also after training that diverged.
        if name in results and name not in accuracies:
            continue
        most = 1.0 if name in accuracies else math.inf
        if not 0 <= row[name] <= most or math.isinf(row[name]):
            raise ValueError(f"{name} is {row[name]}")
    row["seed"] = int(row["seed"])
    if row["seed"] < 0:
        raise ValueError(f"seed is {row['seed']}")
    curve = [float(value) for value in row["curve"].split()]
    if accuracies and not all(map(math.isfinite, curve)):
        raise ValueError("the curve has values that are not finite")
    return row


def write(path, text):
    """Writes a file as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_rows(path, rows):
    """Writes dicts with the same keys as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def best_rate(runs, model, init, rates, seeds, score=operator.itemgetter("validation_accuracy")):
    """The learning rate of the best validation score of a row, averaged over these seeds."""

    def validation(rate):
        rows = runs.find(model=model, init=init, learning_rate=rate)
        return statistics.fmean(score(row) for row in rows if row["seed"] in seeds)

    return max(rates, key=validation)


def paired_interval(differences, confidence=0.95):
    """Mean and half width of Student's confidence interval of paired differences."""
    from scipy import stats

    count = len(differences)
    mean = statistics.fmean(differences)
    if count < 2:
        return mean, float("nan")
    error = statistics.stdev(differences) / count**0.5
    return mean, float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error


def table(runs, models, inits, rates, seeds, title, contrasts=()):
    """Markdown tables: test accuracy with the difference to the first init, and contrasts.

    Differences are taken seed by seed. The interval is Student's: it covers
    seeds, not the choice of the test images.

    Args:
        contrasts: Further pairs (init, base) to compare, where both were run.
    """
    first = inits[0]
    lines = [
        f"{title}",
        "",
        "| model | init | rate | test accuracy %, mean ± SD over seeds "
        f"| difference to {first}, 95 % t interval over seeds | n |",
        "|---|---|---|---|---|---|",
    ]
    accuracies = {}
    for model in models:
        for init in inits:
            rate = best_rate(runs, model, init, rates, seeds)
            values = accuracies[model, init] = test_accuracies(runs, model, init, rate, seeds)
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            base = accuracies[model, first]
            lines.append(
                f"| {model} | {init} | {rate:g} | {statistics.fmean(values):.2f}{spread} "
                f"| {difference(values, base) if init != first else ''} | {len(values)} |"
            )
    contrasts = [pair for pair in contrasts if {*pair} <= {*inits} and pair[1] != first]
    if contrasts:
        lines += ["", "| model | difference | points, 95 % t interval over seeds | n |"]
        lines += ["|---|---|---|---|"]
    for model in models:
        for init, base in contrasts:
            values = accuracies[model, init]
            text = difference(values, accuracies[model, base])
            lines.append(f"| {model} | {init} over {base} | {text} | {len(values)} |")
    text = "\n".join(lines) + "\n"
    write(runs.folder / "table.md", text)
    return text


def test_accuracies(runs, model, init, rate, seeds):
    """In percent, by seed."""
    rows = runs.find(model=model, init=init, learning_rate=rate)
    by_seed = {row["seed"]: 100 * row["test_accuracy"] for row in rows}
    return [by_seed[seed] for seed in seeds]


def difference(values, base, digits=2):
    """Mean paired difference and its interval, as text."""
    mean, half = paired_interval([a - b for a, b in zip(values, base, strict=True)])
    ends = [f"{end:+.{digits}f}" for end in (mean - half, mean + half)]
    return f"{mean:+.{digits}f}{f' [{ends[0]}, {ends[1]}]' if half == half else ''}"


def picture(runs, models, inits, rates, seeds, title):
    """Validation accuracy by epoch, of each init at its best rate."""
    chosen = {
        model: {init: (best_rate(runs, model, init, rates, seeds), seeds) for init in inits}
        for model in models
    }
    return curves(runs, chosen, title)


def curves(runs, chosen, title):
    """Validation accuracy by epoch, a panel a model: thin for a seed, thick for their mean.

    Args:
        chosen: By model and init the rate and the seeds whose runs are drawn.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    width = max(6.0, 4.5 * len(chosen))
    figure, axes = plt.subplots(1, len(chosen), figsize=(width, 4.2), squeeze=False)
    for axis, (model, inits) in zip(axes[0], chosen.items(), strict=True):
        for number, (init, (rate, seeds)) in enumerate(inits.items()):
            found = [
                [100 * float(value) for value in row["curve"].split()]
                for row in runs.find(model=model, init=init, learning_rate=rate)
                if row["seed"] in seeds
            ]
            epochs = range(1, len(found[0]) + 1)
            for curve in found:
                axis.plot(epochs, curve, color=f"C{number}", alpha=0.3, linewidth=0.8)
            mean = [statistics.fmean(point) for point in zip(*found, strict=True)]
            axis.plot(
                epochs, mean, "o-", markersize=3, color=f"C{number}", label=f"{init}, rate {rate:g}"
            )
        axis.set(title=model, xlabel="epoch", ylabel="validation accuracy %")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7 if len(inits) > 5 else None)
    # Names of files may have dollar signs, which would begin a formula.
    figure.suptitle(textwrap.fill(title, int(17 * width)), fontsize=8, parse_math=False)
    figure.tight_layout()
    path = runs.folder / "curves.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
