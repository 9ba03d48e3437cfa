"""The output folder of a comparison: args.json, and runs.csv with one row per run."""

import csv
import importlib
import io
import json
import os
import pathlib
import platform

# These identify a run. The other columns are its results.
KEY = ("model", "init", "learning_rate", "seed")


def environment():
    """Return backend, hardware and versions, as a dict of texts."""
    # Here, because reading results needs no Keras.
    import keras

    backend = keras.backend.backend()
    modules = {name: importlib.import_module(name) for name in ("keras", "keras_mimetic", backend)}
    versions = {name: module.__version__ for name, module in modules.items()}
    versions["python"] = platform.python_version()
    return {
        "backend": backend,
        "hardware": _hardware(backend, modules[backend]),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }


def _hardware(backend, module):
    if backend == "torch":
        gpus = [module.cuda.get_device_name(n) for n in range(module.cuda.device_count())]
    elif backend == "jax":
        gpus = [device.device_kind for device in module.devices() if device.platform != "cpu"]
    else:
        details = module.config.experimental.get_device_details
        gpus = [
            details(device).get("device_name", device.name)
            for device in module.config.list_physical_devices("GPU")
        ]
    if gpus:
        return f"{len(gpus)} x {gpus[0]}"
    processor, info = platform.machine(), pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
        processor = next(names, processor)
    return f"{processor}, {os.cpu_count()} cores"


def summary(rows):
    """Return hardware and versions of some rows, as text."""
    distinct = dict.fromkeys(
        f"{row['backend']}, {row['hardware']} ({row['versions']})" for row in rows
    )
    return " and ".join(distinct)


def write(path, text):
    """Write a text file, complete or not at all."""
    part = path.with_name(f"part-{path.name}")
    part.unlink(missing_ok=True)  # A link there is not followed.
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_rows(path, rows):
    """Write dicts as a CSV file, complete or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def keep_settings(folder, settings):
    """Make a folder for results with these settings. Exit if it has results with others."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "args.json"
    if path.exists():
        before = read_settings(folder)
        different = "; ".join(
            f"{name}: {before.get(name)!r} there, {value!r} now"
            for name, value in settings.items()
            if before.get(name) != value
        )
        if different:
            raise SystemExit(
                f"{folder} holds runs with other settings ({different}). "
                "Choose another --output, or remove that folder."
            )
    write(path, json.dumps({"settings": settings, **environment()}, indent=2) + "\n")


def read_settings(folder):
    """Return the settings in the args.json of a folder."""
    return json.loads(pathlib.Path(folder, "args.json").read_text(encoding="utf-8"))["settings"]


class Runs:
    """The runs of one folder.

    Args:
        folder: Where runs.csv is.
        settings: What all runs have in common. Without them the folder is only read.
    """

    def __init__(self, folder, settings=None):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "runs.csv"
        if settings is not None:
            keep_settings(self.folder, settings)
        self.rows = []
        if self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                self.rows = [_with_numbers(row) for row in csv.DictReader(file)]

    def find(self, **key):
        """Return the rows with these values, in the order of the runs."""
        return [row for row in self.rows if all(row[k] == v for k, v in key.items())]

    def add(self, row):
        """Add a row and write the file anew."""
        self.rows.append(row)
        write_rows(self.path, self.rows)

    def run_missing(self, keys, run, score, processes=1, **constant):
        """Run what the folder lacks, several processes at once, and add a row when a run ends.

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
                self.add({**key, **results, **environment(), **constant})
                print(
                    f"[{done}/{len(missing)}] {key['model']}, init {key['init']}, rate "
                    f"{key['learning_rate']:g}, seed {key['seed']}: {score(results)}, "
                    f"{results['seconds']:.0f} s",
                    flush=True,
                )


def _with_numbers(row):
    for name in row:
        if name in ("learning_rate", "seconds") or name.endswith(("_accuracy", "_loss")):
            row[name] = float(row[name])
        elif name == "seed":
            row[name] = int(row[name])
    return row


def _run_key(run, key):
    return key, run(key)


def curve(values):
    """Return values by epoch as text for a column of runs.csv."""
    return " ".join(f"{value:.4f}" for value in values)
