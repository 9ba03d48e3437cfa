"""Teaches small state-space networks to recall, from different initial weights.

    python examples/recall.py --processes 2           # both tasks, two CPU cores, about 14 minutes
    python examples/recall.py --task recall --init mamba2 decay mimetic recipe
    KERAS_BACKEND=jax python examples/recall.py --task copy --length 32 --width 128 --epochs 40

"mamba2" is that layer's own start, "mimetic" that of `MimeticStateSpace`, "recipe" that with the
identity for the convolution, and the others are single parts. How well the first does depends much
on the learning rate, so that all are given the same rates and each is judged at its best
one, chosen on validation sequences. Comparisons are paired: for one seed all have the same
sequences and every weight that they do not replace.
"""

from common import script

if __name__ == "__main__":
    script.catch_signals("the same command goes on with what is missing")

import argparse
import functools
import itertools
import statistics
import time

from common import options

# The names of `INITS`, whose values come with Keras.
STARTS = ("mamba2", "decay", "correlation", "convolution", "mimetic", "recipe")


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.adder(parser)
    whole = options.positive(int)
    tasks = f"{' and '.join(options.TASKS)} (see recall_tasks.py) [both]"
    add("--task", nargs="+", choices=options.TASKS, default=list(options.TASKS), help=tasks)
    inits = f"starts: {', '.join(STARTS)} [mamba2 mimetic]; differences are to the first"
    add("--init", nargs="+", choices=STARTS, default=["mamba2", "mimetic"], help=inits)
    add("--seeds", type=whole, default=10, help="paired seeds, from 0 [%(default)s]")
    rates = [3e-3, 1e-2, 3e-2]
    add(
        "--learning-rate",
        nargs="+",
        type=options.positive(float),
        default=rates,
        help="peak rates, for each init the same %(default)s",
    )
    add("--length", type=whole, default=16, help="the longest in training [%(default)s]")
    for name, default in (("width", 64), ("depth", 2), ("state-dim", 32)):
        add(f"--{name}", type=whole, default=default, help=f"{name} of the network [%(default)s]")
    add("--epochs", type=whole, default=10, help="after each it is validated [%(default)s]")
    add("--steps", type=whole, default=30, help="batches an epoch [%(default)s]")
    add("--batch-size", type=whole, default=32, help="sequences a step [%(default)s]")
    options.add_computation(add)
    at_once = "runs at once, each with its part of the CPU's cores [%(default)s]"
    add("--processes", type=whole, default=1, help=at_once)
    add("--output", type=options.text, help="folder for the results [results/recall-BACKEND]")
    args = parser.parse_args(argv)
    for name in ("task", "init", "learning_rate"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    if args.width % 2:
        parser.error(f"argument --width: must be even, not {args.width}")
    for task in args.task:
        if 2 * args.length > options.TASKS[task]:
            parser.error(
                f"argument --length: twice it must be {options.TASKS[task]} or less for {task}, "
                f"not {2 * args.length}"
            )
    return args


if __name__ == "__main__":
    # Before Keras, whose import takes seconds: --help and wrong options are answered at once.
    parse()

import keras

from common import comparison, environment, folders, pictures, report
from common.paired import difference
from common.recall_tasks import TASKS, Training, make
from keras_mimetic._numerics.random import fold_in
from keras_mimetic._numerics.state_space import A_LOG, CORRELATION, DT
from keras_mimetic.layers import MimeticStateSpace

# Arguments of the layer: `None` is Mamba-2's own.
_OWN = {"a_log": None, "dt": None, "correlation": None, "convolution": None}
_DECAY = {"a_log": A_LOG, "dt": DT}
INITS = {
    "mamba2": _OWN,
    "decay": {**_OWN, **_DECAY},
    "correlation": {**_OWN, "correlation": CORRELATION},
    "convolution": {**_OWN, "convolution": "identity"},
    "mimetic": {},
    "recipe": {**_DECAY, "correlation": CORRELATION, "convolution": "identity"},
}
# Of sequences that are judged: validation chooses the rate, test is reported.
_VALIDATION, _TEST, _COUNT = 1, 2, 512
SETTINGS = ("length", "width", "depth", "state_dim", "epochs", "steps", "batch_size")


def main(argv=None):
    args = parse(argv)
    settings = {name: getattr(args, name) for name in (*SETTINGS, "mixed_precision", "jit")}
    settings["backend"] = keras.backend.backend()
    output = args.output or f"results/recall-{settings['backend']}"
    runs = folders.Runs(output, settings, columns=("twice_accuracy",))
    keys = itertools.product(args.task, range(args.seeds), args.learning_rate, args.init)
    keys = [(task, init, rate, seed) for task, seed, rate, init in keys]
    run = functools.partial(_run, args)
    comparison.run_missing(keys, runs, run, args, score=_score)
    title = (
        f"trained on lengths to {args.length}, {args.epochs * args.steps} steps of "
        f"{args.batch_size}, width {args.width}, depth {args.depth}; "
        f"{environment.summary(runs.rows)}"
    )
    print("\n" + table(runs, args, title))
    print(f"Runs, table and settings: {runs.folder}/\nPicture: {picture(runs, args, title)}")


def _run(args, key):
    options.set_precision(args)
    return train(*key.values(), args)


def _score(results):
    return f"{100 * results['test_accuracy']:.1f} %"


def build(task, init, seed, args):
    """Token by token the answer: embedding, state spaces with residuals, a projection."""
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32")
    count = TASKS[task][1]
    x = keras.layers.Embedding(count, args.width)(tokens)
    for number in range(args.depth):
        mixed = MimeticStateSpace(
            args.state_dim, head_dim=args.width // 2, seed=fold_in(seed, number), **INITS[init]
        )(keras.layers.RMSNormalization()(x))
        x = keras.layers.Add()((x, mixed))
    logits = keras.layers.Dense(count)(keras.layers.RMSNormalization()(x))
    return keras.Model(tokens, logits)


def train(task, init, rate, seed, args):
    """One run: the results' columns of its row."""
    model = build(task, init, seed, args)
    updates = args.epochs * args.steps
    rising = {"warmup_target": rate, "warmup_steps": max(1, updates // 10)}
    schedule = keras.optimizers.schedules.CosineDecay(0.0, updates - updates // 10, **rising)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "a_log", "skip", "scale"])
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        jit_compile=options.JIT[args.jit],
    )
    start = time.perf_counter()
    history = model.fit(
        Training(task, args.length, args.batch_size, args.steps, seed),
        validation_data=make(task, args.length, _COUNT, _VALIDATION),
        validation_batch_size=128,
        epochs=args.epochs,
        verbose=0,
    ).history["val_accuracy"]
    seconds = time.perf_counter() - start
    accuracy, twice = (evaluate(model, task, part * args.length) for part in (1, 2))
    keras.backend.clear_session()
    return {
        "validation_accuracy": history[-1],
        "test_accuracy": accuracy,
        "twice_accuracy": twice,
        "seconds": round(seconds, 2),
        "curve": comparison.curve(history),
    }


def evaluate(model, task, length):
    """Part of what had to be recalled that was."""
    tokens, answers, weights = make(task, length, _COUNT, _TEST)
    is_right = model.predict(tokens, batch_size=128, verbose=0).argmax(-1) == answers
    return float((is_right * weights).sum() / weights.sum())


def accuracies(runs, task, init, rate, seeds, column):
    """In percent, by seed."""
    rows = runs.find(model=task, init=init, learning_rate=rate)
    by_seed = {row["seed"]: 100 * float(row[column]) for row in rows}
    return [by_seed[seed] for seed in seeds]


_LENGTHS = {"test_accuracy": 1, "twice_accuracy": 2}


def table(runs, args, title):
    """Accuracy at the longest length and at twice that, each init at its best rate."""
    first, seeds = args.init[0], range(args.seeds)
    heads = [
        f"length {part * args.length}: accuracy %, mean ± SD | difference to {first} [95 %]"
        for part in _LENGTHS.values()
    ]
    lines = [title, "", f"| task | init | best rate | {' | '.join(heads)} | n |"]
    lines.append("|---" * 8 + "|")
    for task, init in itertools.product(args.task, args.init):
        rate, base = (
            report.best_rate(runs, task, which, args.learning_rate, seeds)
            for which in (init, first)
        )
        cells = [task, init, f"{rate:g}"]
        for column in _LENGTHS:
            values = accuracies(runs, task, init, rate, seeds, column)
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}")
            others = accuracies(runs, task, first, base, seeds, column)
            cells.append("" if init == first else difference(values, others).text())
        lines.append(f"| {' | '.join((*cells, str(args.seeds)))} |")
    text = "\n".join(lines) + "\n"
    folders.write(runs.folder / "table.md", text)
    return text


def picture(runs, args, title):
    """Draw accuracy by learning rate: dots for seeds, lines for their mean."""
    figure, axes = pictures.panels(len(args.task), 5, 4.6)
    seeds, rates = range(args.seeds), sorted(args.learning_rate)
    for axis, task in zip(axes, args.task, strict=True):
        for (number, init), (column, part) in itertools.product(
            enumerate(args.init), _LENGTHS.items()
        ):
            values = [accuracies(runs, task, init, rate, seeds, column) for rate in rates]
            label, line = f"{init}, length {part * args.length}", "--" if part > 1 else "-"
            means = [statistics.fmean(of_rate) for of_rate in values]
            axis.plot(rates, means, line, color=f"C{number}", label=label)
            if part == 1:
                for rate, of_rate in zip(rates, values, strict=True):
                    axis.plot([rate] * len(of_rate), of_rate, ".", color=f"C{number}", alpha=0.5)
        axis.set(xscale="log", xlabel="learning rate", ylabel="accuracy %")
        axis.set_title(_finding(runs, args, task), fontsize=9)
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axis.set_xticks([], minor=True)
        axis.set_ylim(0, 102)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return pictures.save(figure, runs.folder / "rates.png", title)


def _finding(runs, args, task):
    """Return a title: the best init, each at its best rate, over the first one."""
    seeds, best = range(args.seeds), {}
    for init in args.init:
        rate = report.best_rate(runs, task, init, args.learning_rate, seeds)
        best[init] = statistics.fmean(accuracies(runs, task, init, rate, seeds, "test_accuracy"))
    first, top = args.init[0], max(best, key=best.__getitem__)
    title = f"{task}, n = {args.seeds}: "
    if top == first:
        return f"{title}{first} is best"
    return f"{title}{top} is {best[top] - best[first]:.0f} points above {first}"


if __name__ == "__main__":
    script.run(main)
