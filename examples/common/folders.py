"""The output folder of a comparison: args.json, and runs.csv with one row per run."""

import csv
import io
import itertools
import json
import math
import os
import pathlib

from common import environment, lock, script

# What makes a run the run that it is; the other columns are its results.
KEY = ("model", "init", "learning_rate", "seed")
RESULTS = ("validation_accuracy", "test_accuracy")
_ABOUT = ("seconds", "curve", "backend", "hardware", "versions")
COLUMNS = (*KEY, *RESULTS, *_ABOUT)


class SettingsError(script.Stop):
    """The output folder holds what does not fit to the runs asked for, or cannot be read."""


def keep_settings(folder, settings):
    """Makes a folder for results with these settings, unless it has some with others.

    It is locked for this process.
    """
    folder = pathlib.Path(folder)
    lock.take(folder)
    path = folder / "args.json"
    if has_file(path):
        before = _settings_in(path)
        if listed := different_settings(before, settings):
            raise SettingsError(
                f"{folder} holds runs with other settings ({listed}). "
                "Choose another --output, or remove that folder."
            )
    write(path, json.dumps({"settings": settings, **environment.current()}, indent=2) + "\n")


def has_file(path):
    """Return whether a file is there.

    Raises:
        SettingsError: If it is not a regular file: a read from a pipe would never end.
    """
    if path.exists() and not path.is_file():
        raise SettingsError(
            f"{path} is not a regular file. Choose another --output, or remove that folder."
        )
    return path.exists()


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
        if not has_file(self.path):
            return []
        try:
            text = self.path.read_text()
        except UnicodeDecodeError as error:
            raise SettingsError(f"{self.path} is no text ({error}). {_FIX}") from error
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
            raise SettingsError(f"{self.path}, line {line}: {error}. {_FIX}") from error
        # Another process may add to a folder that is only read.
        if complete != text and exactly:
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
        try:
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, self.columns, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise
        self.rows.append(row)


_FIX = "Fix it, choose another --output, or remove that folder"


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
    except OSError as error:
        part.unlink(missing_ok=True)
        # Python does not say where the disk is full.
        error.filename = error.filename or str(path)
        raise


def save_model(model, path):
    """Save a Keras model as a whole or not at all."""
    part = path.with_suffix(".part.keras")
    try:
        model.save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_rows(path, rows):
    """Writes dicts with the same keys as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())
