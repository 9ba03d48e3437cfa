"""What `MimeticMLPBlock` costs beside the same layers written by hand.

    KERAS_BACKEND=jax python benchmarks/mlp_block.py [--width 256] [--repeats 40]

Forward pass (`predict_on_batch`) and training step (`train_on_batch`) of a
stack of pre-norm residual MLPs. Rounds alternate between the two models, which
have equal weights; the ratio of each round is taken, and its median printed
with a 95 % interval (order statistics).
"""

import argparse
import statistics
import time

import keras
import numpy as np
from timing import header

from keras_mimetic.layers import MimeticMLPBlock


def by_hand(x, width):
    y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    y = keras.layers.Dense(4 * width, activation="gelu")(y)
    y = keras.layers.Dense(width)(y)
    return keras.layers.Add()([x, y])


def block(x, width):
    return MimeticMLPBlock(4 * width, norm="layer_norm", residual=True)(x)


def stack(layer, args):
    inputs = x = keras.Input((args.tokens, args.width))
    for _ in range(args.depth):
        x = layer(x, args.width)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    for name, default in (("width", 256), ("depth", 4), ("tokens", 64), ("batch", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()

    hand, ours = stack(by_hand, args), stack(block, args)
    hand.set_weights(ours.get_weights())
    x = np.random.default_rng(0).normal(size=(args.batch, args.tokens, args.width))
    x = x.astype("float32")
    print(
        header(
            f"{args.depth} MLPs, width {args.width}, {args.batch} x {args.tokens} tokens, "
            f"{args.repeats} rounds"
        )
    )
    print("| pass | by hand, ms | block / by hand | 95 % interval |\n|---|---|---|---|")
    for name, step in (
        ("forward", lambda model: model.predict_on_batch(x)),
        ("training step", lambda model: model.train_on_batch(x, x)),
    ):
        ratios, base = compare(step, hand, ours, args.repeats)
        low, high = interval(ratios)
        print(
            f"| {name} | {1e3 * base:.1f} | {statistics.median(ratios):.3f} "
            f"| {low:.3f} to {high:.3f} |"
        )


def compare(step, hand, ours, repeats):
    """The ratios of `repeats` rounds and the median time by hand."""
    for model in (hand, ours) * 3:
        step(model)
    ratios, base = [], []
    for round_ in range(repeats):
        times = {}
        # The order alternates too: whoever is second may find a warmer cache.
        for model in (hand, ours) if round_ % 2 else (ours, hand):
            start = time.perf_counter()
            step(model)
            times[model is ours] = time.perf_counter() - start
        ratios.append(times[True] / times[False])
        base.append(times[False])
    return ratios, statistics.median(base)


def interval(values):
    """A distribution-free 95 % interval of the median."""
    from scipy.stats import binom

    ordered = sorted(values)
    cut = int(binom.ppf(0.025, len(ordered), 0.5))
    return ordered[max(0, cut - 1)], ordered[min(len(ordered) - 1, len(ordered) - cut)]


if __name__ == "__main__":
    main()
