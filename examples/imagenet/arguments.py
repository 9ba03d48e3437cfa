"""Train a network of a published size on ImageNet, from the initial weights that --init names.

    python examples/imagenet --data-dir DIR --model vit_s16 --init all
    python examples/imagenet --image-folder DIR --model convnext_tiny --preset full
    python examples/imagenet --dataset synthetic --speed --mixed-precision bfloat16
    KERAS_BACKEND=jax python examples/imagenet --data-dir DIR --hosts 10.0.0.1:1234 4 0

The same code runs on every backend that KERAS_BACKEND names. Each epoch leaves a checkpoint,
the metrics and a picture of the curves in the output folder. --resume continues from the last
whole epoch; the result equals that of an uninterrupted run.
"""

import argparse
import functools

from common import options
from imagenet import recipe as recipes


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.adder(parser)
    sets = "a TFDS data set with images and labels, or synthetic, for speed alone [%(default)s]"
    add("--dataset", type=options.text, default="imagenet2012", help=sets)
    add("--data-dir", type=options.text, help="folder of TFDS data sets [TFDS's own]")
    parser.add_argument(
        "--download", action="store_true", help="let TFDS prepare what is not there"
    )
    add(
        "--image-folder",
        type=options.text,
        help="folder with train/ and val/, a folder a class, instead",
    )
    size = "images an epoch of --dataset synthetic [ImageNet's]"
    add("--synthetic-images", type=options.positive(int), default=1_281_167, help=size)
    buffer = "encoded images that TFDS's order is mixed over [%(default)s]"
    add("--shuffle-buffer", type=options.positive(int), default=16_384, help=buffer)
    models = f"network: {', '.join(options.IMAGENET_MODELS)} [%(default)s]"
    add("--model", choices=options.IMAGENET_MODELS, default="vit_s16", help=models)
    add("--init", choices=options.INITS, default="all", help=f"{options.INITS_HELP} [%(default)s]")
    add("--seed", type=options.seed, default=0, help="of weights and batches [%(default)s]")
    recipes.add_options(add)
    options.add_computation(add)
    options.add_devices(add)
    flag = functools.partial(parser.add_argument, action="store_true")
    flag("--resume", help="go on from the last whole epoch in the output folder, if there is one")
    flag("--tensorboard", help="logs for TensorBoard, too (needs TensorFlow)")
    flag("--speed", help="only print what data alone and steps alone take, and the recipe")
    options.add_verbose(add)
    add(
        "--output",
        type=options.text,
        help="folder for the results [results/imagenet-MODEL-INIT-seedSEED-BACKEND]",
    )
    return parser.parse_args(argv)
