"""One training run: the model, its data, `fit`, and what it leaves."""

import functools
import itertools
import json
import math
import pathlib
import tempfile
import time

import keras
import numpy as np

import keras_mimetic
from common import folders, options, pictures, training
from imagenet import devices, recipe
from imagenet.models import MODELS
from keras_mimetic._numerics.random import fold_in


def main(argv=None):
    args = recipe.parse(argv)
    used = devices.use_all(args)
    options.set_precision(args)
    keras.utils.set_random_seed(args.seed)
    name, classes, images, training_epoch, validation = read(args, used)
    steps = images // args.batch_size
    if not steps:
        raise SystemExit(f"{name} has {images} training images, less than a batch.")
    names = ("model", "init", "seed", "mixed_precision", *recipe.RECIPE)
    settings = {
        **{"data": name, "train_images": images, "hosts": used.hosts},
        **{name: getattr(args, name) for name in names},
        **{"draws_version": options.DRAWS_VERSION, "backend": keras.backend.backend()},
    }
    print("\n".join(f"  {name}: {value}" for name, value in settings.items()))

    with used.scope():
        shape = (args.image_size, args.image_size, 3)
        more = {"drop_path": args.drop_path} if args.drop_path else {}
        model = MODELS[args.model](shape, classes, seed=fold_in(args.seed, 0), **more)
        if args.init != "default":
            keras_mimetic.initialize(model, seed=fold_in(args.seed, 1), **options.INITS[args.init])
        compile_model(model, args, steps)
        model.optimizer.build(model.trainable_variables)

    folder = f"imagenet-{args.model}-{args.init}-seed{args.seed}-{settings['backend']}"
    folder = pathlib.Path(args.output or f"results/{folder}")
    is_first = used.host == 0
    if is_first:
        folders.keep_settings(folder, settings)
    history = []
    if (folder / CHECKPOINT).exists():
        history = restore(folder, model)
        print(f"Resuming at the end of epoch {len(history)}.")
    title = f"{name}, {args.model}, init {args.init}; {folders.environment()['hardware']}"
    callbacks = [RunLog(folder, title, history, write=is_first)]
    if args.ema:
        # Averages of the weights are validated and end in the model.
        callbacks.append(keras.callbacks.SwapEMAWeights())
    print(f"{model.count_params():,} parameters on {used.count} device(s); results in {folder}/")
    model.fit(
        Batches(training_epoch, steps, epoch=len(history)),
        shuffle=False,  # The batches are, as a function of seed and epoch.
        epochs=args.epochs,
        initial_epoch=len(history),
        validation_data=validation,
        callbacks=callbacks,
        verbose=args.verbose if is_first else 0,
    )
    with tempfile.TemporaryDirectory() as other:
        # Keras creates variables to save a model, for which JAX needs all hosts.
        model.save((folder if is_first else pathlib.Path(other)) / "model.keras")
    if is_first:
        print("Validation: " + ", ".join(f"{k} {v:.4f}" for k, v in history[-1].items()))
        print(f"Figures, picture, network: {folder}/history.csv, curves.png, model.keras")


def read(args, used):
    """Return name, classes and number of images, training batches by epoch, and validation."""
    if args.dataset == "synthetic" and not args.image_folder:
        # Ten batches an epoch. Validation is on the images of another seed.
        make = functools.partial(synthetic, args, used)
        return "synthetic", 1000, 10 * args.batch_size, make, next(make(-1))
    try:
        from imagenet import data
    except ImportError as error:
        raise SystemExit(
            f"Images are read and decoded by TensorFlow ({error}): pip install '.[tfds]' in a "
            "clone of this package. --dataset synthetic needs no TensorFlow."
        ) from error
    source = data.source(args)

    def training_epoch(epoch):
        return data.training(source, args, epoch, used.host, used.hosts).as_numpy_iterator()

    validation = data.validation(source, args, used.host, used.hosts)
    return source.name, source.classes, source.train, training_epoch, validation


class Batches(keras.utils.PyDataset):
    """The batches of each epoch. Keras takes those of a generator out of order on two devices."""

    def __init__(self, training_epoch, steps, epoch):
        super().__init__()
        self._training_epoch, self._steps, self._epoch = training_epoch, steps, epoch
        self._next = -1  # Number of the batch that the iterator gives.

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        if index != self._next:  # Keras looks at the first batches before it trains.
            self._iterator = itertools.islice(self._training_epoch(self._epoch), index, None)
        self._next = index + 1
        return next(self._iterator)

    def on_epoch_end(self):
        self._epoch += 1
        self._next = -1


def synthetic(args, used, epoch):
    """Yield ten batches of random images uint8 and labels float32."""
    shape = (args.batch_size, args.image_size, args.image_size, 3)
    for step in range(10):
        random = np.random.default_rng([args.seed, epoch + 1, step])
        images = random.integers(0, 256, shape, np.uint8)
        labels = keras.utils.to_categorical(random.integers(0, 1000, len(images)), 1000)
        yield images[used.host :: used.hosts], labels[used.host :: used.hosts]


def compile_model(model, args, steps):
    """Compile a model for classification, with so many steps per epoch."""
    more = {"global_clipnorm": args.clip or None}
    if args.ema:
        more.update(use_ema=True, ema_momentum=args.ema)
    warmup = round(args.warmup_epochs * steps)
    optimizer = training.adamw(
        args.learning_rate, args.weight_decay, args.epochs * steps, warmup=warmup, **more
    )
    loss = functools.partial(keras.losses.CategoricalCrossentropy, from_logits=True)
    model.compile(
        optimizer,
        loss(label_smoothing=args.smoothing),
        # Weighted, so that the padding of the last batch of validation does not count.
        weighted_metrics=[
            # Without label smoothing.
            keras.metrics.CategoricalCrossentropy(name="cross_entropy", from_logits=True),
            keras.metrics.CategoricalAccuracy(name="top1"),
            keras.metrics.TopKCategoricalAccuracy(min(5, model.output_shape[-1]), name="top5"),
        ],
    )


# ---- What each epoch leaves ----

CHECKPOINT = "checkpoint.npz"


def save(folder, model, history):
    """Write all that training continues from, in one file that is complete or missing.

    Variables of the model are weights, statistics and states of random generators, those of its
    optimizer moments, averages of the weights, and the step.
    """
    values = [keras.ops.convert_to_numpy(variable) for variable in _variables(model)]
    part = folder / f"part-{CHECKPOINT}"
    np.savez(part, *values, history=json.dumps(history))
    part.replace(folder / CHECKPOINT)


def restore(folder, model):
    """Set the variables of a compiled model to those of a checkpoint and return the history."""
    with np.load(folder / CHECKPOINT) as file:
        for number, variable in enumerate(_variables(model)):
            variable.assign(file[f"arr_{number}"])
        return json.loads(str(file["history"]))


def _variables(model):
    return [*model.variables, *model.optimizer.variables]


class RunLog(keras.callbacks.Callback):
    """Adds a row to the history and writes the checkpoint, history.csv and curves.png."""

    def __init__(self, folder, title, history, write):
        super().__init__()
        self.folder, self.title, self.history, self.writes = folder, title, history, write

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        figures = {name: float(value) for name, value in logs.items()}
        if not all(map(math.isfinite, figures.values())):
            raise SystemExit(
                f"The loss is not a number in epoch {epoch + 1}, which is not saved. Try a smaller "
                "--learning-rate or a longer warm-up."
            )
        seconds = round(time.perf_counter() - self._began, 2)
        self.history.append({"epoch": epoch + 1, **figures, "seconds": seconds})
        if self.writes:
            save(self.folder, self.model, self.history)
            folders.write_rows(self.folder / "history.csv", self.history)
            draw(self.folder / "curves.png", self.history, self.title)


def draw(path, history, title):
    """Draw loss and accuracies by epoch."""
    figure, axes = pictures.panels(2, 4.5, 4)
    epochs = [row["epoch"] for row in history]
    panels = (("cross-entropy", ("cross_entropy",), 1), ("accuracy %", ("top1", "top5"), 100))
    for axis, (label, names, scale) in zip(axes, panels, strict=True):
        for color, name in enumerate(names):
            for kind, line, where in (("", "--", "training"), ("val_", "-", "validation")):
                values = [scale * row[kind + name] for row in history]
                axis.plot(epochs, values, line, color=f"C{color}", label=f"{name}, {where}")
        end = scale * history[-1][f"val_{names[0]}"]
        axis.set_title(f"{names[0]}: {end:.4g} after epoch {epochs[-1]}", fontsize=9)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    pictures.save(figure, path, title)
