"""Measure what mimetic weights cost, beside Keras's own and beside the obvious way.

    KERAS_BACKEND=jax python benchmarks/speed.py
    KERAS_BACKEND=jax python benchmarks/speed.py --part draws import --repeats 6

Prints a Markdown table for this backend. Times are medians of processor time, summed over threads,
unless a row says "wall clock". `ratio` is the median of ours / beside over rounds that alternate
between the two. What a large allocation costs varies much between rounds, so `fastest rounds`
compares the fastest of each. The wall clock means little on a busy machine: the head of the table
has its load.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import options

# What follows the description of a row, and its clock.
CLOCKS = {"": time.process_time, ", wall clock": time.perf_counter}
# The names of `PARTS`, whose functions come with Keras.
NAMES = ("draws", "attention", "decoder", "initialize", "block", "import")


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
    widths = [256, 512, 1024, 2048, 4096]
    add("--widths", **whole, nargs="+", default=widths, help="of growing layers %(default)s")
    decoder = "layers, width, heads %(default)s"
    add("--decoder", **whole, nargs=3, default=[32, 4096, 32], help=decoder)
    busy = "busy processes beside the second half of draws [%(default)s]"
    add("--busy", type=options.positive(int, zero=True), default=1, help=busy)
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
from lib.timing import Row, header, rounds, seconds, table_head, wait


def main(argv=None):
    args = parse(argv)
    print(header("Speed"))
    print(table_head())
    for part in args.part:
        rows, repeats = PARTS[part]
        for row in rows(args, args.repeats or repeats):
            print(row, flush=True)


def compare(what, ours, beside, theirs, repeats, aim, clocks=("",), **how):
    """Yield a row for each of the `CLOCKS`, all from the same rounds."""
    both = rounds(
        ours, theirs, repeats, clock=lambda: np.array([CLOCKS[name]() for name in clocks]), **how
    )
    for number, name in enumerate(clocks):
        mine, other = ([times[number] for times in found] for found in both)
        yield Row(what + name, mine, beside, other, aim)


def processor_seconds(function, *arguments, **more):
    start = time.process_time()
    function(*arguments, **more)
    return time.process_time() - start


def draws(args, repeats):
    shape = tuple(args.shape)
    normal = keras.initializers.RandomNormal(seed=0)
    for busy in sorted({0, args.busy}):
        beside = "`RandomNormal`" + (f", {busy} busy process beside both" if busy else "")
        with busy_processes(busy):
            for distribution in DISTRIBUTIONS:
                what = f"`MimeticMean`, {distribution}, {shape}"
                mimetic = MimeticMean(distribution=distribution, seed=0)
                ours, theirs = (functools.partial(draw, x, shape) for x in (mimetic, normal))
                yield from compare(what, ours, beside, theirs, repeats, 1.0, CLOCKS)


def draw(initializer, shape):
    wait(initializer(shape))


@contextlib.contextmanager
def busy_processes(count):
    """Let so many other processes compute in this context."""
    # They end with this process, however it ends.
    script = (
        "import numpy as np, os, sys\nx = np.ones((512, 512))\n"
        "while os.getppid() == int(sys.argv[1]): x @ x"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(os.getpid())], env=environment)
        for _ in range(count)
    ]
    try:
        yield
        if any(process.poll() is not None for process in started):
            raise RuntimeError("A busy process ended before the measurement.")
    finally:
        for process in started:
            process.kill()
            process.wait()


def attention(args, repeats):
    shape = (args.width, args.heads, args.width // args.heads)

    def default_threads():
        full_decompositions(args.width, args.heads)

    def one_thread():
        with threadpool_limits(1, user_api="blas"):
            default_threads()

    what = f"attention weights, width {args.width}, {args.heads} heads"
    ours = functools.partial(one_layer, *shape)
    for beside, theirs in (
        ("full SVD a head, one BLAS thread", one_thread),
        ("full SVD a head, NumPy's default threads", default_threads),
    ):
        yield from compare(what, ours, beside, theirs, repeats, 0.03, pause=0.5)
    head_dim = args.width // args.heads
    layers_of_width = {width: (width, width // head_dim, head_dim) for width in args.widths}
    yield growth("width", layers_of_width, f"heads of {head_dim}", repeats)
    widest = max(args.widths)
    heads = {count: (widest, count, widest // count) for count in (8, 16, 32)}
    yield growth("heads", heads, f"width {widest}", repeats, aim=5.0)


def one_layer(width, heads, head_dim, seed=0):
    """Draw all attention weights of a layer."""
    inner, outer = (width, heads, head_dim), (heads, head_dim, width)
    sample_pair("query_key", inner, inner, noise=0.7, identity=0.7, seed=seed)
    sample_pair("value_output", inner, outer, noise=0.4, identity=-0.4, seed=seed)


def growth(name, shapes, rest, repeats, aim=None):
    """Return a row of the time for the attention weights of a layer, and how it grows."""
    medians = []
    for shape in shapes.values():
        seeds = range(min(repeats, 3) + 1)
        times = [processor_seconds(one_layer, *shape, seed=seed) for seed in seeds]
        # The first includes the decomposition that all share.
        medians.append(np.median(times[1:]))
    smallest, *_, largest = shapes
    what = (
        f"attention weights, {name} {largest}, {rest}; grows as "
        f"{name}^{exponent(shapes, medians)} from {smallest}, first layer {seconds(times[0])}"
    )
    return Row(what, times[1:], aim=aim)


def exponent(sizes, medians):
    """Return the slope of a line through the logarithms, for a table."""
    return f"{np.polyfit(np.log(list(sizes)), np.log(medians), 1)[0]:.1f}"


def decoder(args, repeats):
    """Draw all attention weights of a large decoder, one layer at a time."""
    depth, width, heads = args.decoder
    # In a fresh process no other part has set the peak of memory.
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        processor, wall, besides = pool.submit(draw_decoder, *args.decoder).result()
    what = f"attention weights of {depth} layers of width {width} with {heads} heads"
    yield Row(f"{what}; memory besides one layer {besides / 2**30:.2f} GiB", [processor])
    yield Row(f"{what}, wall clock", [wall], aim=240.0)


def draw_decoder(depth, width, heads):
    """Return processor time, wall-clock time, and peak memory besides one layer's weights."""
    before, start = peak_memory(), [clock() for clock in CLOCKS.values()]
    for layer in range(depth):
        one_layer(width, heads, width // heads, seed=layer)
    seconds = [clock() - begin for clock, begin in zip(CLOCKS.values(), start, strict=True)]
    # Query, key, value and output of one layer, float32.
    return *seconds, peak_memory() - before - 4 * 4 * width**2


def peak_memory():
    """Return the peak of this process's memory in bytes."""
    import resource

    # Linux counts kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
        yield from compare(what, ours, beside, build, repeats, aim[0], CLOCKS)
        times = [processor_seconds(keras_mimetic.measure, *built) for _ in range(repeats + 1)]
        # The first call caches samples for the next.
        what = f"`measure`, {name}; first call {seconds(times[0])}"
        yield Row(what, times[1:], aim=aim[1])
    depths = sorted({max(1, args.depth // part) for part in (4, 2, 1)})
    medians = []
    for depth in depths:
        again = functools.partial(keras_mimetic.initialize, vit(args, depth), force=True)
        times = [processor_seconds(again, seed=seed) for seed in range(3)]
        medians.append(np.median(times))
    grows = f"; grows as depth^{exponent(depths, medians)} from {depths[0]}" if depths[1:] else ""
    yield Row(f"`initialize`, ViT, width {args.width}, depth {depths[-1]}, again{grows}", times)


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
        yield from compare(what, mine, "layers by hand", other, repeats, 1.02, warm=3)


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
    "decoder": (decoder, 1),
    "initialize": (initialize, 7),
    "block": (block, 40),
    "import": (imports, 11),
}


def full_decompositions(width, heads):
    """Compute the recipe as it is usually written: `numpy.linalg.svd`, float32."""
    identity = np.eye(width, dtype=np.float32)
    for head in range(heads + 1):  # one for value and output
        z = sample("untruncated_normal", (width, width), fold_in(0, head))
        u, s, vt = np.linalg.svd(np.float32(0.7 / width**0.5) * z + np.float32(0.7) * identity)
        rank = width // heads if head < heads else width
        root = np.sqrt(s[:rank])
        _ = u[:, :rank] * root, root[:, None] * vt[:rank]


def vit(args, depth=None):
    """Return a ViT built from Keras layers with 16-pixel patches; ViT-B/16 by default."""
    width = args.width
    inputs = keras.Input((224, 224, 3))
    x = layers.Conv2D(width, 16, strides=16)(inputs)
    x = layers.Reshape((-1, width))(x)
    for _ in range(depth or args.depth):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(args.heads, width // args.heads)(y, y)])
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(1000)(x))


if __name__ == "__main__":
    main()
