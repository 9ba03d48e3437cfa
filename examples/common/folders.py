"""The output folder of a comparison: args.json, and runs.csv with one row per run."""

import contextlib
import csv
import io
import json
import pathlib

from common import environment, script

# These identify a run. The other columns are its results.
KEY = ("model", "init", "learning_rate", "seed")
RESULTS = ("validation_accuracy", "test_accuracy")
_ABOUT = ("seconds", "curve", "backend", "hardware", "versions")
COLUMNS = (*KEY, *RESULTS, *_ABOUT)
# Locks of this process, which end with it.
LOCKS = []


class SettingsError(script.Stop):
    """The output folder does not fit the runs asked for, or cannot be read."""


@contextlib.contextmanager
def replacing(path):
    """Yield a path to write to. The file replaces `path` when it is complete."""
    path = pathlib.Path(path)
    part = path.with_name(f"part-{path.name}")
    part.unlink(missing_ok=True)  # A link there must not be followed.
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write(path, text):
    """Write a text file in UTF-8, complete or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def write_rows(path, rows, columns=None):
    """Write dicts as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def keep_settings(folder, settings):
    """Make a folder for results with these settings and lock it for this process.

    Raises:
        SettingsError: If it has results with other settings, or another process writes into it.
    """
    import filelock

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.resolve() / ".lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise SettingsError(
            f"{folder} is in use by another process: wait, or choose another --output."
        ) from error
    LOCKS.append(lock)
    path = folder / "args.json"
    if path.exists():
        different = different_settings(read_settings(folder), settings)
        if different:
            raise SettingsError(
                f"{folder} holds runs with other settings ({different}). "
                "Choose another --output, or remove that folder."
            )
    write(path, json.dumps({"settings": settings, **environment.current()}, indent=2) + "\n")


def read_settings(folder):
    """Return the settings in the args.json of a folder."""
    path = pathlib.Path(folder, "args.json")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}). {_FIX}") from error


def different_settings(before, settings):
    """Return the differences between the settings of a folder and of this call, as text."""
    different = [name for name in settings if before.get(name) != settings[name]]
    return "; ".join(
        f"{name}: {before.get(name)!r} there, {settings[name]!r} now" for name in different
    )


class Runs:
    """The runs of one folder.

    Args:
        folder: Where runs.csv is.
        settings: What all runs have in common. Without them the folder is only read.
        columns: Further columns of text.
        results: Columns with numbers.
    """

    def __init__(self, folder, settings=None, columns=(), results=RESULTS):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "runs.csv"
        self.columns = (*KEY, *results, *_ABOUT, *columns)
        self.results = results
        if settings is not None:
            keep_settings(self.folder, settings)
        self.rows = self._read(exactly=settings is not None) if self.path.exists() else []

    def _read(self, exactly):
        needed = self.columns if exactly else (*KEY, *self.results, "curve")
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            try:
                header = reader.fieldnames or ()
                if {*needed} - {*header} or (exactly and len(header) != len(needed)):
                    raise ValueError(f"the columns must be {', '.join(needed)}")
                return [self._with_numbers(row) for row in reader]
            except (ValueError, csv.Error) as error:
                line = max(1, reader.line_num)
                raise SettingsError(f"{self.path}, line {line}: {error}. {_FIX}") from error

    def _with_numbers(self, row):
        if None in row or None in row.values():
            raise ValueError("the number of fields is not that of the columns")
        for name in row:
            if name in ("learning_rate", "seconds", *self.results) or name.endswith("_accuracy"):
                row[name] = float(row[name])
        row["seed"] = int(row["seed"])
        return row

    def find(self, **key):
        """Return the rows with these values, in the order of the runs."""
        return [row for row in self.rows if all(row[k] == v for k, v in key.items())]

    def add(self, row):
        """Add a row and write the file anew."""
        self.rows.append(row)
        write_rows(self.path, self.rows, self.columns)

    def run_missing(self, keys, run, score, processes=1, **constant):
        """Run what the folder lacks, and add each row when its run ends.

        Args:
            keys: For each run a tuple with a value for each name in `KEY`.
            run: `run(key)` returns the results of a run, given its key as a dict.
            score: `score(results)` returns the text that is printed when a run ends.
            processes: Runs at once. Each gets its part of the processor's threads.
            constant: Further columns, equal for all rows.
        """
        import joblib

        keys = [dict(zip(KEY, key, strict=True)) for key in keys]
        missing = [key for key in keys if not self.find(**key)]
        if keys:
            print(f"{len(keys)} runs, {len(keys) - len(missing)} done before, {len(missing)} to do")
        parallel = joblib.Parallel(processes, return_as="generator_unordered")
        threads = max(1, joblib.cpu_count() // processes) if processes > 1 else None
        with joblib.parallel_config("loky", inner_max_num_threads=threads):
            finished = parallel(joblib.delayed(_run_key)(run, key) for key in missing)
            for done, (key, results) in enumerate(finished, start=1):
                self.add({**key, **results, **environment.current(), **constant})
                print(
                    f"[{done}/{len(missing)}] {key['model']}, init {key['init']}, rate "
                    f"{key['learning_rate']:g}, seed {key['seed']}: {score(results)}, "
                    f"{results['seconds']:.0f} s",
                    flush=True,
                )


_FIX = "Fix it, choose another --output, or remove that folder"


def _run_key(run, key):
    return key, run(key)


def curve(values):
    """Return values by epoch as text for a column of runs.csv."""
    return " ".join(f"{value:.4f}" for value in values)
