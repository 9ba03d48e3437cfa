"""How fast weights are drawn, beside Keras's own initializers on this backend.

    KERAS_BACKEND=jax python benchmarks/draws.py [--shape 4096 16384] [--repeats 9]

Prints a Markdown table: seconds for one weight, and relative to
`keras.initializers.RandomNormal` the median and the fastest round. Rounds
alternate between the rows, so that a noisy machine slows all of them; what a
large allocation costs still varies much from one round to the next (huge
pages), and the fastest round shows the work itself.
"""

import argparse
import statistics

import keras
from timing import alternate, header

from keras_mimetic.draws import DISTRIBUTIONS
from keras_mimetic.initializers import MimeticMean


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--repeats", type=int, default=9)
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
    print(header(f"float32 weight of shape {shape}, {args.repeats} rounds"))
    print("| initializer | seconds, median | relative to RandomNormal | fastest rounds |")
    print("|---|---|---|---|")
    reference = seconds["keras RandomNormal"]
    for name, values in seconds.items():
        median, fastest = statistics.median(values), min(values)
        print(
            f"| {name} | {median:.3f} | {median / statistics.median(reference):.2f} "
            f"| {fastest / min(reference):.2f} |"
        )


def wait(tensor):
    """Until the values are there: JAX and GPUs return before they are."""
    getattr(tensor, "block_until_ready", lambda: None)()
    if keras.backend.backend() == "torch" and tensor.is_cuda:
        import torch

        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
