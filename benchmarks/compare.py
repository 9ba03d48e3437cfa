"""Compares initial weights on equal work: paired seeds, the best rate of each row.

    python benchmarks/compare.py --dataset cifar10 --train-size 10000 --epochs 5 --group baselines
    python benchmarks/compare.py --model vit --row default control spatial all --processes 2

Rows are those of rows.py. Every run is a line of runs.csv in the output folder, and a
second call goes on where the first was interrupted. Runs share nothing, so that
several processes may work at once; each gets its part of the cores.
"""

import argparse
import functools
import itertools
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))  # what the examples share

import data
import keras
import options
import processes
import report
import script
import verdict
from rows import GROUPS, ROWS
from starts import VARIANTS, applies, start
from training import compile_model, evaluate, start_again, train


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = functools.partial(parser.add_argument, metavar="")
    options.add_data(add, parser)
    models = f"{', '.join(VARIANTS)} [vit]"
    add("--model", nargs="+", choices=VARIANTS, default=["vit"], help=models)
    add("--row", nargs="+", choices=ROWS, default=[], help="rows of rows.py, by name")
    add("--group", nargs="+", choices=GROUPS, default=[], help=f"or all of {', '.join(GROUPS)}")
    add("--base", choices=ROWS, default="default", help="the row to compare with [%(default)s]")
    add("--seeds", type=options.positive(int), default=3, help="paired seeds [%(default)s]")
    add("--first-seed", type=int, default=0, help="the first of them [%(default)s]")
    add("--learning-rate", nargs="+", type=options.positive(float), default=[2e-3, 4e-3])
    rates = "seeds that try every rate; the others take a row's best of these [all]"
    add("--rate-seeds", type=options.positive(int), help=rates)
    options.add_training(add, epochs=5)
    add("--width", type=options.positive(int), help="channels of the models [each one's own]")
    validate = ("every", "last")
    validated = "after every epoch, for curves, or after the last [%(default)s]"
    add("--validate", choices=validate, default="every", help=validated)
    add("--processes", type=options.positive(int), default=1, help="at once [%(default)s]")
    add("--output", help="folder for the results [results/compare-DATASET-BACKEND]")
    args = parser.parse_args(argv)
    named = [*args.row, *(name for group in args.group for name in GROUPS[group])]
    args.row = list(dict.fromkeys([args.base, *named]))
    for name in ("model", "learning_rate"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    options.resolve(args)
    return args


def main(argv=None):
    args = parse(argv)
    images = _load(args)
    output = args.output or f"results/compare-{images.name}-{keras.backend.backend()}"
    settings = {
        **options.settings(args, images),
        **{name: getattr(args, name) for name in ("width", "validate")},
    }
    runs = report.Runs(output, settings, columns=("loss_curve", "validation_loss_curve", "commit"))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    trial = seeds[: args.rate_seeds]
    rows = [(m, r) for m, r in itertools.product(args.model, args.row) if applies(m, ROWS[r])]
    every = [(*row, rate) for row, rate in itertools.product(rows, args.learning_rate)]
    _run_missing([(*row, rate, seed) for seed in trial for *row, rate in every], runs, args)
    best = [(*row, verdict.best_rate(runs, *row)) for row in rows]
    if rest := seeds[len(trial) :]:
        _run_missing([(*row, rate, seed) for seed in rest for *row, rate in best], runs, args)
    table = verdict.table(runs, verdict.judge(runs, [args.base]))
    report.write(runs.folder / "table.md", table)
    print("\n" + table)


def _run_missing(keys, runs, args):
    """Runs what was not run before: all rows of a seed before those of the next."""
    keys = [dict(zip(report.KEY, key, strict=True)) for key in keys]
    missing = [key for key in keys if not runs.find(**key)]
    print(f"{len(keys)} runs, {len(keys) - len(missing)} done before, {len(missing)} to do")
    commit = _commit()
    results_of = processes.run_all(_run, missing, args.processes, _start_process, (args,))
    for done, (key, results) in enumerate(results_of, start=1):
        runs.add({**key, **results, **report.environment(), "commit": commit})
        print(
            f"[{done}/{len(missing)}] {key['model']}, {key['init']}, rate "
            f"{key['learning_rate']:g}, seed {key['seed']}: "
            f"{100 * results['test_accuracy']:.2f} %, {results['seconds']:.0f} s",
            flush=True,
        )


def _load(args):
    return data.load(
        args.dataset, data_dir=args.data_dir, download=args.download, train_size=args.train_size
    )


_STATE = {}


def _start_process(args):
    options.set_precision(args)
    _STATE.update(args=args, images=_load(args), compiled={})


def _run(key):
    """One run: the results' columns of its row."""
    args, images = _STATE["args"], _STATE["images"]
    row, seed = ROWS[key["init"]], key["seed"]
    keras.utils.set_random_seed(seed)
    model = start(key["model"], row, seed, images, width=args.width)
    epochs = max(1, round(args.epochs * row.schedule))
    changed = argparse.Namespace(**{**vars(args), "epochs": epochs, "verbose": 0})
    model = _compiled(model, key, row, images, changed)
    begin = time.perf_counter()
    every = 1 if args.validate == "every" else epochs
    history = train(model, images, changed, seed=seed, validation_freq=every)
    seconds = time.perf_counter() - begin
    return {
        "validation_accuracy": history["val_accuracy"][-1],
        "test_accuracy": evaluate(model, images),
        "seconds": round(seconds, 2),
        "curve": _curve(history["val_accuracy"]),
        # Means over the augmented images of each epoch while it goes on.
        "loss_curve": _curve(history["loss"]),
        "validation_loss_curve": _curve(history["val_loss"]),
    }


def _curve(values):
    return " ".join(f"{value:.4f}" for value in values)


def _compiled(model, key, row, images, args):
    """A compiled model with the weights of `model`, and an optimizer that has taken no step.

    Runs that differ only in their weights share one, since tracing or compiling
    a model takes as long as training it for many steps.
    """
    kind = (key["model"], row.shared_bias, key["learning_rate"], args.epochs)
    kept = _STATE["compiled"].get(kind)
    if kept is None:
        compile_model(model, images, args, rate=key["learning_rate"])
        _STATE["compiled"][kind] = model
        return model
    return start_again(kept, model.get_weights())


def _commit():
    """The version of the code, with a mark if it was changed since."""
    finished = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return finished.stdout.strip()


if __name__ == "__main__":
    script.run(main)
