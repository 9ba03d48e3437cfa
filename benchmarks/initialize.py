"""What mimetic weights cost: paired attention factors, and `initialize` on whole models.

    KERAS_BACKEND=torch python benchmarks/initialize.py [--repeats 5]

Prints two Markdown tables. The first has processor seconds for the query, key, value
and output weights of one attention layer of ViT-B (width 768, 12 heads), by our
factors and by a full singular value decomposition for every head, with one BLAS
thread each and with NumPy's default for the decomposition. The second has seconds of
the wall clock for `initialize` on a ViT-B/16 and on ConvNeXtTiny, beside those that
Keras takes to build the model.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from keras import layers
from threadpoolctl import threadpool_limits
from timing import header

import keras_mimetic
from keras_mimetic import draws
from keras_mimetic.structures import query_key, value_output


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    size = args.width, args.heads
    print(header(f"One attention layer, width and heads {size}, {args.repeats} rounds"))
    factors(*size, args.repeats)
    print()
    print(header(f"`initialize`, {args.repeats} rounds"))
    whole_models(lambda: vit(*size, args.depth), args.repeats)


def factors(width, heads, repeats):
    ours, one_thread, default = [], [], []
    ours_once(width, heads, seed=0)
    for seed in range(repeats):
        ours.append(processor_seconds(ours_once, width, heads, seed))
        with threadpool_limits(1, user_api="blas"):
            one_thread.append(processor_seconds(full_decompositions, width, heads, seed))
        default.append(processor_seconds(full_decompositions, width, heads, seed))
        # BLAS threads spin a while after their work, on the next one's account.
        time.sleep(0.5)
    print("| way | processor seconds, median | relative to ours, median of rounds |")
    print("|---|---|---|")
    for name, seconds in (
        ("ours", ours),
        ("full SVD a head, one BLAS thread", one_thread),
        ("full SVD a head, NumPy's default threads", default),
    ):
        ratio = statistics.median(a / b for a, b in zip(seconds, ours, strict=True))
        print(f"| {name} | {statistics.median(seconds):.2f} | {ratio:.1f} |")


def ours_once(width, heads, seed):
    shape = (width, width, heads, width // heads)
    query_key(*shape, noise=0.7, identity=0.7, seed=seed)
    value_output(*shape, noise=0.4, identity=-0.4, seed=seed)


def full_decompositions(width, heads, seed):
    """The recipe as it is usually written: `numpy.linalg.svd`, float32."""
    identity = np.eye(width, dtype=np.float32)
    for head in range(heads + 1):  # one for value and output
        z = draws.draw("untruncated_normal", (width, width), draws.subseed(seed, head))
        u, s, vt = np.linalg.svd(np.float32(0.7 / width**0.5) * z + np.float32(0.7) * identity)
        rank = width // heads if head < heads else width
        root = np.sqrt(s[:rank])
        _ = u[:, :rank] * root, root[:, None] * vt[:rank]


def processor_seconds(function, *args):
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def whole_models(make_vit, repeats):
    print("| model | build, s | initialize, s | initialize / build |")
    print("|---|---|---|---|")
    for name, make in (("ViT", make_vit), ("ConvNeXtTiny", convnext_tiny)):
        make()
        build, ours = [], []
        for seed in range(repeats):
            start = time.perf_counter()
            model = make()
            build.append(time.perf_counter() - start)
            start = time.perf_counter()
            keras_mimetic.initialize(model, seed=seed)
            ours.append(time.perf_counter() - start)
        ratio = statistics.median(a / b for a, b in zip(ours, build, strict=True))
        medians = (statistics.median(seconds) for seconds in (build, ours))
        print("| {} | {:.2f} | {:.2f} | {:.1f} |".format(name, *medians, ratio))


def convnext_tiny():
    return keras.applications.ConvNeXtTiny(weights=None)


def vit(width, heads, depth):
    """A ViT with patches of 16 pixels, of Keras's own layers; by default ViT-B/16."""
    inputs = keras.Input((224, 224, 3))
    x = layers.Conv2D(width, 16, strides=16)(inputs)
    x = layers.Reshape((-1, width))(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(1000)(x))


if __name__ == "__main__":
    main()
