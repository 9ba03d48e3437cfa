"""Show the structures of mimetic initialization in trained weights.

    KERAS_BACKEND=jax python examples/look_inside.py       # trains on scikit-learn's digits, CPU
    KERAS_BACKEND=jax python examples/look_inside.py --dataset cifar10 --model vit convmixer
    KERAS_BACKEND=jax python examples/look_inside.py --weights FILE.keras
    KERAS_BACKEND=jax python examples/look_inside.py --preset ConvNeXtTiny    # keras.applications
    KERAS_BACKEND=jax python examples/look_inside.py --preset vit_base_patch16_224_imagenet

The last is a preset of keras_hub. Each model is measured before and after its training; that of a
file or a preset beside fresh weights of its own architecture. The output folder has for each model
the tables, the picture, all figures as CSV, and what was trained as a .keras file.
"""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from common import options


def parse(argv=None):
    parser, add = options.parser(__doc__)
    what = parser.add_mutually_exclusive_group()
    models = "models to train [vit convmixer]"
    what.add_argument("--model", nargs="+", choices=options.MODELS, help=models)
    weights = "a saved Keras model to look into instead"
    what.add_argument("--weights", metavar="FILE.keras", help=weights)
    preset = "a trained model of keras.applications or keras_hub instead"
    what.add_argument("--preset", metavar="NAME", help=preset)
    rule = "a structure for layers with a weight whose path matches, as `rules` of `measure`"
    add("--rule", nargs=2, action="append", default=[], metavar=("REGEX", "STRUCTURE"), help=rule)
    options.add_data(add)
    add("--init", choices=options.INITS, default="default", help=options.INITS_HELP)
    add("--seed", type=int, default=0, help="of weights and batches [%(default)s]")
    add("--learning-rate", type=options.positive(float), default=2e-3, help="peak rate [0.002]")
    options.add_training(add, epochs=20)
    options.add_output(add, "results/look-inside-DATASET-BACKEND")
    args = parser.parse_args(argv)
    options.resolve(args)
    return args


if __name__ == "__main__":
    options.start(parse)

import keras

import keras_mimetic
from cifar10 import build, compile_model, evaluate, fit
from common import data, folders

# The 1x1 convolutions of a ConvMixer stand in for an MLP.
RULES = {"convmixer": {r"pointwise_\d+/": "mlp"}}


def main(argv=None):
    args = parse(argv)
    source = args.weights or args.preset
    images = None if source else data.from_options(args)
    name = re.sub(r"\W+", "-", pathlib.Path(source).stem) if source else images.name
    folder = args.output or f"results/look-inside-{name}-{keras.backend.backend()}"
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    where = folders.summary([folders.environment()])
    if source:
        before, after = from_file(source) if args.weights else from_preset(source)
        title = f"{source} (before: fresh weights); {where}"
        show(folder / name, title, *(measure(model, args) for model in (before, after)))
        return
    options.set_precision(args)
    for name in args.model or ("vit", "convmixer"):
        keras.utils.set_random_seed(args.seed)
        model = build(name, args.init, args.seed, images)
        before = measure(model, args)
        compile_model(model, images, args, args.learning_rate)
        fit(model, images, args, args.seed)
        model.save(folder / f"{name}.keras")
        title = (
            f"{name}, init {args.init}, rate {args.learning_rate:g}, seed {args.seed}, test "
            f"accuracy {100 * evaluate(model, images):.2f} %; "
            f"{options.headline(args, images, where)}"
        )
        show(folder / name, title, before, measure(model, args))


def from_file(path):
    """Return a new model with fresh weights, and the saved model of a file."""
    model = keras.saving.load_model(path, compile=False)
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model)), model


def from_preset(name):
    """Return a model of keras.applications or keras_hub, with fresh weights and trained."""
    if make := getattr(keras.applications, name, None):
        return make(weights=None), make(weights="imagenet")
    import keras_hub

    make = keras_hub.models.Backbone.from_preset
    return make(name, load_weights=False), make(name)


def measure(model, args):
    """Measure the structures of a model, with the rules of its name and the given ones."""
    rules = {**RULES.get(model.name, {}), **dict(args.rule)}
    return keras_mimetic.measure(model, rules=rules)


def show(path, title, before, after):
    """Print what was measured, and write it to files with this path and different suffixes."""
    text = f"{title}\n\nBEFORE: {before}\n\nAFTER: {after}"
    print(f"\n{text}\n")
    folders.write(path.with_name(f"{path.name}.txt"), text + "\n")
    pair = {"before": before, "after": after}
    rows = [{"when": when, **row} for when, seen in pair.items() for row in seen.to_dicts()]
    if rows:
        folders.write_rows(path.with_name(f"{path.name}.csv"), rows)
        picture = after.plot(before=before, title=title)
        picture.savefig(path.with_name(f"{path.name}.png"), dpi=100)
    print(f"Table, figures and picture: {path}.txt, .csv and .png")


if __name__ == "__main__":
    main()
