"""Train small image models from different initial weights and compare them.

    KERAS_BACKEND=jax python examples/cifar10.py        # scikit-learn's digits, CPU, a minute
    KERAS_BACKEND=jax python examples/cifar10.py --dataset cifar10 --init default control all
    KERAS_BACKEND=torch python examples/cifar10.py --dataset cifar10 --mixed-precision bfloat16

The same file runs on every backend. Comparisons are paired: for one seed, all initial weights share
the order of the images, their augmentation, and every weight that they do not replace. "control"
has the norms of the structured weights without the structure.
"""

import functools
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from common import options, script


def parse(argv=None):
    parser, add = options.parser(__doc__)
    options.add_data(add)
    names = f"{', '.join(options.MODELS)} [vit]"
    add("--model", nargs="+", choices=options.MODELS, default=["vit"], help=names)
    inits = f"{options.INITS_HELP} [default all]"
    add("--init", nargs="+", choices=options.INITS, default=["default", "all"], help=inits)
    add("--seeds", type=options.positive(int), default=3, help="paired seeds, from 0 [%(default)s]")
    rates = "peak rates; of several the best on the validation images is reported [0.002]"
    add("--learning-rate", nargs="+", type=options.positive(float), default=[2e-3], help=rates)
    options.add_training(add, epochs=6)
    options.add_output(add, "results/DATASET-BACKEND")
    args = options.parse(parser, argv, lists=("model", "init", "learning_rate"))
    options.resolve(args)
    return args


if __name__ == "__main__":
    script.start(parse)

import keras

import keras_mimetic
from common import data, environment, folders, models, pictures, report, training
from common.blocks import SinCosPositions
from keras_mimetic._numerics.random import fold_in


def vit(image_shape, classes, *, patch=4, width=64, depth=4, heads=2, seed=0):
    """Return a Vision Transformer with fixed sin-cos positions and average pooling.

    The layers are Keras's, from helpers that give each weight a random stream of its own: models
    with equal seeds differ only where `initialize` changes them.
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


def train(args, images, key):
    """Return the results of one run, by column of runs.csv."""
    seed, init = key["seed"], key["init"]
    keras.utils.set_random_seed(seed)
    make, patch = MODELS[key["model"]], 4 if min(images.shape[:2]) >= 32 else 2
    model = make(images.shape, images.classes, patch=patch, seed=fold_in(seed, 0))
    if init != "default":
        keras_mimetic.initialize(model, seed=fold_in(seed, 1), **training.INITS[init])

    augment = args.augment == "on"
    batches = data.Batches(*images.train, batch_size=args.batch_size, seed=seed, augment=augment)
    steps = args.epochs * len(batches)
    warmup = max(1, steps // 10)
    model.compile(
        optimizer=training.adamw(key["learning_rate"], args.weight_decay, steps, warmup=warmup),
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
    accuracy = training.evaluate(model, images)
    keras.backend.clear_session()
    return {
        "validation_accuracy": history["val_accuracy"][-1],
        "test_accuracy": accuracy,
        "seconds": round(seconds, 2),
        "curve": folders.curve(history["val_accuracy"]),
    }


def main(argv=None):
    args = parse(argv)
    if args.dataset == "digits":
        print("Training on scikit-learn's 8x8 digits; --dataset cifar10 trains on CIFAR-10.")
    images = data.from_options(args)
    output = args.output or f"results/{images.name}-{keras.backend.backend()}"
    runs = folders.Runs(output, options.settings(args, images))
    options.set_precision(args)

    seeds = range(args.seeds)
    keys = [
        (model, init, rate, seed)
        for model in args.model
        for seed in seeds
        for rate in args.learning_rate
        for init in args.init
    ]
    run = functools.partial(train, args, images)
    runs.run_missing(keys, run, lambda results: f"{100 * results['test_accuracy']:.2f} %")

    title = options.headline(args, images, environment.summary(runs.rows))
    pairs = [(model, init) for model in args.model for init in args.init]
    best = report.best_rates(runs, pairs, args.learning_rate, seeds)
    contrasts = [("spatial", "control"), ("all", "spatial"), ("mlp", "bias")]
    shown = {"test accuracy %": "test_accuracy"}
    print("\n" + report.table(runs, best, seeds, shown, title, contrasts))
    chosen = {m: {init: (best[m, init], seeds) for init in args.init} for m in args.model}
    print(f"Runs, table and settings: {runs.folder}/")
    print(f"Picture: {pictures.curves(runs, chosen, title)}")


if __name__ == "__main__":
    main()
