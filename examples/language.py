"""Train a small character-level GPT from Keras's initial weights and from mimetic ones.

    KERAS_BACKEND=jax python examples/language.py                      # some minutes on a CPU
    KERAS_BACKEND=torch python examples/language.py --text FILE --width 192 --depth 6 --heads 6

The text is the docstrings of Python's standard library, or any file. Training sees each window of
characters once. Both models of a seed see the same batches.
"""

import argparse
import ast
import pathlib
import statistics
import sys
import sysconfig


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", metavar="FILE", type=pathlib.Path, help="text in UTF-8 [the docstrings]")
    add("--seeds", metavar="N", type=int, default=1, help="paired seeds [%(default)s]")
    add("--width", metavar="N", type=int, default=96, help="channels [%(default)s]")
    add("--depth", metavar="N", type=int, default=4, help="blocks [%(default)s]")
    add("--heads", metavar="N", type=int, default=3, help="attention heads [%(default)s]")
    add("--context", metavar="N", type=int, default=64, help="characters seen [%(default)s]")
    add("--batch-size", metavar="N", type=int, default=32, help="windows per step [%(default)s]")
    add("--learning-rate", metavar="X", type=float, default=4e-3, help="peak rate [%(default)s]")
    add(
        "--output",
        metavar="FILE",
        type=pathlib.Path,
        default="language.png",
        help="the picture [%(default)s]",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse()  # Wrong options end here, before Keras is imported, which takes seconds.

import keras
import numpy as np
from keras import layers

import keras_mimetic

# Causal attention gets value and output alone.
STRUCTURES = {
    "attention": {"query_key": None, "value_output": (0.4, -0.4)},
    "mlp": {"mean": -1.0, "hidden_bias": -0.5},
}


def read(path):
    """Return the text of a file, or all docstrings of the standard library, each paragraph once."""
    if path:
        return path.read_text(encoding="utf-8")
    root, paragraphs = pathlib.Path(sysconfig.get_path("stdlib")), {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if parts[0] in sys.stdlib_module_names and not {"test", "tests"} & {*parts}:
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = ast.get_docstring(node) or ""
                    paragraphs.update(dict.fromkeys(text.split("\n\n")))
    return "\n\n".join(paragraphs)


def windows(text, context):
    """Return windows of character numbers, int32 (windows, context + 1), and their count."""
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = np.array([numbers[character] for character in text], "int32")
    size = context + 1
    return tokens[: len(tokens) // size * size].reshape(-1, size), len(numbers)


class Positions(layers.Layer):
    """Add a learned position embedding to a sequence."""

    def build(self, input_shape):
        self.table = self.add_weight(shape=input_shape[1:], initializer="uniform", name="table")

    def call(self, inputs):
        return inputs + self.table


def gpt(symbols, args):
    """Return a GPT: causal attention and MLPs, each after a LayerNorm."""
    tokens = keras.Input((args.context,), dtype="int32")
    x = Positions()(layers.Embedding(symbols, args.width)(tokens))
    for _ in range(args.depth):
        y = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(args.heads, args.width // args.heads)
        x = x + attention(y, y, use_causal_mask=True)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * args.width, "gelu")(y)
        x = x + layers.Dense(args.width)(y)
    return keras.Model(tokens, layers.Dense(symbols)(layers.LayerNormalization()(x)))


def train(init, seed, text, symbols, args):
    """Return the mean training loss up to each tenth of the pass, and the loss on held-out text."""
    keras.utils.set_random_seed(seed)
    model = gpt(symbols, args)
    if init == "mimetic":
        report = keras_mimetic.initialize(model, STRUCTURES, seed=seed)
        if seed == 0:
            print(report)

    parts = np.split(text, [round(0.9 * len(text))])
    steps = len(parts[0]) // args.batch_size
    warmup = max(1, steps // 10)
    rates = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=args.learning_rate, warmup_steps=warmup
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rates, weight_decay=0.05), loss)
    order = np.random.default_rng(seed).permutation(steps * args.batch_size)
    losses = []
    for tenth in np.array_split(order.reshape(steps, -1), min(10, steps)):
        seen = parts[0][tenth.ravel()]
        history = model.fit(
            seen[:, :-1], seen[:, 1:], batch_size=args.batch_size, shuffle=False, verbose=0
        )
        losses.append(history.history["loss"][0])
    test = model.evaluate(parts[1][:, :-1], parts[1][:, 1:], batch_size=256, verbose=0)
    print(f"{init}, seed {seed}: {test:.4f} nats per character on held-out text", flush=True)
    return losses, test


def picture(curves, path):
    """Draw the training loss over the pass: thin for a seed, thick for the mean."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    for color, (init, by_seed) in zip(("0.4", "C1"), curves.items(), strict=True):
        x = (np.arange(len(by_seed[0])) + 1) / len(by_seed[0])
        axis.plot(x, np.transpose(by_seed), color=color, alpha=0.3, linewidth=0.8)
        axis.plot(x, np.mean(by_seed, axis=0), "o-", color=color, label=init)
    axis.set(xlabel="part of the text seen", ylabel="training loss, nats per character")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def main(argv=None):
    args = parse(argv)
    text, symbols = windows(read(args.text), args.context)
    if len(text) < 20 * args.batch_size:
        raise SystemExit(f"The text has {len(text)} windows: too few for training.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    curves, tests = {}, {}
    for init in ("Keras's default", "mimetic"):
        runs = [train(init, seed, text, symbols, args) for seed in range(args.seeds)]
        curves[init], tests[init] = zip(*runs, strict=True)
    before, after = map(statistics.fmean, tests.values())
    print(f"Held-out loss: {before:.4f} from Keras's weights, {after:.4f} from mimetic ones.")
    picture(curves, args.output)
    print(f"Picture: {args.output}")


if __name__ == "__main__":
    main()
