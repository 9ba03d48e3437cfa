"""Train small character-level GPTs on English text, from different initial weights.

    KERAS_BACKEND=jax python examples/language.py --init default vo- --seeds 2
    KERAS_BACKEND=torch python examples/language.py --init all-rows --rate-seeds 1 --processes 2
    KERAS_BACKEND=jax python examples/language.py --text FILE --width 192 --depth 6 --epochs 30

The text is Python's language reference as `help` prints it (`topics`), the docstrings of the
standard library (`docstrings`) or any file. Initial weights differ in attention (`vo`:
value-output, `qk`: query-key) and in the first matrices and biases of MLPs; `control` has the norms
of `vo-` without its structure. Comparisons are paired: for one seed all have the same batches and
every weight that they do not replace. Each is compared at its best learning rate, chosen on
validation text.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import pathlib
import statistics
import sys
import sysconfig
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from common import options


def _init(mean=0.0, hidden_bias=None, value_output=None, query_key=None, control=False):
    """Return explicit arguments of `initialize`, so that MLPs have equal draws in all."""
    structures = {"mlp": {"mean": mean, "hidden_bias": hidden_bias}}
    if value_output or query_key:
        structures["attention"] = {"query_key": query_key, "value_output": value_output}
    return {"structures": structures, "control": control}


# Pairs are (noise, identity).
_NEGATIVE, _QUERY_KEY = (0.4, -0.4), (0.7, 0.7)
INITS = {
    "default": _init(),
    "control": _init(value_output=_NEGATIVE, control=True),
    "vo-": _init(value_output=_NEGATIVE),
    "vo0": _init(value_output=(0.4, 0.0)),
    "vo+": _init(value_output=(0.4, 0.4)),
    "qk": _init(query_key=_QUERY_KEY),
    "both": _init(value_output=_NEGATIVE, query_key=_QUERY_KEY),
    "bias": _init(hidden_bias=-0.5),
    "mean": _init(mean=-1.0),
    "all": _init(value_output=_NEGATIVE, mean=-1.0, hidden_bias=-0.5),
}
EVERY = "all-rows"
# The table compares these, besides each init with the first.
CONTRASTS = (
    *(("vo-", other) for other in ("control", "vo0", "vo+")),
    *(("both", "vo-"), ("all", "vo-"), ("all", "both")),
)
SETTINGS = (
    *("width", "depth", "heads", "context", "epochs", "steps", "batch_size", "weight_decay"),
    "mixed_precision",
)


def parse(argv=None):
    parser, add = options.parser(__doc__)
    whole, positive = options.positive(int), options.positive(float)
    texts = "text: topics, docstrings or a file in UTF-8 [%(default)s]"
    add("--text", default="topics", help=texts)
    inits = f"{', '.join(INITS)}, or {EVERY} [default vo-]; differences are to the first"
    add("--init", nargs="+", choices=(*INITS, EVERY), default=["default", "vo-"], help=inits)
    add("--seeds", type=whole, default=5, help="paired seeds, from 0 [%(default)s]")
    rates = "peak rates, for each init the same %(default)s"
    add("--learning-rate", nargs="+", type=positive, default=[2e-3, 4e-3], help=rates)
    trial = "seeds that try every rate; the others take an init's best of these [all]"
    add("--rate-seeds", type=whole, help=trial)
    for name, default in (("width", 96), ("depth", 4), ("heads", 3)):
        add(f"--{name}", type=whole, default=default, help=f"{name} of the network [%(default)s]")
    add("--context", type=whole, default=64, help="characters that it sees [%(default)s]")
    add("--epochs", type=whole, default=5, help="each ends with a validation [%(default)s]")
    add("--steps", type=whole, default=100, help="batches per epoch [%(default)s]")
    add("--batch-size", type=whole, default=32, help="windows per step [%(default)s]")
    decay = options.positive(float, zero=True)
    add("--weight-decay", type=decay, default=0.05, help="of AdamW [%(default)s]")
    add("--sample", type=whole, default=100, help="characters of sampled lines [%(default)s]")
    options.add_computation(add)
    options.add_processes(add)
    options.add_output(add, "results/language-BACKEND")
    args = parser.parse_args(argv)
    if EVERY in args.init:
        args.init = list(dict.fromkeys([*(x for x in args.init if x != EVERY), *INITS]))
    if args.width % args.heads:
        parser.error(
            f"argument --width: must be a multiple of --heads, not {args.width} for {args.heads}"
        )
    return args


if __name__ == "__main__":
    options.start(parse)

import keras
import numpy as np

import keras_mimetic
from common import folders, models, pictures, report, training
from common.blocks import LearnedPositions
from keras_mimetic._numerics import random
from keras_mimetic._numerics.random import fold_in

# ---- Text ----


class TextError(SystemExit):
    """The text is missing or too short; says what to do."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text as numbers of its characters: int32 arrays for training, validation and test."""

    name: str
    characters: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    digest: str  # Python's texts differ between its versions.

    def decode(self, tokens):
        """Return the characters of an array of numbers."""
        return "".join(self.characters[token] for token in tokens)


@functools.lru_cache(maxsize=1)
def load(name, context):
    """Load a text. The last 10 % are for the test, the 5 % before them for validation.

    Args:
        name: "topics", "docstrings" or the path of a text file in UTF-8.
        context: Characters of a window. Each part has more than that.
    """
    if name in ("topics", "docstrings"):
        text = _paragraphs_once(_topics() if name == "topics" else _docstrings())
    else:
        try:
            text = pathlib.Path(name).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TextError(
                f"The text {name!r} could not be read: give topics, docstrings or the path of a "
                f"text file in UTF-8. ({type(error).__name__}: {error})"
            ) from error
    characters = "".join(sorted(set(text)))
    numbers = {character: number for number, character in enumerate(characters)}
    tokens = np.array([numbers[character] for character in text], np.int32)
    test = len(tokens) - round(0.1 * len(tokens))
    validation = test - round(0.05 * len(tokens))
    parts = np.split(tokens, (validation, test))
    if min(map(len, parts)) <= context:
        raise TextError(
            f"{name} has {len(text)} characters. It takes more than {20 * context}, for a window "
            f"of {context} in the 5 % that are kept for validation."
        )
    return Text(name, characters, *parts, hashlib.sha256(text.encode()).hexdigest()[:16])


def _topics():
    from pydoc_data import topics

    return "\n\n".join(topics.topics.values())


def _docstrings():
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in sys.stdlib_module_names or {"test", "tests"} & {*parts}:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(found)


def _paragraphs_once(text):
    """Drop repeated paragraphs, so that no test text is trained on."""
    paragraphs = (part.strip("\n") for part in text.split("\n\n"))
    return "\n\n".join(dict.fromkeys(part for part in paragraphs if part.strip())) + "\n"


def windows(tokens, starts, context):
    """Return inputs and targets, the characters after them, each (len(starts), context)."""
    found = tokens[np.add.outer(starts, np.arange(context + 1))]
    return found[:, :-1], found[:, 1:]


def held_out(tokens, context, batch=64, at_most=1024):
    """Return evenly spaced, non-overlapping windows of held-out text, the same every time."""
    count = min(at_most, (len(tokens) - 1) // context)
    if count > batch:
        count -= count % batch  # A last, smaller batch would be one more program to compile.
    starts = np.linspace(0, len(tokens) - 1 - context, count).astype(int)
    return windows(tokens, starts, context)


class Batches(keras.utils.PyDataset):
    """Windows at random places, as a function of the seed and the step."""

    def __init__(self, tokens, *, context, batch_size, steps, seed):
        super().__init__()
        self._tokens, self._context = tokens, context
        self._batch_size, self._steps, self._seed = batch_size, steps, seed
        self._epoch = 0

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        rng = np.random.default_rng([self._seed, self._epoch * self._steps + index])
        starts = rng.integers(len(self._tokens) - self._context, size=self._batch_size)
        return windows(self._tokens, starts, self._context)

    def on_epoch_end(self):
        self._epoch += 1


# ---- Model and training ----


def build(characters, init, seed, args):
    """Return a GPT: causal attention and MLPs, each after a LayerNorm, and learned positions."""
    keras.utils.set_random_seed(seed)
    seeds = models.sub_streams(fold_in(seed, 0))
    tokens = keras.Input((args.context,), dtype="int32")
    # TensorFlow's gradients of `Embedding` are sparse, for which Adam takes other steps.
    x = keras.layers.Dense(
        args.width, use_bias=False, kernel_initializer=_embeddings(next(seeds)), name="embedding"
    )(keras.ops.one_hot(tokens, characters))
    x = LearnedPositions(_embeddings(next(seeds)))(x)
    for _ in range(args.depth):
        y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        attend = models.attention(args.heads, args.width // args.heads, seed=next(seeds))
        x = keras.layers.Add()([x, attend(y, y, use_causal_mask=True)])
        y = models.mlp(x, 4 * args.width, models.glorot, seeds)
        x = keras.layers.Add()([x, y])
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    logits = models.head(x, characters, models.glorot(seed=next(seeds)))
    model = keras.Model(tokens, logits, name="gpt")
    keras_mimetic.initialize(model, seed=fold_in(seed, 1), **INITS[init])
    return model


def _embeddings(seed):
    """Return Keras's default for embeddings, uniform on ±0.05, but equal on every backend."""

    def initializer(shape, dtype=None):
        values = random.sample("uniform", shape, seed, std=0.05 / 3**0.5)
        return keras.ops.convert_to_tensor(values, dtype)

    return initializer


def train(args, key):
    """Return the results of one run, by column of runs.csv."""
    options.set_precision(args)
    text = load(args.text, args.context)
    model = build(len(text.characters), key["init"], key["seed"], args)
    updates = args.epochs * args.steps
    warmup = max(1, updates // 10)
    model.compile(
        training.adamw(key["learning_rate"], args.weight_decay, updates, warmup=warmup),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    sizes = {name: getattr(args, name) for name in ("context", "batch_size", "steps")}
    start = time.perf_counter()
    curve = model.fit(
        Batches(text.train, seed=key["seed"], **sizes),
        shuffle=False,
        validation_data=held_out(text.validation, args.context),
        validation_batch_size=64,
        epochs=args.epochs,
        verbose=0,
    ).history["val_loss"]
    seconds = time.perf_counter() - start
    test_loss = model.evaluate(*held_out(text.test, args.context), batch_size=64, verbose=0)
    samples = "" if key["seed"] else json.dumps(sample(model, text, args))
    keras.backend.clear_session()
    return {
        "validation_loss": curve[-1],
        "test_loss": test_loss,
        "seconds": round(seconds, 2),
        "curve": folders.curve(curve),
        "samples": samples,
    }


def sample(model, text, args, count=3):
    """Return a few lines that the model writes, each from a newline on."""
    rng, context = np.random.default_rng(0), args.context
    lines = np.full((count, 1), max(text.characters.find("\n"), 0))
    while lines.shape[1] <= args.sample:
        seen = lines[:, -context:]
        # Later tokens are masked, so any padding works.
        padded = np.pad(seen, ((0, 0), (0, context - seen.shape[1]))).astype("int32")
        logits = keras.ops.convert_to_numpy(model.predict_on_batch(padded))[:, seen.shape[1] - 1]
        # The largest of logits plus Gumbel noise is a sample of their softmax.
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        lines = np.append(lines, drawn[:, None], axis=1)
    return [text.decode(line[1:]) for line in lines]


# ---- Comparison ----


def main(argv=None):
    args = parse(argv)
    text = load(args.text, args.context)
    backend = keras.backend.backend()
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings |= {"text": text.name, "digest": text.digest, "backend": backend}
    output = args.output or f"results/language-{backend}"
    runs = folders.Runs(output, settings)

    def run_missing(rates, seeds):
        keys = [("gpt", init, rate, s) for s in seeds for init in args.init for rate in rates[init]]
        run = functools.partial(train, args)
        runs.run_missing(keys, run, lambda r: f"{r['test_loss']:.4f} nats", args.processes)

    seeds = range(args.seeds)
    trial, rest = seeds[: args.rate_seeds], seeds[args.rate_seeds or args.seeds :]
    run_missing(dict.fromkeys(args.init, args.learning_rate), trial)
    pairs = [("gpt", init) for init in args.init]
    best = report.best_rates(runs, pairs, args.learning_rate, trial, "validation_loss")
    run_missing({init: [rate] for (_, init), rate in best.items()}, rest)

    title = (
        f"{text.name}, {len(text.train)} characters for training, {len(text.characters)} symbols; "
        f"{args.epochs * args.steps} steps of {args.batch_size} x {args.context}, width "
        f"{args.width}, depth {args.depth}, {options.PRECISION[args.mixed_precision]}; "
        f"{folders.summary(runs.rows)}"
    )
    shown = {"nats per character": "test_loss"}
    print("\n" + report.table(runs, best, seeds, shown, title, CONTRASTS, digits=3))
    for init in dict.fromkeys((args.init[0], _lowest(runs, best, seeds))):
        (row,) = runs.find(init=init, learning_rate=best["gpt", init], seed=0)
        print(f"Sampled from {init}, seed 0:")
        print("\n".join(f"    {line!r}" for line in json.loads(row["samples"])))
    print(f"\nRuns, table and settings: {runs.folder}/")
    print(f"Picture: {picture(runs, best, seeds, args, title)}")


def _lowest(runs, best, seeds):
    """Return the init with the lowest test loss."""
    losses = {
        pair[1]: statistics.fmean(report.values_of(runs, pair, rate, seeds, "test_loss"))
        for pair, rate in best.items()
    }
    return min(losses, key=losses.__getitem__)


def picture(runs, best, seeds, args, title):
    """Draw validation loss by step, each init at its best rate, and differences in test loss."""
    figure, (left, right) = pictures.panels(2, 5.5, 4.8)
    steps = [args.steps * (epoch + 1) for epoch in range(args.epochs)]
    first = next(iter(best))
    base = report.values_of(runs, first, best[first], seeds, "test_loss")
    differences, colors = {}, {}
    for number, (pair, rate) in enumerate(best.items()):
        init, colors[pair[1]] = pair[1], f"C{number}"
        rows = [r for r in runs.find(init=init, learning_rate=rate) if r["seed"] in seeds]
        curves = [[float(loss) for loss in row["curve"].split()] for row in rows]
        label = f"{init}, {rate:g}"
        pictures.draw_curves(left, curves, color=colors[init], label=label, x=steps)
        if pair != first:
            found = report.values_of(runs, pair, rate, seeds, "test_loss")
            differences[init] = [a - b for a, b in zip(found, base, strict=True)]
    left.set(xlabel="steps", ylabel="validation loss, nats per character")
    left.set_title(f"{_lowest(runs, best, seeds)} ends lowest, n = {len(seeds)}", fontsize=9)
    left.legend(title="init, rate", frameon=False, fontsize=7)
    left.grid(alpha=0.3)
    if differences:
        worse, better = pictures.draw_differences(right, differences, colors)
        heading = f"{better} of {len(differences)} better than {first[1]}, {worse} worse"
        right.set_title(heading, fontsize=9)
    right.set(xlabel=f"test loss minus that of {first[1]}, nats, 95 % t interval")
    return pictures.save(figure, runs.folder / "losses.png", title)


if __name__ == "__main__":
    main()
