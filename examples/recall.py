"""Teach small state-space networks to recall, from different initial weights.

    KERAS_BACKEND=torch python examples/recall.py --processes 2    # both tasks, about 14 minutes
    KERAS_BACKEND=torch python examples/recall.py --task recall --init mamba2 decay mimetic recipe
    KERAS_BACKEND=jax python examples/recall.py --task copy --length 32 --width 128 --epochs 40

"mamba2" is that layer's own initialization, "mimetic" that of `MimeticStateSpace`, "recipe" adds
the identity convolution, and the others are single parts. The learning rate matters much for
"mamba2", so all are given the same rates, and each is compared at its best one, chosen on
validation sequences. Comparisons are paired: for one seed all have the same sequences and every
weight that they do not replace.
"""

import functools
import itertools
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from common import options

# Numbers of symbols to copy, and of keys and values to recall.
SYMBOLS, KEYS, VALUES = 14, 32, 16
# Number of tokens of each task.
TOKENS = {"copy": 1 + SYMBOLS, "recall": KEYS + VALUES}

# Arguments of the layer: `None` is Mamba-2's own.
_OWN = {"a_log": None, "dt": None, "correlation": None, "convolution": None}
_DECAY = {"a_log": -8.0, "dt": 1.0}
INITS = {
    "mamba2": _OWN,
    "decay": {**_OWN, **_DECAY},
    "correlation": {**_OWN, "correlation": 0.9},
    "convolution": {**_OWN, "convolution": "identity"},
    "mimetic": {},
    "recipe": {**_DECAY, "correlation": 0.9, "convolution": "identity"},
}


def parse(argv=None):
    parser, add = options.parser(__doc__)
    whole, positive = options.positive(int), options.positive(float)
    tasks = "copy and recall, which this file explains [both]"
    add("--task", nargs="+", choices=TOKENS, default=list(TOKENS), help=tasks)
    inits = "initial weights [mamba2 mimetic]; differences are to the first"
    add("--init", nargs="+", choices=INITS, default=["mamba2", "mimetic"], help=inits)
    add("--seeds", type=whole, default=10, help="paired seeds, from 0 [%(default)s]")
    rates = "peak rates, for each init the same %(default)s"
    add("--learning-rate", nargs="+", type=positive, default=[3e-3, 1e-2, 3e-2], help=rates)
    add("--length", type=whole, default=16, help="the longest in training [%(default)s]")
    for name, default in (("width", 64), ("depth", 2), ("state-dim", 32)):
        add(f"--{name}", type=whole, default=default, help=f"{name} of the network [%(default)s]")
    add("--epochs", type=whole, default=10, help="each ends with a validation [%(default)s]")
    add("--steps", type=whole, default=30, help="batches per epoch [%(default)s]")
    add("--batch-size", type=whole, default=32, help="sequences per step [%(default)s]")
    options.add_computation(add)
    options.add_processes(add)
    options.add_output(add, "results/recall-BACKEND")
    args = parser.parse_args(argv)
    if "recall" in args.task and 2 * args.length > KEYS:
        parser.error(f"argument --length: must be {KEYS // 2} or less for recall")
    return args


if __name__ == "__main__":
    options.start(parse)

import keras
import numpy as np

from common import folders, pictures, report, training
from keras_mimetic._numerics.random import fold_in
from keras_mimetic.layers import MimeticStateSpace

# ---- Tasks ----
#
# Length is the number of symbols, or of pairs. Only what has to be recalled counts in loss and
# accuracy: its weight is 1, that of the rest 0.

# Validation chooses the rate, test is reported.
_VALIDATION, _TEST, _COUNT = 1, 2, 512


def copy(rng, length, count):
    """Return sequences of symbols, a mark and the same symbols again: (count, 2 length)."""
    symbols = 1 + rng.integers(SYMBOLS, size=(count, length))
    mark = np.zeros((count, 1), int)
    # Each symbol is seen after it has been answered.
    tokens = np.concatenate((symbols, mark, symbols[:, :-1]), axis=1)
    return tokens, *_answers(symbols, length)


def recall(rng, length, count):
    """Return sequences of key-value pairs, then all keys in another order: (count, 3 length).

    The answer to a key is its value (multi-query associative recall, arXiv:2312.04927).
    """
    keys = rng.random((count, KEYS)).argsort(axis=1)[:, :length]
    values = KEYS + rng.integers(VALUES, size=(count, length))
    order = rng.random((count, length)).argsort(axis=1)
    pairs = np.stack((keys, values), axis=2).reshape(count, 2 * length)
    tokens = np.concatenate((pairs, np.take_along_axis(keys, order, axis=1)), axis=1)
    return tokens, *_answers(np.take_along_axis(values, order, axis=1), 2 * length)


def _answers(wanted, before):
    """Return answers and weights, where the first `before` tokens ask for nothing."""
    nothing = np.zeros((len(wanted), before))
    answers = np.concatenate((nothing.astype(int), wanted), axis=1)
    return answers, np.concatenate((nothing, np.ones(wanted.shape)), axis=1).astype("float32")


def make(task, length, count, seed):
    """Return sequences of a task: int32 tokens, int32 answers, float32 weights."""
    function = {"copy": copy, "recall": recall}[task]
    tokens, answers, weights = function(np.random.default_rng(seed), length, count)
    return tokens.astype("int32"), answers.astype("int32"), weights


class Training(keras.utils.PyDataset):
    """New sequences in every batch, as a function of (seed, epoch, batch).

    Lengths cycle through a quarter, a half, three quarters and all of `length`: few, because each
    is compiled, and different from the first step on, by which Keras sees on TensorFlow that
    lengths vary.
    """

    def __init__(self, task, length, batch_size, steps, seed):
        super().__init__()
        self._task, self._batch_size, self._steps, self._seed = task, batch_size, steps, seed
        self._lengths = sorted({max(1, length * part // 4) for part in (1, 2, 3, 4)})
        self._epoch = 0

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        length = self._lengths[index % len(self._lengths)]
        # The 0 is for NumPy, which takes [1, 0, 0] as 1: the seed of validation.
        seed = [0, self._seed, self._epoch, index]
        return make(self._task, length, self._batch_size, seed)

    def on_epoch_end(self):
        self._epoch += 1


# ---- Model and training ----


def build(task, init, seed, args):
    """Return a network of an embedding, state spaces with residuals, and a projection."""
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(TOKENS[task], args.width)(tokens)
    for number in range(args.depth):
        mixed = MimeticStateSpace(
            args.state_dim, head_dim=args.width // 2, seed=fold_in(seed, number), **INITS[init]
        )(keras.layers.RMSNormalization()(x))
        x = keras.layers.Add()((x, mixed))
    logits = keras.layers.Dense(TOKENS[task])(keras.layers.RMSNormalization()(x))
    return keras.Model(tokens, logits)


def train(args, key):
    """Return the results of one run, by column of runs.csv."""
    options.set_precision(args)
    task, seed = key["model"], key["seed"]
    model = build(task, key["init"], seed, args)
    updates = args.epochs * args.steps
    schedule = training.warmup_cosine(key["learning_rate"], updates, max(1, updates // 10))
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "a_log", "skip", "scale"])
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
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
        "curve": folders.curve(history),
    }


def evaluate(model, task, length):
    """Return the part of the answers that is right."""
    tokens, answers, weights = make(task, length, _COUNT, _TEST)
    found = model.evaluate(tokens, answers, 128, sample_weight=weights, verbose=0, return_dict=True)
    return found["accuracy"]


# ---- Comparison ----


def main(argv=None):
    args = parse(argv)
    backend = keras.backend.backend()
    names = ("length", "width", "depth", "state_dim", "epochs", "steps", "batch_size")
    settings = {name: getattr(args, name) for name in (*names, "mixed_precision")}
    output = args.output or f"results/recall-{backend}"
    runs = folders.Runs(output, {**settings, "backend": backend})
    seeds, rates = range(args.seeds), args.learning_rate
    keys = itertools.product(args.task, seeds, rates, args.init)
    keys = [(task, init, rate, seed) for task, seed, rate, init in keys]
    run = functools.partial(train, args)
    runs.run_missing(keys, run, lambda r: f"{100 * r['test_accuracy']:.1f} %", args.processes)

    title = (
        f"trained on lengths to {args.length}, {args.epochs} epochs of {args.steps} steps of "
        f"{args.batch_size}, width {args.width}, depth {args.depth}; "
        f"{folders.summary(runs.rows)}"
    )
    pairs = list(itertools.product(args.task, args.init))
    best = report.best_rates(runs, pairs, rates, seeds)
    shown = {
        f"length {args.length}: accuracy %": "test_accuracy",
        f"length {2 * args.length}: accuracy %": "twice_accuracy",
    }
    print("\n" + report.table(runs, best, seeds, shown, title, digits=1))
    print(f"Runs, table and settings: {runs.folder}/")
    print(f"Picture: {picture(runs, best, seeds, args, title)}")


def picture(runs, best, seeds, args, title):
    """Draw accuracy by learning rate: dots for seeds, lines for their mean."""
    figure, axes = pictures.panels(len(args.task), 5, 4.6)
    rates = sorted(args.learning_rate)
    for axis, task in zip(axes, args.task, strict=True):
        means = {}
        for number, init in enumerate(args.init):
            for column, style in (("test_accuracy", "-"), ("twice_accuracy", "--")):
                values = [report.values_of(runs, (task, init), r, seeds, column) for r in rates]
                length = args.length * (1 if style == "-" else 2)
                line = [statistics.fmean(of_rate) for of_rate in values]
                label = f"{init}, length {length}"
                axis.plot(rates, line, style, color=f"C{number}", label=label)
                if style == "-":
                    axis.plot(rates, values, ".", color=f"C{number}", alpha=0.5)
                    means[init] = line[rates.index(best[task, init])]
        top, first = max(means, key=means.__getitem__), args.init[0]
        gain = f"{means[top] - means[first]:.0f} points above {first}" if top != first else "best"
        axis.set_title(f"{task}, n = {len(seeds)}: {top} is {gain}", fontsize=9)
        axis.set(xscale="log", xlabel="learning rate", ylabel="accuracy %", ylim=(0, 102))
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return pictures.save(figure, runs.folder / "rates.png", title)


if __name__ == "__main__":
    main()
