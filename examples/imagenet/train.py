"""One training run: the model, its data, `fit`, and what it leaves."""

import collections
import dataclasses
import functools
import importlib.util
import itertools
import math
import pathlib
import time

import keras

from common import environment, folders, options, pictures, script
from common.training import start, warmup_cosine
from imagenet import checkpoint, data, devices, sources
from imagenet import recipe as recipes
from imagenet.models import MODELS, ImageBank
from keras_mimetic._numerics.random import fold_in

_SYNTHETIC_CLASSES = 1000


def main(argv=None):
    args = recipes.parse(argv)
    recipe = recipes.of(args)
    for name in ("matplotlib", *(("tensorboard", "tensorflow") if args.tensorboard else ())):
        if not importlib.util.find_spec(name):
            raise recipes.RecipeError(f"{name} is not installed: pip install {name}")
    used = devices.use(args, recipe)
    recipes.check(recipe, args.model, used.replicas)
    source = None if args.dataset == "synthetic" and not args.image_folder else _source(args)
    settings = {
        "data": "synthetic" if source is None else source.name,
        "version": args.synthetic_images if source is None else source.version,
        "train_images": args.synthetic_images if source is None else source.train.count,
        "shuffle_buffer": args.shuffle_buffer,
        "hosts": used.host.count,
        **{name: getattr(args, name) for name in ("model", "init", "seed", "mixed_precision")},
        "draws_version": options.DRAWS_VERSION,
        **dataclasses.asdict(recipe),
        "backend": keras.backend.backend(),
    }
    print("\n".join(f"  {name}: {value}" for name, value in settings.items()))
    options.set_precision(args)
    keras.utils.set_random_seed(args.seed)
    reader = source and data.Reader(source, recipe, seed=args.seed, host=used.host)
    make_batches = functools.partial(_batches, args, recipe, used, reader)
    with used.scope():
        network = MODELS[args.model](
            (recipe.image_size, recipe.image_size, 3),
            source.classes if source else _SYNTHETIC_CLASSES,
            drop_path=recipe.drop_path,
            seed=fold_in(args.seed, 0),
        )
        start(network, args.init, args.seed)
        model = network if source else behind_bank(network, recipe)
        steps = len(make_batches(0)[0]) // recipe.accumulate
        compile_model(model, recipe, steps=steps, jit=args.jit)
        model.optimizer.build(model.trainable_variables)
    if args.speed:
        show_speed(model, make_batches(0)[0], recipe.batch_size // recipe.accumulate)
    else:
        train(args, recipe, used, network, model, make_batches, reader, settings)


def _source(args):
    if args.image_folder:
        return sources.image_folder(args.image_folder)
    return sources.tfds(
        args.dataset,
        data_dir=args.data_dir,
        download=args.download,
        shuffle_buffer=args.shuffle_buffer,
    )


def behind_bank(network, recipe):
    """Return a model that takes numbers of random images in place of images."""
    numbers = keras.Input((), dtype="int32")
    return keras.Model(numbers, network(ImageBank(recipe.image_size)(numbers)))


def _batches(args, recipe, used, reader, epoch):
    """Return training batches from an epoch on, and those of validation."""
    if reader:
        return reader.training(epoch), reader.validation()
    few = min(args.synthetic_images, 4 * recipe.batch_size)
    common = {"classes": _SYNTHETIC_CLASSES, "seed": args.seed, "host": used.host}
    make = functools.partial(data.synthetic, recipe, **common)
    return make(images=args.synthetic_images, epoch=epoch), make(images=few)


@keras.saving.register_keras_serializable(package="keras_mimetic_examples")
class PerUpdate(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule over updates of the weights. Keras counts the parts of accumulated batches."""

    def __init__(self, schedule, parts):
        super().__init__()
        self.schedule, self.parts = schedule, parts

    def __call__(self, step):
        return self.schedule(keras.ops.floor_divide(step, self.parts))

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "parts": self.parts}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["parts"])


def compile_model(model, recipe, *, steps, jit="auto"):
    """Compile a model with the optimizer of a recipe, for so many updates per epoch."""
    more = {}
    updates, warmup = recipe.epochs * steps, round(recipe.warmup_epochs * steps)
    schedule = warmup_cosine(recipe.learning_rate, updates, warmup)
    if recipe.accumulate > 1:
        schedule = PerUpdate(schedule, recipe.accumulate)
        more["gradient_accumulation_steps"] = recipe.accumulate
    if recipe.clip:
        more["global_clipnorm"] = recipe.clip
    if recipe.ema:
        # Keras averages after each part of a batch.
        more.update(use_ema=True, ema_momentum=recipe.ema ** (1 / recipe.accumulate))
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, **more)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.smoothing
        ),
        # Weighted, so that the padding of the last batch of validation does not count.
        weighted_metrics=[
            # Without label smoothing.
            keras.metrics.CategoricalCrossentropy(name="cross_entropy", from_logits=True),
            keras.metrics.CategoricalAccuracy(name="top1"),
            keras.metrics.TopKCategoricalAccuracy(min(5, model.output_shape[-1]), name="top5"),
        ],
        jit_compile=options.JIT[jit],
    )


def train(args, recipe, used, network, model, make_batches, reader, settings):
    """Train to the last epoch, from the first or from the checkpoint."""
    folder = f"imagenet-{args.model}-{args.init}-seed{args.seed}-{settings['backend']}"
    folder = pathlib.Path(args.output or f"results/{folder}")
    if checkpoint.exists(folder) and not args.resume:
        raise folders.SettingsError(
            f"{folder} holds a run: give --resume, or choose another --output."
        )
    first = used.host.number == 0
    if first:
        folders.keep_settings(folder, settings)
    state = {"epoch": 0, "history": []}
    if checkpoint.exists(folder):
        state = checkpoint.restore(folder, model, settings)
        print(f"Resuming at the end of epoch {state['epoch']}.")
    devices.check_agreement(used.host, state["epoch"])
    hardware = environment.current()["hardware"]
    title = f"{settings['data']}, {args.model}, init {args.init}; {hardware}"
    log = RunLog(folder, title, settings, history=state["history"], write=first)
    training, validation = make_batches(state["epoch"])
    callbacks = [data.Epochs(training), log]
    if recipe.ema:
        callbacks.append(keras.callbacks.SwapEMAWeights())
    if args.tensorboard and first:
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False))
    print(f"{model.count_params():,} parameters on {used.text}; results in {folder}/")
    try:
        model.fit(
            training,
            shuffle=False,  # The batches are, as a function of seed and epoch.
            epochs=recipe.epochs,
            initial_epoch=state["epoch"],
            validation_data=validation,
            callbacks=callbacks,
            verbose=args.verbose if first else 0,
        )
    except Exception as error:
        if reader and reader.error:
            raise reader.error from error
        raise
    if first:
        with folders.replacing(folder / "model.keras") as part:
            network.save(part)
        row = log.history[-1]
        print(
            f"Validation after {row['epoch']} epochs: top-1 {100 * row['val_top1']:.2f} %, "
            f"top-5 {100 * row['val_top5']:.2f} %, cross-entropy {row['val_cross_entropy']:.4f}"
        )
        print(f"Figures, picture, network: {folder}/history.csv, curves.png, model.keras")


class DivergedError(script.Stop):
    """The loss is not a number; says what is left of the run."""


class RunLog(keras.callbacks.Callback):
    """Writes the checkpoint of each epoch, then history.csv and curves.png from its state.

    A run that is killed between the two writes them when it resumes.

    Args:
        folder: Output folder of the run.
        title: Title of the picture.
        settings: Settings that must match when the run resumes.
        history: A row for each earlier epoch.
        write: Whether this process writes, of several that share the model.
    """

    def __init__(self, folder, title, settings, *, history, write=True):
        super().__init__()
        self.folder, self.title, self.settings = folder, title, settings
        self.history, self.writes = history, write

    def on_train_begin(self, logs=None):
        if self.history:
            self._show()

    def on_epoch_begin(self, epoch, logs=None):
        if self.history and self.writes:
            # The first epoch of a process compiles, so the last one says most.
            left = (self.params["epochs"] - epoch) * self.history[-1]["seconds"]
            hours, minutes = divmod(round(left / 60), 60)
            print(
                f"Epoch {epoch} of {self.params['epochs']} is saved; "
                f"about {hours} h {minutes:02d} min left."
            )
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        figures = {name: float(value) for name, value in logs.items()}
        for name, value in figures.items():
            if not math.isfinite(value):
                kept = f"the checkpoint is that of epoch {epoch}" if epoch else "there is none yet"
                raise DivergedError(
                    f"The {name} became {value} in epoch {epoch + 1}, which is not saved; {kept}. "
                    "Try a smaller --learning-rate, a longer warm-up or --clip."
                )
        row = {"epoch": epoch + 1, **figures}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = round(time.perf_counter() - self._began, 2)
        state = {"epoch": epoch + 1, "history": [*self.history, row]}
        checkpoint.save(self.folder, self.model, state, self.settings, write=self.writes)
        self.history.append(row)
        self._show()

    def _show(self):
        if self.writes:
            folders.write_rows(self.folder / "history.csv", self.history)
            draw(self.folder / "curves.png", self.history, self.title)


def draw(path, history, title):
    """Draw loss and accuracies by epoch."""
    epochs, last = [row["epoch"] for row in history], history[-1]
    figure, (left, right) = pictures.panels(2, 4.5, 4)
    panels = (
        (left, "cross-entropy", ("cross_entropy",), 1),
        (right, "accuracy %", ("top1", "top5"), 100),
    )
    for axis, label, names, scale in panels:
        for color, name in enumerate(names):
            for kind, line in (("", "--"), ("val_", "-")):
                values = [scale * row[kind + name] for row in history]
                where = "validation" if kind else "training"
                axis.plot(epochs, values, line, color=f"C{color}", label=f"{name}, {where}")
        end = scale * last[f"val_{names[0]}"]
        axis.set_title(f"{names[0]}: {end:.4g} after epoch {last['epoch']}", fontsize=9)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    pictures.save(figure, path, title)


# ---- Speed ----


class Repeated(keras.utils.PyDataset):
    """One batch again and again."""

    def __init__(self, batch, steps):
        super().__init__()
        self.batch, self.steps = batch, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return self.batch


def show_speed(model, batches, batch_size, seconds=10.0):
    """Print images per second of the batches alone and of training steps alone.

    Args:
        model: A compiled model, which this trains.
        batches: Batches of training.
        batch_size: Images per batch.
        seconds: About the longest time of each, besides its start.
    """
    endless = (batches[number] for _ in itertools.count() for number in range(len(batches)))
    batch = next(endless)
    data_rate = rate(lambda count: collections.deque(itertools.islice(endless, count), 0), seconds)
    step_rate = rate(lambda count: model.fit(Repeated(batch, count), verbose=0), seconds)
    print(f"data alone: {data_rate * batch_size:,.0f} images/s")
    print(f"steps alone: {step_rate * batch_size:,.0f} images/s (batches of {batch_size})")
    print("The smaller one limits training; they share the processor, if steps use it.")


def rate(work, seconds):
    """Return how often per second `work` runs, after a short warm-up."""
    work(4)
    count, elapsed = 1, 0.0
    while elapsed < seconds / 4:
        count *= 2
        begin = time.perf_counter()
        work(count)
        elapsed = time.perf_counter() - begin
    return count / elapsed
