"""How fast weights are drawn, beside Keras's own initializers on this backend.

    KERAS_BACKEND=jax python benchmarks/draws.py [--shape 4096 16384] [--repeats 5]

Prints a Markdown table: seconds for one weight (median; the rounds alternate
between the rows, so that a noisy machine slows all of them) and the time
relative to `keras.initializers.RandomNormal`.
"""

import argparse

import keras
from timing import alternate, header

from keras_mimetic.draws import DISTRIBUTIONS
from keras_mimetic.initializers import MimeticMean


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    rows = {
        "keras RandomNormal": keras.initializers.RandomNormal(seed=0),
        "keras GlorotUniform": keras.initializers.GlorotUniform(seed=0),
        **{f"MimeticMean, {d}": MimeticMean(distribution=d, seed=0) for d in DISTRIBUTIONS},
    }
    shape = tuple(args.shape)
    seconds = alternate(
        {name: lambda i=i: wait(i(shape)) for name, i in rows.items()}, args.repeats
    )
    reference = seconds["keras RandomNormal"]
    print(header(f"float32 weight of shape {shape}, median of {args.repeats}"))
    print("| initializer | seconds | relative to RandomNormal |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.3f} | {value / reference:.2f} |")


def wait(tensor):
    """Until the values are there: JAX and GPUs return before they are."""
    getattr(tensor, "block_until_ready", lambda: None)()
    if keras.backend.backend() == "torch" and tensor.is_cuda:
        import torch

        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
