"""Shows the structures of mimetic initialization in trained weights.

    python examples/look_inside.py                           # trains on embedded digits, CPU
    python examples/look_inside.py --dataset cifar10 --model vit convmixer convnext --epochs 20
    python examples/look_inside.py --weights FILE.keras
    python examples/look_inside.py --preset ConvNeXtTiny     # of keras.applications; fetches it
    python examples/look_inside.py --preset vit_base_patch16_224_imagenet    # of keras_hub

Each model is measured before and after its training; a file's or a preset's model
beside fresh weights of its own architecture. In the output folder are for each
model the tables, the picture, all figures as CSV, and the trained model as a
.keras file, which a second call does not train again.
"""

from common import script

if __name__ == "__main__":
    script.catch_signals("the same command trains what is not trained yet")

import argparse
import importlib.util
import pathlib
import re

from common import options


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.adder(parser)
    what = parser.add_mutually_exclusive_group()
    models = f"models to train: {', '.join(options.MODELS)} [vit convmixer]"
    what.add_argument("--model", nargs="+", choices=options.MODELS, metavar="NAME", help=models)
    weights = "a saved Keras model to look into instead"
    what.add_argument("--weights", type=options.text, metavar="FILE.keras", help=weights)
    preset = "a trained model of keras.applications or keras_hub instead"
    what.add_argument("--preset", type=options.text, metavar="NAME", help=preset)
    rule = "a structure for layers with a weight whose path matches, as `rules` of `measure`"
    add("--rule", nargs=2, action="append", default=[], metavar=("REGEX", "STRUCTURE"), help=rule)
    options.add_data(add, parser)
    add(
        "--init",
        choices=options.INITS,
        default="default",
        help=f"{options.INITS_HELP} [%(default)s]",
    )
    add("--seed", type=options.seed, default=0, help="of weights and batches [%(default)s]")
    add("--learning-rate", type=options.positive(float), default=2e-3, help="peak rate [0.002]")
    options.add_training(add, epochs=20)
    add(
        "--output",
        type=options.text,
        help="folder for the results [results/look-inside-DATASET-BACKEND]",
    )
    args = parser.parse_args(argv)
    args.model = list(dict.fromkeys(args.model or ["vit", "convmixer"]))
    options.resolve(args)
    return args


if __name__ == "__main__":
    # Before Keras, whose import takes seconds: --help and wrong options are answered at once.
    parse()

import keras

import keras_mimetic
from common import data, environment, folders
from common.training import build, evaluate, fit


class ModelError(script.Stop):
    """The model that was asked for could not be had; says why."""


# What stands in for an MLP, which the finder does not see by itself.
_RULES = {"convmixer": {r"pointwise_\d+/": "mlp"}}


def main(argv=None):
    args = parse(argv)
    if importlib.util.find_spec("matplotlib") is None:
        raise ModelError("The picture needs matplotlib: pip install matplotlib")
    if args.weights or args.preset:
        given(args)
        return
    images = data.from_options(args)
    folder = output_of(args, images.name)
    own = {name: getattr(args, name) for name in ("init", "seed", "learning_rate")}
    folders.keep_settings(folder, {**options.settings(args, images), **own})
    options.set_precision(args)
    where = environment.summary([environment.current()])
    # A rule that is wrong says so before anything is trained.
    before = {name: fresh(name, images, args) for name in args.model}
    rules = rules_for(before, args.rule)
    measured = {name: measure(before[name], rules[name]) for name in args.model}
    for name in args.model:
        model = trained(name, images, args, folder)
        accuracy = 100 * evaluate(model, images)
        title = (
            f"{name}, init {args.init}, rate {args.learning_rate:g}, seed {args.seed}, test "
            f"accuracy {accuracy:.2f} %; {options.headline(args, images, where)}"
        )
        show(name, title, measured[name], measure(model, rules[name]), folder)


def given(args):
    """Looks into a model of a file or a preset."""
    source = args.weights or args.preset
    path = pathlib.Path(source)
    name = path.stem if path.exists() else re.sub(r"\W+", "-", source).strip("-")
    before, model = from_file(source) if args.weights else from_preset(source)
    folder = output_of(args, name)
    # Another file of the same name does not mix into the same folder.
    folders.keep_settings(folder, {"source": str(source), "backend": keras.backend.backend()})
    rules = rules_for({model.name: model}, args.rule)[model.name]
    title = f"{source} (before: fresh weights); {environment.summary([environment.current()])}"
    show(name, title, measure(before, rules), measure(model, rules), folder)


def output_of(args, name):
    default = f"results/look-inside-{name}-{keras.backend.backend()}"
    return pathlib.Path(args.output or default)


def rules_for(models, given):
    """Each model's rules: the given ones that match in it, and what is known of the example's."""
    rules = {}
    try:
        for name, model in models.items():
            known = [*_RULES.get(name, {}).items(), *given]
            paths = [variable.path for variable in model.variables]
            rules[name] = {
                pattern: structure
                for pattern, structure in known
                if any(re.search(pattern, path) for path in paths)
            }
    except re.error as error:
        raise ModelError(f"--rule must have a regular expression first: {error}") from error
    for pattern, _ in given:
        if not any(pattern in matching for matching in rules.values()):
            raise ModelError(f"--rule {pattern} matches no weight of {', '.join(models)}.")
    return rules


def measure(model, rules):
    try:
        return keras_mimetic.measure(model, rules=rules)
    except ValueError as error:  # of a rule, or of a quantized model
        raise ModelError(error) from error


def show(name, title, before, after, folder):
    """Writes and prints what was measured before and after."""
    text = "\n\n".join(
        [
            title,
            f"BEFORE: {before}",
            f"AFTER: {after}",
        ]
    )
    print(f"\n{text}\n")
    folders.write(folder / f"{name}.txt", text + "\n")
    pair = {"before": before, "after": after}
    rows = [{"when": when, **row} for when, seen in pair.items() for row in seen.to_dicts()]
    if not rows:
        print(f"There is nothing to draw. The tables: {folder / name}.txt")
        return
    folders.write_rows(folder / f"{name}.csv", rows)
    after.plot(before=before, title=title).savefig(folder / f"{name}.png", dpi=100)
    print(f"Table, figures and picture: {folder / name}.txt, .csv and .png")


def trained(name, images, args, folder):
    """A model of models.py after training, which is kept in `folder`."""
    path = folder / f"{name}.keras"
    if folders.has_file(path):
        print(f"{name}: trained before ({path})")
        try:
            return keras.saving.load_model(path)
        except Exception as error:
            raise ModelError(
                f"Keras could not load {path}: remove it to train again. "
                f"({type(error).__name__}: {error})"
            ) from error
    keras.utils.set_random_seed(args.seed)
    model = fresh(name, images, args)
    fit(model, images, args, rate=args.learning_rate, seed=args.seed)
    # Without the optimizer, which only the backend that trained it could load.
    kept = fresh(name, images, args)
    kept.set_weights(model.get_weights())
    folders.save_model(kept, path)
    return kept


def fresh(name, images, args):
    """A model of models.py as it starts."""
    keras.backend.clear_session()  # equal names for equal layers
    return build(name, args.init, args.seed, images.shape, images.classes)


def from_file(path):
    """A saved model and its architecture with fresh weights."""
    if not pathlib.Path(path).is_file():
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
    """A trained model of keras.applications or keras_hub and one with fresh weights."""
    try:
        if hasattr(keras.applications, name):
            make = getattr(keras.applications, name)
            return make(weights=None), make(weights="imagenet")
        import keras_hub

        make = keras_hub.models.Backbone.from_preset
        return make(name, load_weights=False), make(name)
    except ImportError as error:
        raise ModelError(
            f"{name!r} is not a model of keras.applications, and for presets of keras_hub "
            f"{error.name} is needed: pip install keras-hub"
        ) from error
    except Exception as error:
        raise ModelError(
            f"The preset {name!r} could not be had. ({type(error).__name__}: {error})"
        ) from error


if __name__ == "__main__":
    script.run(main)
