"""One training run: the model, its data, `fit`, and what it leaves."""

import dataclasses
import functools
import importlib.util
import pathlib

import keras

from common import environment, folders, options
from common.blocks import ImageBank
from common.training import start
from imagenet import checkpoint, data, devices, run_log, sources, speed_alone
from imagenet import recipe as recipes
from imagenet.arguments import parse
from imagenet.models import MODELS
from keras_mimetic._numerics.random import fold_in

_SYNTHETIC_CLASSES = 1000


def main(argv=None):
    args = parse(argv)
    recipe = recipes.of(args)
    for name in ("matplotlib", *(("tensorboard", "tensorflow") if args.tensorboard else ())):
        if not importlib.util.find_spec(name):
            raise recipes.RecipeError(f"{name} is not installed: pip install {name}")
    used = devices.use(args, recipe)
    if wrong := recipes.check(recipe, args.model, used.replicas):
        raise recipes.RecipeError(wrong)
    source = None if _is_synthetic(args) else _source(args)
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
        network = build(args, recipe, source.classes if source else _SYNTHETIC_CLASSES)
        model = network if source else _behind_bank(network, recipe)
        steps = len(make_batches(0)[0]) // recipe.accumulate
        recipes.compile_model(model, recipe, steps=steps, jit=args.jit)
        model.optimizer.build(model.trainable_variables)
    if args.speed:
        return speed_alone.show(model, make_batches(0)[0], recipe.batch_size // recipe.accumulate)
    train(args, recipe, used, network, model, make_batches, reader, settings)
    return None


def _is_synthetic(args):
    return args.dataset == "synthetic" and not args.image_folder


def _source(args):
    if args.image_folder:
        return sources.image_folder(args.image_folder)
    return sources.tfds(
        args.dataset,
        data_dir=args.data_dir,
        download=args.download,
        shuffle_buffer=args.shuffle_buffer,
    )


def build(args, recipe, classes):
    """A network with the initial weights that --init names."""
    network = MODELS[args.model](
        (recipe.image_size, recipe.image_size, 3),
        classes,
        drop_path=recipe.drop_path,
        seed=fold_in(args.seed, 0),
    )
    start(network, args.init, args.seed)
    return network


def _behind_bank(network, recipe):
    numbers = keras.Input((), dtype="int32")
    return keras.Model(numbers, network(ImageBank(recipe.image_size)(numbers)))


def _batches(args, recipe, used, reader, epoch):
    """Training batches from an epoch on, and those of validation."""
    if reader:
        return reader.training(epoch), reader.validation()
    few = min(args.synthetic_images, 4 * recipe.batch_size)
    make = functools.partial(
        data.synthetic,
        recipe,
        classes=_SYNTHETIC_CLASSES,
        seed=args.seed,
        host=used.host,
    )
    return make(images=args.synthetic_images, epoch=epoch), make(images=few)


def train(args, recipe, used, network, model, make_batches, reader, settings):
    """Trains to the last epoch, from the first or from the checkpoint's."""
    folder = f"imagenet-{args.model}-{args.init}-seed{args.seed}-{settings['backend']}"
    folder = pathlib.Path(args.output or f"results/{folder}")
    if checkpoint.exists(folder) and not args.resume:
        raise folders.SettingsError(
            f"{folder} holds a run: go on with --resume, or choose another --output."
        )
    first = used.host.number == 0
    if first:
        folders.keep_settings(folder, settings)
    state = {"epoch": 0, "history": []}
    if checkpoint.exists(folder):
        state = checkpoint.restore(folder, model, settings)
        checkpoint.check_state(state, recipe.epochs, run_log.COLUMNS)
        print(f"Going on from the end of epoch {state['epoch']}.")
    devices.check_agreement(used.host, state["epoch"])
    where = environment.current()
    title = f"{settings['data']}, {args.model}, init {args.init}; {where['hardware']}"
    log = run_log.RunLog(
        folder,
        title,
        settings,
        history=state["history"],
        broken=reader.broken if reader else (),
        validated=(lambda: reader.validated) if reader else None,
        write=first,
    )
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
        _finish(folder, network, log)


def _finish(folder, network, log):
    """Saves the network and prints the last figures."""
    folders.save_model(network, folder / "model.keras")
    row = log.history[-1]
    print(
        f"Validation after {row['epoch']} epochs: top-1 {100 * row['val_top1']:.2f} %, "
        f"top-5 {100 * row['val_top5']:.2f} %, cross-entropy {row['val_cross_entropy']:.4f}"
    )
    if row["left_out"]:
        print(f"{row['left_out']} images of each epoch could not be decoded and were left out.")
    print(f"Figures, picture, network: {folder}/history.csv, curves.png, model.keras")
