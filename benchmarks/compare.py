"""Compare initial weights on equal work: paired seeds, the best rate of each variant.

    python benchmarks/compare.py --dataset cifar10 --train-size 10000 --epochs 5 --group baselines
    python benchmarks/compare.py --model vit --variant default control spatial all --processes 2

lib/variants.py explains the names of variants. Every run is a line of runs.csv in the output
folder, and a second call continues where the first was interrupted. Runs are independent, so that
several processes may work at once. Each gets its part of the processor's threads.
"""

import argparse
import functools
import itertools
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import options
from lib import variants


def parse(argv=None):
    parser, add = options.parser(__doc__, epilog=variants.help_text())
    positive = options.positive
    options.add_data(add)
    models = f"{', '.join(variants.MODELS)} [vit]"
    add("--model", nargs="+", choices=variants.MODELS, default=["vit"], help=models)
    names = {"type": _variant, "metavar": "NAME"}
    add("--variant", nargs="+", **names, default=[], help="see below")
    add("--group", nargs="+", choices=variants.GROUPS, default=[], help="all of a group, see below")
    add("--base", **names, default="default", help="the variant to compare with [%(default)s]")
    add("--seeds", type=positive(int), default=3, help="paired seeds [%(default)s]")
    add("--first-seed", type=int, default=0, help="the first of them [%(default)s]")
    rates = "peak rates; each variant gets the best of these on the validation images %(default)s"
    add("--learning-rate", nargs="+", type=positive(float), default=[2e-3, 4e-3], help=rates)
    trial = "seeds that try every rate; the others take a variant's best of these [all]"
    add("--rate-seeds", type=positive(int), help=trial)
    options.add_training(add, epochs=5)
    add("--width", type=positive(int), help="channels of the models [each one's own]")
    validated = "every epoch, for curves, or the last [%(default)s]"
    add("--validate", choices=("every", "last"), default="every", help=validated)
    options.add_processes(add)
    options.add_output(add, "results/compare-DATASET-BACKEND")
    args = parser.parse_args(argv)
    named = [*args.variant, *(name for group in args.group for name in variants.GROUPS[group])]
    if args.width and args.width % 4 and "vit" in args.model:
        parser.error(f"argument --width: must be a multiple of 4 for vit, not {args.width}")
    args.variant = list(dict.fromkeys([args.base, *named]))
    options.resolve(args)
    return args


def _variant(name):
    """Return the name of a variant, once it is checked."""
    try:
        variants.parse(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


if __name__ == "__main__":
    options.start(parse)

import keras

import verdict
from common import data, folders
from lib.build_variant import applies
from lib.one_run import run


def main(argv=None):
    args = parse(argv)
    images = data.from_options(args)
    output = args.output or f"results/compare-{images.name}-{keras.backend.backend()}"
    settings = {
        **options.settings(args, images),
        **{name: getattr(args, name) for name in ("width", "validate")},
    }
    runs = folders.Runs(output, settings)
    commit = _commit()

    def run_missing(rates, seeds):
        """Run all variants of a seed before those of the next."""
        keys = [(*pair, rate, seed) for seed in seeds for pair in pairs for rate in rates[pair]]
        runs.run_missing(keys, functools.partial(run, args), _score, args.processes, commit=commit)

    pairs = [
        (model, name)
        for model, name in itertools.product(args.model, args.variant)
        if applies(model, variants.parse(name))
    ]
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    trial = seeds[: args.rate_seeds]
    run_missing(dict.fromkeys(pairs, args.learning_rate), trial)
    run_missing({pair: [verdict.best_rate(runs, *pair)] for pair in pairs}, seeds[len(trial) :])
    table = verdict.table(runs, verdict.judge(runs, [args.base]))
    folders.write(runs.folder / "table.md", table)
    print("\n" + table)


def _score(results):
    return f"{100 * results['test_accuracy']:.2f} %"


def _commit():
    """Return the version of the code, marked if it was changed since; nothing without Git."""
    code = ["keras_mimetic", "examples", "benchmarks", ":!benchmarks/results"]
    commands = ["describe", "--always"], ["status", "--porcelain", "--", *code]
    try:
        version, changes = (
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout
            for command in commands
        )
    except FileNotFoundError:
        return ""
    return version.strip() + "-dirty" * bool(changes)


if __name__ == "__main__":
    main()
