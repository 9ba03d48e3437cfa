"""Compares initial weights on equal work: paired seeds, the best rate of each variant.

    python benchmarks/compare.py --dataset cifar10 --train-size 10000 --epochs 5 --group baselines
    python benchmarks/compare.py --model vit --variant default control spatial all --processes 2

Variants are named as variants.py says. Every run is a line of runs.csv in the output folder, and a
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

from common import script

if __name__ == "__main__":
    script.catch_signals("the same command goes on with what is missing")

import variants

from common import options


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=variants.help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = functools.partial(parser.add_argument, metavar="")
    options.add_data(add, parser)
    models = f"{', '.join(variants.MODELS)} [vit]"
    add("--model", nargs="+", choices=variants.MODELS, default=["vit"], help=models)
    add("--variant", nargs="+", type=_variant, default=[], metavar="NAME", help="see below")
    add("--group", nargs="+", choices=variants.GROUPS, default=[], help="all of a group, see below")
    base = "the variant to compare with [%(default)s]"
    add("--base", type=_variant, default="default", metavar="NAME", help=base)
    add("--seeds", type=options.positive(int), default=3, help="paired seeds [%(default)s]")
    add("--first-seed", type=options.seed, default=0, help="the first of them [%(default)s]")
    add("--learning-rate", nargs="+", type=options.positive(float), default=[2e-3, 4e-3])
    rates = "seeds that try every rate; the others take a variant's best of these [all]"
    add("--rate-seeds", type=options.positive(int), help=rates)
    options.add_training(add, epochs=5)
    add("--width", type=options.positive(int), help="channels of the models [each one's own]")
    validate = ("every", "last")
    validated = "after every epoch, for curves, or after the last [%(default)s]"
    add("--validate", choices=validate, default="every", help=validated)
    add("--processes", type=options.positive(int), default=1, help="at once [%(default)s]")
    output = "folder for the results [results/compare-DATASET-BACKEND]"
    add("--output", type=options.text, help=output)
    args = parser.parse_args(argv)
    named = [*args.variant, *(name for group in args.group for name in variants.GROUPS[group])]
    if args.width and args.width % 4 and "vit" in args.model:
        parser.error(f"argument --width: must be a multiple of 4 for vit, not {args.width}")
    args.variant = list(dict.fromkeys([args.base, *named]))
    for name in ("model", "learning_rate"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    options.resolve(args)
    return args


def _variant(name):
    """A type of option: the name of a variant."""
    try:
        variants.parse(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def main(argv=None):
    args = parse(argv)
    import keras
    import verdict
    from build_variant import applies

    from common import data, folders

    images = data.from_options(args)
    output = args.output or f"results/compare-{images.name}-{keras.backend.backend()}"
    settings = {
        **options.settings(args, images),
        **{name: getattr(args, name) for name in ("width", "validate")},
    }
    runs = folders.Runs(output, settings, columns=("loss_curve", "validation_loss_curve", "commit"))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    trial = seeds[: args.rate_seeds]
    pairs = [
        (model, name)
        for model, name in itertools.product(args.model, args.variant)
        if applies(model, variants.parse(name))
    ]
    every = [(*pair, rate) for pair, rate in itertools.product(pairs, args.learning_rate)]
    _run_missing([(*pair, rate, seed) for seed in trial for *pair, rate in every], runs, args)
    best = [(*pair, verdict.best_rate(runs, *pair)) for pair in pairs]
    if rest := seeds[len(trial) :]:
        _run_missing([(*pair, rate, seed) for seed in rest for *pair, rate in best], runs, args)
    table = verdict.table(runs, verdict.judge(runs, [args.base]))
    folders.write(runs.folder / "table.md", table)
    print("\n" + table)


def _run_missing(keys, runs, args):
    """Run all variants of a seed before those of the next."""
    from common import comparison

    more = {"start": _start_process, "score": _score, "commit": _commit()}
    comparison.run_missing(keys, runs, _run, args, **more)


def _score(results):
    return f"{100 * results['test_accuracy']:.2f} %"


_STATE = {}


def _start_process(args):
    from common import data

    options.set_precision(args)
    _STATE.update(args=args, images=data.from_options(args), compiled={})


def _run(key):
    """Return the results of one run, by column of runs.csv."""
    import keras
    from build_variant import build_variant

    from common import comparison
    from common.training import evaluate, train

    args, images = _STATE["args"], _STATE["images"]
    variant, seed = variants.parse(key["init"]), key["seed"]
    keras.utils.set_random_seed(seed)
    model = build_variant(key["model"], variant, seed, images, width=args.width)
    epochs = max(1, round(args.epochs * variant.schedule))
    changed = argparse.Namespace(**{**vars(args), "epochs": epochs, "verbose": 0})
    model = _compiled(model, key, variant, images, changed)
    begin = time.perf_counter()
    every = 1 if args.validate == "every" else epochs
    history = train(model, images, changed, seed=seed, validation_freq=every)
    seconds = time.perf_counter() - begin
    return {
        "validation_accuracy": history["val_accuracy"][-1],
        "test_accuracy": evaluate(model, images),
        "seconds": round(seconds, 2),
        "curve": comparison.curve(history["val_accuracy"]),
        # Means over the augmented images of each epoch while it goes on.
        "loss_curve": comparison.curve(history["loss"]),
        "validation_loss_curve": comparison.curve(history["val_loss"]),
    }


def _compiled(model, key, variant, images, args):
    """A compiled model with the weights of `model`, and an optimizer that has taken no step.

    Runs that differ only in their weights share one, since tracing or compiling
    a model takes as long as training it for many steps.
    """
    from common.training import compile_model, start_again

    kind = (key["model"], variant.shared_bias, key["learning_rate"], args.epochs)
    kept = _STATE["compiled"].get(kind)
    if kept is None:
        compile_model(model, images, args, rate=key["learning_rate"])
        _STATE["compiled"][kind] = model
        return model
    return start_again(kept, model.get_weights())


def _commit():
    """The version of the code, with a mark if it was changed since; nothing without Git."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return finished.stdout.strip()


if __name__ == "__main__":
    script.run(main)
