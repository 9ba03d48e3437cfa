"""Measure what mimetic weights cost, beside Keras's own and beside the obvious way.

    KERAS_BACKEND=jax python benchmarks/speed.py
    KERAS_BACKEND=jax python benchmarks/speed.py --part draws import --repeats 6

Prints a Markdown table for this backend. Times are medians of processor time, summed over threads,
unless a row says "wall clock". `ratio` is the median of ours / beside over rounds that alternate
between the two. What a large allocation costs varies much between rounds, so `fastest rounds`
compares the fastest of each. The wall clock means little on a busy machine: the head of the table
has its load.
"""

import functools
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import options

# The names of `PARTS`, whose functions come with Keras.
NAMES = ("draws", "attention", "initialize", "block", "import")


def parse(argv=None):
    parser, add = options.parser(__doc__)
    whole = {"type": options.positive(int)}
    parts = f"{', '.join(NAMES)} [all]"
    add("--part", nargs="+", choices=NAMES, default=list(NAMES), help=parts)
    add("--repeats", **whole, help="rounds of every row [each part's own number]")
    shape = "of the weight drawn %(default)s"
    add("--shape", **whole, nargs="+", default=[4096, 16384], help=shape)
    for name, default in (("width", 768), ("heads", 12), ("depth", 12)):
        text = "of the ViT and its attention [%(default)s]"
        add(f"--{name}", **whole, default=default, help=text)
    wide = "width and heads of a wide attention layer %(default)s"
    add("--wide", **whole, nargs=2, default=[4096, 32], help=wide)
    sizes = "width, depth, tokens and batch of the MLP blocks %(default)s"
    add("--block", **whole, nargs=4, default=[256, 4, 64, 32], help=sizes)
    return parser.parse_args(argv)


if __name__ == "__main__":
    options.start(parse)

import keras
import numpy as np
from keras import layers
from threadpoolctl import threadpool_limits

import keras_mimetic
from keras_mimetic._numerics.attention import sample_pair
from keras_mimetic._numerics.random import DISTRIBUTIONS, fold_in, sample
from keras_mimetic.initializers import MimeticMean
from keras_mimetic.layers import MimeticMLPBlock
from lib.timing import Row, alone, compare, header, table_head, wait


def main(argv=None):
    args = parse(argv)
    print(header("Speed"))
    print(table_head())
    for part in args.part:
        rows, repeats = PARTS[part]
        for row in rows(args, args.repeats or repeats):
            print(row, flush=True)


def draws(args, repeats):
    shape = tuple(args.shape)
    normal = keras.initializers.RandomNormal(seed=0)
    for distribution in DISTRIBUTIONS:
        what = f"`MimeticMean`, {distribution}, {shape}"
        mimetic = MimeticMean(distribution=distribution, seed=0)
        ours, theirs = (functools.partial(draw, x, shape) for x in (mimetic, normal))
        yield from compare(what, ours, "`RandomNormal`", theirs, repeats, aim=1.0)


def draw(initializer, shape):
    wait(initializer(shape))


def attention(args, repeats):
    ours = functools.partial(one_layer, args.width, args.heads)
    theirs = functools.partial(full_decompositions, args.width, args.heads)
    what = f"attention weights, width {args.width}, {args.heads} heads"
    yield from compare(what, ours, "full SVD a head, one BLAS thread", theirs, repeats, aim=0.03)
    width, heads = args.wide
    wide = functools.partial(one_layer, width, heads)
    # The first call includes the decomposition that all layers share.
    what = f"attention weights, width {width}, {heads} heads"
    yield from alone(what, wide, min(repeats, 3), aim=5.0)


def one_layer(width, heads):
    """Draw all attention weights of a layer."""
    head_dim = width // heads
    inner, outer = (width, heads, head_dim), (heads, head_dim, width)
    sample_pair("query_key", inner, inner, noise=0.7, identity=0.7, seed=0)
    sample_pair("value_output", inner, outer, noise=0.4, identity=-0.4, seed=0)


def full_decompositions(width, heads):
    """Compute the recipe as it is usually written: `numpy.linalg.svd`, float32."""
    identity = np.eye(width, dtype=np.float32)
    with threadpool_limits(1, user_api="blas"):
        for head in range(heads + 1):  # one for value and output
            z = sample("untruncated_normal", (width, width), fold_in(0, head))
            u, s, vt = np.linalg.svd(np.float32(0.7 / width**0.5) * z + np.float32(0.7) * identity)
            rank = width // heads if head < heads else width
            root = np.sqrt(s[:rank])
            _ = u[:, :rank] * root, root[:, None] * vt[:rank]


def initialize(args, repeats):
    for name, make, aim in (
        (f"ViT, width {args.width}, depth {args.depth}", functools.partial(vit, args), (1.5, 2.0)),
        ("ConvNeXtTiny", lambda: keras.applications.ConvNeXtTiny(weights=None), (1.0, 1.0)),
    ):
        built = []

        def build(make=make, built=built):
            built[:] = [make()]

        def ours(built=built):
            keras_mimetic.initialize(*built, seed=0)

        what, beside = f"`initialize`, {name}", "building the model"
        yield from compare(what, ours, beside, build, repeats, aim=aim[0])
        # The first call caches samples for the next.
        measure = functools.partial(keras_mimetic.measure, *built)
        yield from alone(f"`measure`, {name}", measure, repeats, aim=aim[1])


def block(args, repeats):
    width, depth, tokens, batch = args.block

    def stack(layer):
        inputs = x = keras.Input((tokens, width))
        for _ in range(depth):
            x = layer(x)
        model = keras.Model(inputs, x)
        model.compile("sgd", "mse")
        return model

    def by_hand(x):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        return layers.Add()([x, layers.Dense(width)(y)])

    ours = stack(lambda x: MimeticMLPBlock(4 * width, norm="layer_norm", residual=True)(x))
    hand = stack(by_hand)
    hand.set_weights(ours.get_weights())
    x = np.random.default_rng(0).normal(size=(batch, tokens, width)).astype("float32")
    for name, step in (
        ("forward", lambda model: model.predict_on_batch(x)),
        ("training step", lambda model: model.train_on_batch(x, x)),
    ):
        what = f"`MimeticMLPBlock`, {name}, {depth} of width {width}, {batch} x {tokens} tokens"
        mine, other = (functools.partial(step, model) for model in (ours, hand))
        yield from compare(what, mine, "layers by hand", other, repeats, aim=1.02, warm=3)


def imports(args, repeats):
    script = (
        "import keras, time; start = time.process_time(); import keras_mimetic; "
        "print(time.process_time() - start)"
    )

    # An installed package is imported from bytecode, which the first time writes.
    env = {key: os.environ[key] for key in os.environ if key != "PYTHONDONTWRITEBYTECODE"}

    def once():
        command = [sys.executable, "-c", script]
        finished = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE)
        return float(finished.stdout.split()[-1])

    once()
    what = "`import keras_mimetic` after `import keras`"
    yield Row(what, [once() for _ in range(repeats)], aim=0.03)


# A function that yields the rows of a part, and how many rounds it needs.
PARTS = {
    "draws": (draws, 15),
    "attention": (attention, 7),
    "initialize": (initialize, 7),
    "block": (block, 40),
    "import": (imports, 11),
}


def vit(args):
    """Return a ViT built from Keras layers with 16-pixel patches; ViT-B/16 by default."""
    width = args.width
    inputs = keras.Input((224, 224, 3))
    x = layers.Conv2D(width, 16, strides=16)(inputs)
    x = layers.Reshape((-1, width))(x)
    for _ in range(args.depth):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(args.heads, width // args.heads)(y, y)])
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(1000)(x))


if __name__ == "__main__":
    main()
