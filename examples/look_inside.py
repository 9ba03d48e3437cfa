"""Shows the structures of mimetic initialization in trained weights.

    python examples/look_inside.py                           # trains on embedded digits, CPU
    python examples/look_inside.py --dataset cifar10 --model vit convmixer convnext --epochs 20
    python examples/look_inside.py --weights FILE.keras
    python examples/look_inside.py --preset ConvNeXtTiny     # of keras.applications; fetches it
    python examples/look_inside.py --preset vit_base_patch16_224_imagenet    # of keras_hub

Each model is measured before and after its training (a file's or a preset's model
beside fresh weights of its own architecture). The tables, a CSV file of all
figures and a picture of each model are in the output folder; so is each trained
model, as a .keras file, and a second call does not train it again.
"""

import argparse
import functools

import keras
import options
from models import MODELS
from training import INITS, INITS_HELP, build, evaluate, fit


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = functools.partial(parser.add_argument, metavar="")
    what = parser.add_mutually_exclusive_group()
    models = f"models to train: {', '.join(MODELS)} [vit convmixer]"
    what.add_argument("--model", nargs="+", choices=MODELS, metavar="", help=models)
    weights = "a saved Keras model to look into instead"
    what.add_argument("--weights", metavar="FILE.keras", help=weights)
    preset = "a trained model of keras.applications or keras_hub instead"
    what.add_argument("--preset", metavar="NAME", help=preset)
    options.add_data(add, parser)
    add("--init", choices=INITS, default="default", help=f"{INITS_HELP} [%(default)s]")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add("--learning-rate", type=options.positive(float), default=2e-3, help="[0.002]")
    options.add_training(add, epochs=20)
    add("--output", help="folder for the results [results/look-inside-DATASET-BACKEND]")
    args = parser.parse_args(argv)
    args.model = list(dict.fromkeys(args.model or ["vit", "convmixer"]))
    options.resolve(args)
    return args


def trained(name, images, args, folder):
    """A model of models.py before and after training; the latter is kept in `folder`."""
    path = folder / f"{name}.keras"
    before = build(name, args.init, args.seed, images.shape, images.classes)
    if path.exists():
        print(f"{name}: trained before ({path})")
        return before, keras.saving.load_model(path)
    keras.utils.set_random_seed(args.seed)
    model = build(name, args.init, args.seed, images.shape, images.classes)
    fit(model, images, args, rate=args.learning_rate, seed=args.seed)
    print(f"{name}: test accuracy {100 * evaluate(model, images):.2f} %")
    # Without the optimizer, which only the backend that trained it could load.
    after = build(name, args.init, args.seed, images.shape, images.classes)
    after.set_weights(model.get_weights())
    part = path.with_suffix(".part.keras")
    after.save(part)
    part.replace(path)
    return before, after
