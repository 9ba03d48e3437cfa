"""Show the structures of mimetic initialization in trained weights.

    KERAS_BACKEND=jax python examples/look_inside.py       # trains on scikit-learn's digits, CPU
    KERAS_BACKEND=jax python examples/look_inside.py --dataset cifar10 --model vit convmixer
    KERAS_BACKEND=jax python examples/look_inside.py --weights FILE.keras
    KERAS_BACKEND=jax python examples/look_inside.py --preset ConvNeXtTiny    # keras.applications
    KERAS_BACKEND=jax python examples/look_inside.py --preset vit_base_patch16_224_imagenet

The last is a preset of keras_hub. Each model is measured before and after its training; that of a
file or a preset beside fresh weights of its own architecture. The output folder has for each model
the tables, the picture, all figures as CSV, and the trained model as a .keras file, which a second
call does not train again.
"""

import importlib.util
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from common import options, script


def parse(argv=None):
    parser, add = options.parser(__doc__)
    what = parser.add_mutually_exclusive_group()
    models = f"models to train: {', '.join(options.MODELS)} [vit convmixer]"
    what.add_argument("--model", nargs="+", choices=options.MODELS, metavar="NAME", help=models)
    weights = "a saved Keras model to look into instead"
    what.add_argument("--weights", type=options.folder, metavar="FILE.keras", help=weights)
    preset = "a trained model of keras.applications or keras_hub instead"
    what.add_argument("--preset", type=options.text, metavar="NAME", help=preset)
    rule = "a structure for layers with a weight whose path matches, as `rules` of `measure`"
    add("--rule", nargs=2, action="append", default=[], metavar=("REGEX", "STRUCTURE"), help=rule)
    options.add_data(add)
    inits = f"{options.INITS_HELP} [%(default)s]"
    add("--init", choices=options.INITS, default="default", help=inits)
    add("--seed", type=options.seed, default=0, help="of weights and batches [%(default)s]")
    add("--learning-rate", type=options.positive(float), default=2e-3, help="peak rate [0.002]")
    options.add_training(add, epochs=20)
    options.add_output(add, "results/look-inside-DATASET-BACKEND")
    args = parser.parse_args(argv)
    args.model = list(dict.fromkeys(args.model or ["vit", "convmixer"]))
    options.resolve(args)
    return args


if __name__ == "__main__":
    script.start(parse, "The same command trains what is not trained yet")

import keras

import keras_mimetic
from common import data, environment, folders
from common.training import build, compile_model, evaluate, train


class ModelError(script.Stop):
    """The model cannot be loaded, measured or drawn; says why."""


# The 1x1 convolutions of a ConvMixer stand in for an MLP.
_RULES = {"convmixer": {r"pointwise_\d+/": "mlp"}}


def main(argv=None):
    args = parse(argv)
    if importlib.util.find_spec("matplotlib") is None:
        raise ModelError("The picture needs matplotlib: pip install matplotlib")
    if args.weights or args.preset:
        look_into_given(args)
        return
    images = data.from_options(args)
    folder = output_of(args, images.name)
    own = {name: getattr(args, name) for name in ("init", "seed", "learning_rate")}
    folders.keep_settings(folder, {**options.settings(args, images), **own})
    options.set_precision(args)
    where = environment.summary([environment.current()])
    # All before the first training, so that a wrong rule is reported at once.
    before = {name: measure(untrained(name, images, args), name, args) for name in args.model}
    for name in args.model:
        model = trained(name, images, args, folder)
        accuracy = 100 * evaluate(model, images)
        title = (
            f"{name}, init {args.init}, rate {args.learning_rate:g}, seed {args.seed}, test "
            f"accuracy {accuracy:.2f} %; {options.headline(args, images, where)}"
        )
        show(name, title, before[name], measure(model, name, args), folder)


def untrained(name, images, args):
    """Return a model of models.py with its initial weights."""
    keras.backend.clear_session()  # Equal layers get equal names.
    return build(name, args.init, args.seed, images.shape, images.classes)


def trained(name, images, args, folder):
    """Return a model of models.py after training, which `folder` keeps."""
    path = folder / f"{name}.keras"
    if path.exists():
        print(f"{name}: trained before ({path})")
        try:
            return keras.saving.load_model(path)
        except Exception as error:
            raise ModelError(
                f"Keras could not load {path}: remove it to train again. "
                f"({type(error).__name__}: {error})"
            ) from error
    keras.utils.set_random_seed(args.seed)
    model = untrained(name, images, args)
    compile_model(model, images, args, rate=args.learning_rate)
    train(model, images, args, seed=args.seed)
    # Without the optimizer, which only the backend that trained it could load.
    kept = untrained(name, images, args)
    kept.set_weights(model.get_weights())
    with folders.replacing(path) as part:
        kept.save(part)
    return kept


def measure(model, name, args):
    """Measure the structures of a model, with the rules of its name and the given ones."""
    try:
        return keras_mimetic.measure(model, rules={**_RULES.get(name, {}), **dict(args.rule)})
    except ValueError as error:  # of a rule, or of a quantized model
        raise ModelError(error) from error


def show(name, title, before, after, folder):
    """Print and write what was measured before and after."""
    text = f"{title}\n\nBEFORE: {before}\n\nAFTER: {after}"
    print(f"\n{text}\n")
    folders.write(folder / f"{name}.txt", text + "\n")
    pair = {"before": before, "after": after}
    rows = [{"when": when, **row} for when, seen in pair.items() for row in seen.to_dicts()]
    if not rows:
        print(f"There is nothing to draw. The tables: {folder / name}.txt")
        return
    folders.write_rows(folder / f"{name}.csv", rows)
    with folders.replacing(folder / f"{name}.png") as part:
        after.plot(before=before, title=title).savefig(part, dpi=100)
    print(f"Table, figures and picture: {folder / name}.txt, .csv and .png")


def look_into_given(args):
    """Measure the model of a file or a preset."""
    source = args.weights or args.preset
    path = pathlib.Path(source)
    name = path.stem if path.exists() else re.sub(r"\W+", "-", str(source)).strip("-")
    before, model = from_file(path) if args.weights else from_preset(source)
    folder = output_of(args, name)
    # Another file of the same name is not mixed into the same folder.
    folders.keep_settings(folder, {"source": str(source), "backend": keras.backend.backend()})
    title = f"{source} (before: fresh weights); {environment.summary([environment.current()])}"
    before, after = (measure(x, model.name, args) for x in (before, model))
    show(name, title, before, after, folder)


def output_of(args, name):
    """Return the folder for the results."""
    default = f"results/look-inside-{name}-{keras.backend.backend()}"
    return pathlib.Path(args.output or default)


def from_file(path):
    """Return a new model with fresh weights, and the saved model of a file."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.")
    try:
        model = keras.saving.load_model(path, compile=False)
        fresh = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:
        raise ModelError(
            f"Keras could not load {path}, which must be a model that `model.save` wrote. "
            f"({type(error).__name__}: {error})"
        ) from error
    return fresh, model


def from_preset(name):
    """Return a model of keras.applications or keras_hub, with fresh weights and trained."""
    try:
        if hasattr(keras.applications, name):
            make = getattr(keras.applications, name)
            return make(weights=None), make(weights="imagenet")
        import keras_hub

        make = keras_hub.models.Backbone.from_preset
        return make(name, load_weights=False), make(name)
    except ImportError as error:
        raise ModelError(
            f"{name!r} is not a model of keras.applications, and presets of keras_hub need "
            f"{error.name}: pip install keras-hub"
        ) from error
    except Exception as error:
        raise ModelError(
            f"The preset {name!r} could not be loaded. ({type(error).__name__}: {error})"
        ) from error


if __name__ == "__main__":
    main()
