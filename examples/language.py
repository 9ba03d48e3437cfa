"""Trains small character-level GPTs on English text, from different initial weights.

    python examples/language.py --init default vo- --seeds 2
    KERAS_BACKEND=torch python examples/language.py --init all-rows --rate-seeds 1 --processes 2
    python examples/language.py --text FILE --width 192 --depth 6 --epochs 30

The text is what Python's `help` knows of the language (`topics`), the docstrings of its standard
library (`docstrings`) or any file. Rows differ in attention (`vo`: value-output, `qk`: query-key)
and in the first matrices and biases of MLPs; `control` has the norms of `vo-` without its
structure. Comparisons are paired: for one seed all have the same batches and every weight that
they do not replace. Each is judged at its best learning rate, chosen on validation text.
"""

from common import script

if __name__ == "__main__":
    script.catch_signals("the same command goes on with what is missing")

import argparse
import itertools
import json
import math
import statistics
import time

from common import options


def _row(mean=0.0, hidden_bias=None, value_output=None, query_key=None, control=False):
    """Arguments of `keras_mimetic.initialize`, all explicit; MLPs have equal draws in all rows."""
    structures = {"mlp": {"mean": mean, "hidden_bias": hidden_bias}}
    if value_output or query_key:
        structures["attention"] = {"query_key": query_key, "value_output": value_output}
    return {"structures": structures, "control": control}


# Pairs are (noise, identity).
_NEGATIVE, _QUERY_KEY = (0.4, -0.4), (0.7, 0.7)
INITS = {
    "default": _row(),
    "control": _row(value_output=_NEGATIVE, control=True),
    "vo-": _row(value_output=_NEGATIVE),
    "vo0": _row(value_output=(0.4, 0.0)),
    "vo+": _row(value_output=(0.4, 0.4)),
    "qk": _row(query_key=_QUERY_KEY),
    "both": _row(value_output=_NEGATIVE, query_key=_QUERY_KEY),
    "bias": _row(hidden_bias=-0.5),
    "mean": _row(mean=-1.0),
    "all": _row(value_output=_NEGATIVE, mean=-1.0, hidden_bias=-0.5),
}
EVERY = "all-rows"
# Of the table, besides those to its first row.
CONTRASTS = (
    ("vo-", "control"),
    ("vo-", "vo0"),
    ("vo-", "vo+"),
    ("both", "vo-"),
    ("all", "vo-"),
    ("all", "both"),
)
SETTINGS = (
    *("width", "depth", "heads", "context", "epochs", "steps", "batch_size", "weight_decay"),
    *("mixed_precision", "jit"),
)
RESULTS = ("validation_loss", "test_loss")
# Of sampled text.
_LINES = 3


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.adder(parser)
    whole = options.positive(int)
    texts = ", ".join(options.TEXTS)
    add(
        "--text",
        type=options.text,
        default="topics",
        help=f"text: {texts} or a file in UTF-8 [%(default)s]",
    )
    inits = f"rows: {', '.join(INITS)}, or {EVERY} [default vo-]; differences are to the first"
    add("--init", nargs="+", choices=(*INITS, EVERY), default=["default", "vo-"], help=inits)
    add("--seeds", type=whole, default=5, help="paired seeds, from 0 [%(default)s]")
    rates = "peak rates, for each init the same %(default)s"
    positive = options.positive(float)
    add("--learning-rate", nargs="+", type=positive, default=[2e-3, 4e-3], help=rates)
    trial = "seeds that try every rate; the others take an init's best of these [all]"
    add("--rate-seeds", type=whole, help=trial)
    for name, default in (("width", 96), ("depth", 4), ("heads", 3)):
        add(f"--{name}", type=whole, default=default, help=f"{name} of the network [%(default)s]")
    add("--context", type=whole, default=64, help="characters that it sees [%(default)s]")
    add("--epochs", type=whole, default=5, help="after each it is validated [%(default)s]")
    add("--steps", type=whole, default=100, help="batches an epoch [%(default)s]")
    add("--batch-size", type=whole, default=32, help="windows a step [%(default)s]")
    decay = options.positive(float, zero=True)
    add("--weight-decay", type=decay, default=0.05, help="of AdamW [%(default)s]")
    lines = f"characters of each of the {_LINES} lines that are sampled [%(default)s]"
    add("--sample", type=whole, default=100, help=lines)
    options.add_computation(add)
    at_once = "runs at once, each with its part of the CPU's cores [%(default)s]"
    add("--processes", type=whole, default=1, help=at_once)
    add("--output", type=options.text, help="folder for the results [results/language-BACKEND]")
    args = parser.parse_args(argv)
    if EVERY in args.init:
        args.init = [*(name for name in args.init if name != EVERY), *INITS]
    for name in ("init", "learning_rate"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    if args.width % args.heads:
        parser.error(
            f"argument --width: must be a multiple of --heads, not {args.width} for {args.heads}"
        )
    return args


if __name__ == "__main__":
    # Before Keras, whose import takes seconds: --help and wrong options are answered at once.
    parse()

import keras
import numpy as np

import keras_mimetic
from common import comparison, environment, folders, language_text, pictures, report
from common.blocks import LearnedPositions
from common.models import attention, glorot, head, mlp, sub_streams
from common.paired import difference
from common.training import adamw, start_again
from keras_mimetic._numerics import random
from keras_mimetic._numerics.random import fold_in


def main(argv=None):
    args = parse(argv)
    text = language_text.load(args.text, args.context)
    backend = keras.backend.backend()
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings |= {"text": text.name, "digest": text.digest, "backend": backend}
    output = args.output or f"results/language-{backend}"
    runs = folders.Runs(output, settings, columns=("samples",), results=RESULTS)
    trial, rest = np.split(np.arange(args.seeds), [args.rate_seeds or args.seeds])
    # All rows of a seed before those of the next.
    _run_missing(itertools.product(args.init, args.learning_rate, trial.tolist()), runs, args)
    best = [(init, best_rate(runs, init, args)) for init in args.init]
    _run_missing([(*row, seed) for seed in rest.tolist() for row in best], runs, args)
    title = (
        f"{text.name}, {len(text.train)} characters for training, {len(text.characters)} symbols; "
        f"{args.epochs * args.steps} steps of {args.batch_size} x {args.context}, width "
        f"{args.width}, depth {args.depth}, {options.PRECISION[args.mixed_precision]}; "
        f"{environment.summary(runs.rows)}"
    )
    print("\n" + table(runs, args, title))
    print(samples(runs, args))
    print(f"Runs, table and settings: {runs.folder}/\nPicture: {picture(runs, args, title)}")


def _run_missing(keys, runs, args):
    keys = [("gpt", *key) for key in sorted(keys, key=lambda key: key[-1])]
    comparison.run_missing(keys, runs, _run, args, start=_start_process, score=_score)


def _score(results):
    return f"{results['test_loss']:.4f} nats"


_STATE = {}


def _start_process(args):
    options.set_precision(args)
    _STATE.update(args=args, text=language_text.load(args.text, args.context), compiled={})


def _run(key):
    """One run: the results' columns of its row."""
    args, text = _STATE["args"], _STATE["text"]
    model = _compiled(build(len(text.characters), key["init"], key["seed"], args), key, args)
    return train(model, key["seed"], text, args)


def _compiled(model, key, args):
    """A compiled model with the weights of `model`, and an optimizer that has taken no step.

    Runs of one rate share one, since compiling takes as long as many steps of training.
    """
    rate = key["learning_rate"]
    kept = _STATE["compiled"].get(rate)
    if kept is None:
        compile_model(model, rate, args)
        _STATE["compiled"][rate] = model
        return model
    return start_again(kept, model.get_weights())


def build(characters, init, seed, args):
    """A GPT: causal attention and MLPs with norms before them, learned positions."""
    keras.utils.set_random_seed(seed)
    seeds = sub_streams(fold_in(seed, 0))
    tokens = keras.Input((args.context,), dtype="int32")
    # TensorFlow's gradients of `Embedding` are sparse, and Adam's steps with these others.
    x = keras.layers.Dense(
        args.width, use_bias=False, kernel_initializer=_embeddings(next(seeds)), name="embedding"
    )(keras.ops.one_hot(tokens, characters))
    x = LearnedPositions(_embeddings(next(seeds)))(x)
    for _ in range(args.depth):
        y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        attend = attention(args.heads, args.width // args.heads, seed=next(seeds))
        x = keras.layers.Add()([x, attend(y, y, use_causal_mask=True)])
        x = keras.layers.Add()([x, mlp(x, 4 * args.width, glorot, seeds)])
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    model = keras.Model(tokens, head(x, characters, glorot(seed=next(seeds))), name="gpt")
    keras_mimetic.initialize(model, seed=fold_in(seed, 1), **INITS[init])
    return model


def _embeddings(seed):
    """Keras's default for embeddings, uniform on ±0.05, but equal on every backend."""

    def initializer(shape, dtype=None):
        values = random.sample("uniform", shape, seed, std=0.05 / math.sqrt(3))
        return keras.ops.convert_to_tensor(values, dtype)

    return initializer


def compile_model(model, rate, args):
    updates = args.epochs * args.steps
    model.compile(
        adamw(rate, args.weight_decay, updates, warmup=max(1, updates // 10)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=options.JIT[args.jit],
    )


def train(model, seed, text, args):
    """Trains a compiled model: the results' columns of its row."""
    sizes = {name: getattr(args, name) for name in ("context", "batch_size", "steps")}
    judge = {"batch_size": language_text.JUDGED_BATCH, "verbose": 0}
    start = time.perf_counter()
    curve = model.fit(
        language_text.Batches(text.train, seed=seed, **sizes),
        shuffle=False,  # `Batches` are random
        validation_data=language_text.judged(text.validation, args.context),
        validation_batch_size=language_text.JUDGED_BATCH,
        epochs=args.epochs,
        verbose=0,
    ).history["val_loss"]
    seconds = time.perf_counter() - start
    test = language_text.judged(text.test, args.context)
    return {
        "validation_loss": curve[-1],
        "test_loss": model.evaluate(*test, **judge),
        "seconds": round(seconds, 2),
        "curve": comparison.curve(curve),
        # Of one seed, which is enough to look at.
        "samples": "" if seed else json.dumps(sample(model, text, args)),
    }


def sample(model, text, args):
    """A few lines that the model writes, each from a newline on."""
    rng, context = np.random.default_rng(0), args.context
    lines = np.full((_LINES, 1), max(text.characters.find("\n"), 0))
    while lines.shape[1] <= args.sample:
        seen = lines[:, -context:]
        # What follows is not seen: any padding does.
        padded = np.pad(seen, ((0, 0), (0, context - seen.shape[1]))).astype("int32")
        logits = keras.ops.convert_to_numpy(model.predict_on_batch(padded))[:, seen.shape[1] - 1]
        # Largest of logits with Gumbel noise: a draw from their softmax.
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        lines = np.append(lines, drawn[:, None], axis=1)
    return [text.decode(line[1:]) for line in lines]


def best_rate(runs, init, args):
    """The rate of the lowest validation loss, over the seeds that tried all."""

    def score(row):
        loss = row["validation_loss"]
        return -loss if math.isfinite(loss) else -math.inf

    seeds = range(min(args.seeds, args.rate_seeds or args.seeds))
    return report.best_rate(runs, "gpt", init, args.learning_rate, seeds, score)


def _best(runs, init, args):
    """Best rate, and the runs with it, by seed."""
    rate = best_rate(runs, init, args)
    rows = {row["seed"]: row for row in runs.find(model="gpt", init=init, learning_rate=rate)}
    return rate, [rows[seed] for seed in range(args.seeds)]


def table(runs, args, title):
    """Loss on the test text, each init at its best rate, and differences of pairs."""
    first = args.init[0]
    lines = [title, "", "| init | best rate | nats per character, mean ± SD over seeds "]
    lines[-1] += f"| difference to {first}, 95 % t interval over seeds | n |"
    lines.append("|---" * 5 + "|")
    losses = {}
    for init in args.init:
        rate, rows = _best(runs, init, args)
        values = losses[init] = [row["test_loss"] for row in rows]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        change = "" if init == first else difference(values, losses[first]).text(digits=3)
        mean = f"{statistics.fmean(values):.3f}{spread}"
        lines.append(f"| {init} | {rate:g} | {mean} | {change} | {len(values)} |")
    pairs = [pair for pair in CONTRASTS if {*pair} <= {*args.init} and pair[1] != first]
    if pairs:
        lines += ["", "| difference | nats, 95 % t interval over seeds | n |", "|---|---|---|"]
    for init, base in pairs:
        change = difference(losses[init], losses[base]).text(digits=3)
        lines.append(f"| {init} over {base} | {change} | {args.seeds} |")
    text = "\n".join(lines) + "\n"
    folders.write(runs.folder / "table.md", text)
    return text


def samples(runs, args):
    """What the first and the best row of the table write, at seed 0."""
    found = {init: _best(runs, init, args)[1] for init in args.init}
    best = min(args.init, key=lambda init: statistics.fmean(r["test_loss"] for r in found[init]))
    lines = []
    for init in dict.fromkeys((args.init[0], best)):
        lines.append(f"Sampled from {init}, seed 0:")
        lines += [f"    {line!r}" for line in json.loads(found[init][0]["samples"])]
    return "\n".join(lines) + "\n"


def picture(runs, args, title):
    """Draw validation loss by step, each init at its best rate, and differences in test loss."""
    figure, (left, right) = pictures.panels(2, 5.5, 4.8)
    steps = [args.steps * (epoch + 1) for epoch in range(args.epochs)]
    found = {init: _best(runs, init, args) for init in args.init}
    first = args.init[0]
    base = [row["test_loss"] for row in found[first][1]]
    differences, colors, ends = {}, {}, {}
    for number, (init, (rate, rows)) in enumerate(found.items()):
        curves = [[float(loss) for loss in row["curve"].split()] for row in rows]
        colors[init], ends[init] = f"C{number}", statistics.fmean(c[-1] for c in curves)
        label = f"{init}, {rate:g}"
        pictures.draw_curves(left, curves, color=colors[init], label=label, x=steps)
        if init != first:
            pairs = zip(rows, base, strict=True)
            differences[init] = [row["test_loss"] - loss for row, loss in pairs]
    left.set(xlabel="steps", ylabel="validation loss, nats per character")
    left.set_title(f"{min(ends, key=ends.__getitem__)} ends lowest, n = {args.seeds}", fontsize=9)
    left.legend(title="init, rate", frameon=False, fontsize=7)
    left.grid(alpha=0.3)
    if differences:
        pictures.draw_differences(right, differences, colors)
        worse, better = pictures.above_and_below(differences)
        title_of = f"{better} of {len(differences)} better than {first}, {worse} worse"
        right.set_title(title_of, fontsize=9)
    right.set(xlabel=f"test loss minus that of {first}, nats, 95 % t interval")
    return pictures.save(figure, runs.folder / "losses.png", title)


if __name__ == "__main__":
    script.run(main)
