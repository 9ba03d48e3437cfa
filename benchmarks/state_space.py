"""Measure a selective state space by the length of the sequence, beside that of transformers.

    KERAS_BACKEND=torch python benchmarks/state_space.py
    KERAS_BACKEND=jax python benchmarks/state_space.py --lengths 256 1024 4096

Measures the forward pass of `MimeticStateSpace` and a training step: the gradients of the mean
square of its outputs. On torch they are compared with `Mamba2Mixer` of Hugging Face's transformers
(its PyTorch code, unless its kernels for GPUs are installed) in each of the given chunk sizes. It
has the same weights, and outputs that are equal to 1e-4, which is checked first. JAX and TensorFlow
compile.

Prints a Markdown table for this backend, with medians of processor time, summed over threads, and
of the wall clock. `ratio` is the median of ours / beside over rounds that alternate between the
two. Let nothing else use the machine.
"""

import functools
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import options


def parse(argv=None):
    parser, add = options.parser(__doc__)
    whole = {"type": options.positive(int)}
    lengths = [2**power for power in range(8, 14)]
    add("--lengths", **whole, nargs="+", default=lengths, help="of the sequence %(default)s")
    for name, default, what in (
        ("width", 256, "channels of the input"),
        ("state-dim", 64, "channels of b and c"),
        ("head-dim", 64, "channels of x in each head"),
        ("batch", 1, "sequences"),
        ("repeats", 11, "rounds of each comparison"),
    ):
        add(f"--{name}", **whole, default=default, help=f"{what} [%(default)s]")
    chunks = "of transformers %(default)s"
    add("--their-chunks", **whole, nargs="*", default=[32, 64], help=chunks)
    return parser.parse_args(argv)


if __name__ == "__main__":
    options.start(parse)

import numpy as np
from keras import ops

from keras_mimetic.layers import MimeticStateSpace
from lib.state_space_layers import functions, mixer, mixer_version
from lib.timing import alone, compare, header, table_head, wait


def main(argv=None):
    args = parse(argv)
    sizes = f"width {args.width}, state_dim {args.state_dim}, head_dim {args.head_dim}"
    version = mixer_version()
    beside = f"beside transformers {version}" if version else "without transformers"
    print(header(f"State space, {sizes}, batch {args.batch}, {beside}"))
    print(table_head())
    layer = MimeticStateSpace(args.state_dim, args.head_dim, seed=0)
    layer.build((None, None, args.width))
    ours = functions(layer)
    chunks = args.their_chunks if version else []
    theirs = {f"transformers, chunks of {chunk}": mixer(layer, chunk) for chunk in chunks}
    others = {name: functions(model) for name, model in theirs.items()}
    for length in args.lengths:
        x = inputs(length, args)
        check_equal(ours, others, x)
        for kind in ours:
            for row in rows(kind, ours, others, x, args.repeats):
                print(row, flush=True)


def rows(kind, ours, others, x, repeats):
    """Yield the rows of a length: beside each of the others, or alone if there are none."""
    what = f"{kind}, length {x.shape[1]}"
    call = functools.partial(to_the_end, ours[kind], x)
    for beside, other in others.items():
        theirs = functools.partial(to_the_end, other[kind], x)
        yield from compare(what, call, beside, theirs, repeats)
    if not others:
        yield from alone(what, call, repeats)


def inputs(length, args):
    values = np.random.default_rng(0).normal(size=(args.batch, length, args.width))
    return ops.convert_to_tensor(values.astype("float32"))


def to_the_end(function, x):
    wait(function(x))


def check_equal(ours, others, x):
    """Raise `AssertionError` unless all outputs are equal to ours."""
    expected = ops.convert_to_numpy(ours["forward"](x))
    for name, other in others.items():
        outputs = ops.convert_to_numpy(other["forward"](x))
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4, err_msg=name)


if __name__ == "__main__":
    main()
