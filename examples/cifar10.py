"""Train small image models from different initial weights and compare them.

    python examples/cifar10.py                          # embedded digits, CPU, a minute
    python examples/cifar10.py --dataset cifar10 --model convnext --init default control all
    KERAS_BACKEND=torch python examples/cifar10.py --dataset cifar10 --mixed-precision bfloat16

The same file runs on every backend that KERAS_BACKEND names. Comparisons are paired: for one
seed, all initializations share the order of the images, their augmentation, and every weight
that they do not replace. "control" has the norms of the structured weights, but no structure.
"""

from common import script

if __name__ == "__main__":
    script.catch_signals("the same command goes on with what is missing")

import argparse
import time

from common import options


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.adder(parser)
    options.add_data(add, parser)
    names = f"{', '.join(options.MODELS)} [vit]"
    add("--model", nargs="+", choices=options.MODELS, default=["vit"], help=names)
    inits = f"{options.INITS_HELP} [default all]"
    add("--init", nargs="+", choices=options.INITS, default=["default", "all"], help=inits)
    add("--seeds", type=options.positive(int), default=3, help="paired seeds, from 0 [%(default)s]")
    rates = "peak rates; of several the best on the validation images is reported [0.002]"
    add("--learning-rate", nargs="+", type=options.positive(float), default=[2e-3], help=rates)
    options.add_training(add, epochs=6)
    add("--output", type=options.text, help="folder for the results [results/DATASET-BACKEND]")
    args = parser.parse_args(argv)
    for name in ("model", "init", "learning_rate"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    options.resolve(args)
    return args


if __name__ == "__main__":
    # Before the import of Keras, which takes seconds: --help and errors come at once.
    parse()

import keras

import keras_mimetic
from common import comparison, data, environment, folders, models, report
from common.blocks import SinCosPositions
from common.training import INITS, adamw, evaluate, warn_if_diverged
from keras_mimetic._numerics.random import fold_in

# Pairs that the table compares, besides each initialization with the first.
CONTRASTS = [("spatial", "control"), ("all", "spatial"), ("mlp", "bias")]


def vit(image_shape, classes, *, patch=4, width=64, depth=4, heads=2, seed=0):
    """Return a Vision Transformer with fixed sin-cos positions and average pooling.

    The layers are Keras's, from helpers that give each weight a random stream of its own:
    models with equal seeds differ only where `initialize` changes them.
    """
    seeds = models.sub_streams(seed)
    inputs, x = models.stem(image_shape, patch, width, models.glorot(seed=next(seeds)))
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = SinCosPositions()(x)
    x = keras.layers.Reshape((-1, width))(x)
    for _ in range(depth):
        y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        y = models.attention(heads, width // heads, seed=next(seeds))(y, y)
        x = keras.layers.Add()([x, y])
        y = models.mlp(x, 4 * width, models.glorot, seeds)
        x = keras.layers.Add()([x, y])
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    outputs = models.head(x, classes, models.glorot(seed=next(seeds)))
    return keras.Model(inputs, outputs, name="vit")


# The other models are in common/models.py.
MODELS = {**models.MODELS, "vit": vit}


def train(model_name, init, rate, seed, images, args):
    """Return the results of one run, by column of runs.csv."""
    keras.utils.set_random_seed(seed)
    patch = 4 if min(images.shape[:2]) >= 32 else 2
    model = MODELS[model_name](images.shape, images.classes, patch=patch, seed=fold_in(seed, 0))
    if init != "default":
        keras_mimetic.initialize(model, seed=fold_in(seed, 1), **INITS[init])

    augment = args.augment == "on"
    batches = data.Batches(*images.train, batch_size=args.batch_size, seed=seed, augment=augment)
    steps = args.epochs * len(batches)
    model.compile(
        optimizer=adamw(rate, args.weight_decay, steps, warmup=max(1, steps // 10)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=options.JIT[args.jit],
    )
    start = time.perf_counter()
    history = model.fit(
        batches,
        shuffle=False,  # `Batches` shuffles, as a function of the seed.
        epochs=args.epochs,
        validation_data=images.validation,
        validation_batch_size=500,
        verbose=args.verbose,
    ).history
    seconds = time.perf_counter() - start
    warn_if_diverged(history)
    accuracy = evaluate(model, images)
    keras.backend.clear_session()
    return {
        "validation_accuracy": history["val_accuracy"][-1],
        "test_accuracy": accuracy,
        "seconds": round(seconds, 2),
        "curve": comparison.curve(history["val_accuracy"]),
    }


def main(argv=None):
    args = parse(argv)
    if args.dataset == "digits":
        print("Training on scikit-learn's 8x8 digits; --dataset cifar10 trains on CIFAR-10.")
    images = data.from_options(args)
    output = args.output or f"results/{images.name}-{keras.backend.backend()}"
    runs = folders.Runs(output, options.settings(args, images))
    options.set_precision(args)

    for label, key in runs.missing(args.model, args.init, args.learning_rate, args.seeds):
        print(label)
        results = train(*key.values(), images, args)
        runs.add({**key, **results, **environment.current()})

    title = options.headline(args, images, environment.summary(runs.rows))
    shown = (runs, args.model, args.init, args.learning_rate, range(args.seeds), title)
    print("\n" + report.table(*shown, contrasts=CONTRASTS))
    print(f"Runs, table and settings: {runs.folder}/\nPicture: {report.picture(*shown)}")


if __name__ == "__main__":
    script.run(main)
