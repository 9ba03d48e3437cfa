"""Compare initial weights of causal language models when each token is seen once.

    KERAS_BACKEND=jax python benchmarks/language_once.py --model gpt2 llama --seeds 5

The text is the docstrings of installed packages, each paragraph once, as tokens of a byte-pair
encoding of its training part. The models are KerasHub's GPT-2 (with residual projections smaller by
the square root of twice the depth, as published) and Llama (rotary positions, RMSNorm, SwiGLU,
grouped queries), both small. All initial weights of a seed see the same batches in one pass.
Needs keras-hub, tokenizers and the packages of `PACKAGES`.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import math
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import options

PACKAGES = ("numpy", "scipy", "networkx")
CHARACTERS = 6_200_000  # The first of them.
MODELS = ("gpt2", "llama")
_VALUE_OUTPUT = {"attention": {"query_key": None, "value_output": (0.4, -0.4)}}
_NOISE = {"attention": {"query_key": None, "value_output": (0.4, 0.0)}}
# Arguments of `initialize`; None keeps the model's own weights.
INITS = {
    "default": None,
    "value_output": {"structures": _VALUE_OUTPUT},
    "control": {"structures": _VALUE_OUTPUT, "control": True},
    "noise": {"structures": _NOISE},
    # Kernels of Keras's default, without structure.
    "glorot": {"structures": "depthwise", "rules": {"kernel$": "glorot_uniform"}},
    "mean": {"structures": {"mlp": {"mean": -1.0, "hidden_bias": None}}},
    "bias": {"structures": {"mlp": {"mean": None, "hidden_bias": -0.5}}},
    "all": {"structures": {**_VALUE_OUTPUT, "mlp": {"mean": -1.0, "hidden_bias": -0.5}}},
}
CONTRASTS = (
    *(("value_output", other) for other in ("control", "glorot", "noise")),
    *(("all", other) for other in ("value_output", "control", "glorot")),
)
SIZES = {"vocabulary": 1024, "context": 64, "batch_size": 32, "width": 64, "depth": 4, "heads": 4}


def parse(argv=None):
    parser, add = options.parser(__doc__)
    add("--model", nargs="+", choices=MODELS, default=[*MODELS], help="models [both]")
    inits = f"{', '.join(INITS)}; differences are to the first"
    add("--init", nargs="+", choices=INITS, default=["default", "value_output"], help=inits)
    add("--learning-rate", nargs="+", type=options.positive(float), default=[4e-3], help="peaks")
    add("--first-seed", type=int, default=0, help="the first seed [%(default)s]")
    add("--seeds", type=options.positive(int), default=5, help="paired seeds [%(default)s]")
    trial = "seeds that try every rate; the others take an init's best of these [all]"
    add("--rate-seeds", type=options.positive(int), help=trial)
    options.add_output(add, "results/language-once-BACKEND")
    return parser.parse_args(argv)


if __name__ == "__main__":
    options.start(parse)

import keras
import numpy as np

import keras_mimetic
from common import folders, report, training


def collect(packages=PACKAGES):
    """Return the paragraphs of all docstrings, without repetitions, and the packages' versions."""
    versions, paragraphs = [], {}
    for name in packages:
        root = pathlib.Path(importlib.util.find_spec(name).origin).parent
        (distribution,) = {*importlib.metadata.packages_distributions()[name]}
        versions.append(f"{distribution} {importlib.metadata.version(distribution)}")
        for path in sorted(root.rglob("*.py")):
            if "tests" not in path.parts:
                found = (part for text in _docstrings(path) for part in text.split("\n\n"))
                paragraphs.update(dict.fromkeys(found))
    return "\n\n".join(part for part in paragraphs if part.strip()), ", ".join(versions)


def _docstrings(path):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    try:
        nodes = ast.walk(ast.parse(path.read_bytes()))
    except SyntaxError:  # Of a newer Python, or a template.
        return []
    return [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]


@functools.lru_cache(maxsize=1)
def load():
    """Return windows of tokens for training, validation and test, and a title of the text."""
    import tokenizers

    text, versions = collect()
    text = text[:CHARACTERS]
    end = round(0.9 * len(text))
    encoding = tokenizers.Tokenizer(tokenizers.models.BPE())
    encoding.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=SIZES["vocabulary"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    paragraphs = text[:end].split("\n\n"), text[end:].split("\n\n")
    encoding.train_from_iterator(paragraphs[0], trainer)
    train, held_out = (_windows(encoding, part) for part in paragraphs)
    digest = hashlib.sha256(train.tobytes() + held_out.tobytes()).hexdigest()[:16]
    title = f"{len(text) / 1e6:.1f} MB of docstrings ({versions}), {train[:, 1:].size} tokens"
    half = len(held_out) // 2
    return {"train": train, "validation": held_out[:half], "test": held_out[half:]}, title, digest


def _windows(encoding, paragraphs):
    """Return tokens as windows of one more than the context: int32 (windows, context + 1)."""
    encoded = encoding.encode_batch([f"{part}\n\n" for part in paragraphs])
    tokens = np.concatenate([np.array(part.ids, np.int32) for part in encoded])
    size = SIZES["context"] + 1
    return tokens[: len(tokens) // size * size].reshape(-1, size)


def build(name, init, seed):
    """Return a causal language model with logits for each token."""
    import keras_hub

    keras.utils.set_random_seed(seed)
    common = {
        "vocabulary_size": SIZES["vocabulary"],
        "num_layers": SIZES["depth"],
        "hidden_dim": SIZES["width"],
        "dropout": 0.0,
    }
    if name == "gpt2":
        backbone = keras_hub.models.GPT2Backbone(
            num_heads=SIZES["heads"],
            intermediate_dim=4 * SIZES["width"],
            max_sequence_length=SIZES["context"],
            **common,
        )
        for weight in backbone.weights:
            if weight.path.endswith(("attention_output/kernel", "output_dense/kernel")):
                weight.assign(weight / math.sqrt(2 * SIZES["depth"]))
    else:
        backbone = keras_hub.models.LlamaBackbone(
            num_query_heads=SIZES["heads"],
            num_key_value_heads=SIZES["heads"] // 2,
            intermediate_dim=8 * SIZES["width"] // 3,
            **common,
        )
    tokens = keras.Input((SIZES["context"],), dtype="int32")
    x = backbone({"token_ids": tokens, "padding_mask": keras.ops.ones_like(tokens)})
    model = keras.Model(tokens, backbone.token_embedding(x, reverse=True))
    if INITS[init] is not None:
        keras_mimetic.initialize(model, seed=seed, **INITS[init])
    return model


def run(key):
    """Return the results of one run, by column of runs.csv."""
    windows, _, _ = load()
    batch = SIZES["batch_size"]
    model = build(key["model"], key["init"], key["seed"])
    order = np.random.default_rng(key["seed"]).permutation(len(windows["train"]) // batch * batch)
    steps = len(order) // batch
    model.compile(
        training.adamw(key["learning_rate"], 0.1, steps, warmup=steps // 10),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    begin = time.perf_counter()
    train = windows["train"][order]
    history = model.fit(train[:, :-1], train[:, 1:], batch_size=batch, shuffle=False, verbose=0)
    seconds = time.perf_counter() - begin
    losses = {
        f"{part}_loss": model.evaluate(
            windows[part][:, :-1], windows[part][:, 1:], batch_size=256, verbose=0
        )
        for part in ("validation", "test")
    }
    keras.backend.clear_session()
    curve = folders.curve(history.history["loss"])
    return {**losses, "seconds": round(seconds, 2), "curve": curve}


def main(argv=None):
    args = parse(argv)
    _, text, digest = load()
    settings = {**SIZES, "digest": digest, "text": text, "backend": keras.backend.backend()}
    output = args.output or f"results/language-once-{keras.backend.backend()}"
    runs = folders.Runs(output, settings)
    pairs = [(model, init) for model in args.model for init in args.init]

    def run_missing(rates, seeds):
        keys = [(*pair, rate, seed) for seed in seeds for pair in pairs for rate in rates[pair]]
        runs.run_missing(keys, run, lambda results: f"{results['test_loss']:.4f} nats")

    seeds = range(args.first_seed, args.first_seed + args.seeds)
    trial = seeds[: args.rate_seeds]
    run_missing(dict.fromkeys(pairs, args.learning_rate), trial)
    best = report.best_rates(runs, pairs, args.learning_rate, trial, "validation_loss")
    run_missing({pair: [rate] for pair, rate in best.items()}, seeds[len(trial) :])
    title = f"{text}, each seen once; {folders.summary(runs.rows)}"
    compared = seeds[len(trial) :] or trial
    shown = {"nats per token": "test_loss"}
    rates = rates_of(runs, compared)
    print("\n" + report.table(runs, rates, compared, shown, title, CONTRASTS, digits=3))


def rates_of(runs, seeds):
    """Return the best rate of each (model, init) of the folder that was run on all of these seeds.

    An earlier call may have made the runs.
    """
    losses = {}
    for row in runs.rows:
        if row["seed"] in seeds:
            by_rate = losses.setdefault((row["model"], row["init"]), {})
            by_rate.setdefault(row["learning_rate"], []).append(row["validation_loss"])
    whole = {
        pair: {rate: sum(found) for rate, found in by_rate.items() if len(found) == len(seeds)}
        for pair, by_rate in losses.items()
    }
    return {pair: min(by_rate, key=by_rate.get) for pair, by_rate in whole.items() if by_rate}


if __name__ == "__main__":
    main()
