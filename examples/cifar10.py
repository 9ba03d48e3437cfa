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

from common import options


def parse(argv=None):
    parser, add = options.parser(__doc__)
    options.add_data(add)
    add("--model", nargs="+", choices=options.MODELS, default=["vit"], help="models [vit]")
    inits = ["default", "all"]
    add("--init", nargs="+", choices=options.INITS, default=inits, help=options.INITS_HELP)
    add("--seeds", type=options.positive(int), default=3, help="paired seeds, from 0 [%(default)s]")
    rates = "peak rates; of several the best on the validation images is reported [0.002]"
    add("--learning-rate", nargs="+", type=options.positive(float), default=[2e-3], help=rates)
    options.add_training(add, epochs=6)
    options.add_output(add, "results/DATASET-BACKEND")
    args = parser.parse_args(argv)
    options.resolve(args)
    return args


if __name__ == "__main__":
    options.start(parse)

import keras

import keras_mimetic
from common import data, folders, models, pictures, report, training
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
# In the table and the picture.
NAMES = {"default": "Keras's default", "all": "mimetic"}


def build(name, init, seed, images):
    """Return a model with the initial weights that --init names."""
    patch = 4 if min(images.shape[:2]) >= 32 else 2
    model = MODELS[name](images.shape, images.classes, patch=patch, seed=fold_in(seed, 0))
    if init != "default":
        keras_mimetic.initialize(model, seed=fold_in(seed, 1), **options.INITS[init])
    return model


def compile_model(model, images, args, rate):
    """Compile a model for classification with AdamW at a peak rate."""
    steps = args.epochs * len(_batches(images, args, seed=0))
    model.compile(
        optimizer=training.adamw(rate, args.weight_decay, steps, warmup=max(1, steps // 10)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def fit(model, images, args, seed, **more):
    """Train a compiled model and return its history by metric."""
    return model.fit(
        _batches(images, args, seed),
        shuffle=False,  # `Batches` shuffles, as a function of the seed.
        epochs=args.epochs,
        validation_data=images.validation,
        validation_batch_size=500,
        verbose=args.verbose,
        **more,
    ).history


def _batches(images, args, seed):
    augment = args.augment == "on"
    return data.Batches(*images.train, batch_size=args.batch_size, seed=seed, augment=augment)


def evaluate(model, images):
    """Return the accuracy on the test images."""
    return model.evaluate(*images.test, batch_size=500, verbose=0, return_dict=True)["accuracy"]


def run(args, images, key):
    """Return the results of one run, by column of runs.csv."""
    keras.utils.set_random_seed(key["seed"])
    model = build(key["model"], key["init"], key["seed"], images)
    compile_model(model, images, args, key["learning_rate"])
    start = time.perf_counter()
    history = fit(model, images, args, key["seed"])
    seconds = time.perf_counter() - start
    accuracy = evaluate(model, images)
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

    seeds, rates = range(args.seeds), args.learning_rate
    keys = [
        (model, init, rate, seed)
        for model in args.model
        for seed in seeds
        for rate in rates
        for init in args.init
    ]
    of_key = functools.partial(run, args, images)
    runs.run_missing(keys, of_key, lambda results: f"{100 * results['test_accuracy']:.2f} %")

    title = options.headline(args, images, folders.summary(runs.rows))
    pairs = [(model, init) for model in args.model for init in args.init]
    best = report.best_rates(runs, pairs, rates, seeds)
    contrasts = [("spatial", "control"), ("all", "spatial"), ("mlp", "bias")]
    shown = {"test accuracy %": "test_accuracy", "validation accuracy %": "validation_accuracy"}
    print("\n" + report.table(runs, best, seeds, shown, title, contrasts, names=NAMES))
    chosen = {m: {init: (best[m, init], seeds) for init in args.init} for m in args.model}
    print(f"Runs, table and settings: {runs.folder}/")
    print(f"Picture: {pictures.curves(runs, chosen, title, NAMES)} (validation accuracy)")
    if args.dataset == "digits":
        print("A demonstration: docs/results.md has the measurements.")


if __name__ == "__main__":
    main()
