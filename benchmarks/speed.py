"""What mimetic weights cost, beside Keras's own and beside the obvious way: one table.

    KERAS_BACKEND=jax python benchmarks/speed.py
    KERAS_BACKEND=jax python benchmarks/speed.py --part draws import --repeats 6

Prints a Markdown table for this backend. Times are medians, of the wall clock where a
row does not say otherwise; `ratio` is the median of ours / beside over rounds that
alternate between the two. What a large allocation costs varies much from one round to the
next, so `fastest rounds` compares the fastest of each. Let nothing else use the machine.
"""

import argparse
import functools
import os
import subprocess
import sys
import time

import keras
import numpy as np
from keras import layers
from threadpoolctl import threadpool_limits
from timing import Row, header, rounds, seconds, table_head

import keras_mimetic
from keras_mimetic._numerics.attention import query_key, value_output
from keras_mimetic._numerics.random import DISTRIBUTIONS, fold_in, sample
from keras_mimetic.initializers import MimeticMean
from keras_mimetic.layers import MimeticMLPBlock


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = functools.partial(parser.add_argument, type=int)
    add("--part", type=str, nargs="+", choices=PARTS, default=list(PARTS), help="[all]")
    add("--repeats", help="rounds of every row [each part's own number]")
    add("--shape", nargs="+", default=[4096, 16384], help="of the weight drawn %(default)s")
    for name, default in (("width", 768), ("heads", 12), ("depth", 12)):
        add(f"--{name}", default=default, help="of the ViT and its attention [%(default)s]")
    add("--widths", nargs="+", default=[256, 512, 1024, 2048], help="of growing layers %(default)s")
    sizes = "width, depth, tokens and batch of the MLP blocks %(default)s"
    add("--block", nargs=4, default=[256, 4, 64, 32], help=sizes)
    args = parser.parse_args()

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
        ours = MimeticMean(distribution=distribution, seed=0)
        times = rounds(lambda i=ours: wait(i(shape)), lambda: wait(normal(shape)), repeats)
        what = f"`MimeticMean`, {distribution}, {shape}"
        yield row(what, "`RandomNormal`", times, aim=1.0)


def attention(args, repeats):
    shape = (args.width, args.width, args.heads, args.width // args.heads)

    def ours():
        query_key(*shape, noise=0.7, identity=0.7, seed=0)
        value_output(*shape, noise=0.4, identity=-0.4, seed=0)

    def default_threads():
        full_decompositions(args.width, args.heads)

    def one_thread():
        with threadpool_limits(1, user_api="blas"):
            default_threads()

    what = f"attention weights, width {args.width}, {args.heads} heads, processor time"
    for beside, theirs in (
        ("full SVD a head, one BLAS thread", one_thread),
        ("full SVD a head, NumPy's default threads", default_threads),
    ):
        times = rounds(ours, theirs, repeats, clock=time.process_time, pause=0.5)
        yield row(what, beside, times, aim=0.03)
    yield growth(args.widths, args.width // args.heads, repeats)


def growth(widths, head_dim, repeats):
    """What the attention weights of the widest layer take, and how that grows with width."""
    medians = []
    for width in widths:
        shape = (width, width, width // head_dim, head_dim)
        times = []
        for seed in range(repeats + 1):
            start = time.process_time()
            query_key(*shape, noise=0.7, identity=0.7, seed=seed)
            value_output(*shape, noise=0.4, identity=-0.4, seed=seed)
            times.append(time.process_time() - start)
        # The first has the decomposition that all share.
        medians.append(np.median(times[1:]))
    exponent = np.polyfit(np.log(widths), np.log(medians), 1)[0]
    what = (
        f"attention weights, width {widths[-1]}, heads of {head_dim}, processor time; "
        f"grows as width^{exponent:.1f} from {widths[0]}, first layer {seconds(times[0])}"
    )
    return Row(what, times[1:])


def initialize(args, repeats):
    for name, make, aim in (
        (f"ViT, width {args.width}, depth {args.depth}", functools.partial(vit, args), 2.0),
        ("ConvNeXtTiny", lambda: keras.applications.ConvNeXtTiny(weights=None), 1.0),
    ):
        built = []

        def build(make=make, built=built):
            built[:] = [make()]

        def ours(built=built):
            keras_mimetic.initialize(*built, seed=0)

        yield row(f"`initialize`, {name}", "building the model", rounds(ours, build, repeats))
        times = []
        for _ in range(repeats + 1):
            start = time.process_time()
            keras_mimetic.measure(*built)
            times.append(time.process_time() - start)
        # The first keeps what it drew for the next.
        what = f"`measure`, {name}, processor time; first call {seconds(times[0])}"
        yield Row(what, times[1:], aim=aim)


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
        both = (functools.partial(step, model) for model in (ours, hand))
        what = f"`MimeticMLPBlock`, {name}, {depth} of width {width}, {batch} x {tokens} tokens"
        yield row(what, "layers by hand", rounds(*both, repeats, warm=3), aim=1.02)


def imports(args, repeats):
    script = (
        "import keras, time; start = time.perf_counter(); import keras_mimetic; "
        "print(time.perf_counter() - start)"
    )

    # As an installed package is imported: from bytecode, which the first time writes.
    env = {key: os.environ[key] for key in os.environ if key != "PYTHONDONTWRITEBYTECODE"}

    def once():
        command = [sys.executable, "-c", script]
        finished = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE)
        return float(finished.stdout.split()[-1])

    once()
    what = "`import keras_mimetic` after `import keras`"
    yield Row(what, [once() for _ in range(repeats)], aim=0.05)


# What gives a part's rows, and how many rounds it needs.
PARTS = {
    "draws": (draws, 15),
    "attention": (attention, 7),
    "initialize": (initialize, 7),
    "block": (block, 40),
    "import": (imports, 11),
}


def row(what, beside, times, **bounds):
    ours, theirs = times
    return Row(what, ours, beside, theirs, **bounds)


def wait(tensor):
    """Until the values are there: JAX and GPUs return before they are."""
    getattr(tensor, "block_until_ready", lambda: None)()
    if keras.backend.backend() == "torch" and tensor.is_cuda:
        import torch

        torch.cuda.synchronize()


def full_decompositions(width, heads):
    """The recipe as it is usually written: `numpy.linalg.svd`, float32."""
    identity = np.eye(width, dtype=np.float32)
    for head in range(heads + 1):  # one for value and output
        z = sample("untruncated_normal", (width, width), fold_in(0, head))
        u, s, vt = np.linalg.svd(np.float32(0.7 / width**0.5) * z + np.float32(0.7) * identity)
        rank = width // heads if head < heads else width
        root = np.sqrt(s[:rank])
        _ = u[:, :rank] * root, root[:, None] * vt[:rank]


def vit(args):
    """A ViT with patches of 16 pixels, of Keras's own layers; by default ViT-B/16."""
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
