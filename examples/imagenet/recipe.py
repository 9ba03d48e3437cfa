"""Train a network of a published size on ImageNet, from the initial weights that --init names.

    KERAS_BACKEND=jax python examples/imagenet --data-dir DIR --model vit_s16 --init all
    KERAS_BACKEND=jax python examples/imagenet --image-folder DIR --preset full
    KERAS_BACKEND=jax python examples/imagenet --dataset synthetic --model vit_trial

The same code runs on every backend. Each epoch leaves a checkpoint, the metrics and a picture of
the curves in the output folder. The same command continues from the last complete epoch, and the
result equals that of an uninterrupted run.
"""

from common import options

# models.py has them.
MODELS = (
    *("vit_ti16", "vit_s16", "convnext_atto", "convnext_tiny", "convmixer_512_12"),
    *("vit_trial", "convnext_trial"),
)
PRESETS = ("short", "full")
# Options with their values in both presets. "full" is near DeiT's (arXiv:2012.12877), without
# cutmix, random erasing and repeated augmentation. Its warm-up and average are ConvNeXt's
# (arXiv:2201.03545), the clipping is ours. "short" is ours.
RECIPE = {
    "epochs": (50, 300, "passes over the images"),
    "batch_size": (1024, 1024, "images per step, on all devices together"),
    "learning_rate": (1e-3, 1e-3, "peak rate of AdamW, before a cosine decay"),
    "warmup_epochs": (5.0, 20.0, "epochs in which the rate rises from 0"),
    "weight_decay": (0.05, 0.05, "of AdamW; not on norms and biases"),
    "clip": (1.0, 1.0, "largest global norm of the gradient, 0: none"),
    "smoothing": (0.1, 0.1, "of labels"),
    "ema": (0.0, 0.9999, "average of the weights, part kept at each step, 0: none"),
    "drop_path": (0.0, 0.1, "stochastic depth of the last layer"),
    "image_size": (224, 224, "pixels of each side"),
    "rand_augment": (2, 2, "operations of RandAugment per image"),
    "magnitude": (6.0, 9.0, "of RandAugment, 0 to 10"),
    "mixup": (0.1, 0.8, "alpha of mixup, 0: none"),
}


def parse(argv=None):
    parser, add = options.parser(__doc__)
    sets = "a TFDS data set, or synthetic, a few random images for a trial [%(default)s]"
    add("--dataset", default="imagenet2012", help=sets)
    add("--data-dir", help="folder of TFDS data sets [TFDS's own]")
    add("--download", action="store_true", help="let TFDS prepare what is missing")
    folder = "folder with train/ and val/, one folder per class, instead"
    add("--image-folder", metavar="FOLDER", help=folder)
    add("--model", choices=MODELS, default="vit_s16", help="network [%(default)s]")
    add("--init", choices=options.INITS, default="all", help=options.INITS_HELP)
    add("--seed", type=int, default=0, help="of weights and batches [%(default)s]")
    add("--preset", choices=PRESETS, default="short", help="of what follows [%(default)s]")
    for name, (short, full, text) in RECIPE.items():
        kind = options.positive(type(short), zero=True)
        add(f"--{name.replace('_', '-')}", type=kind, help=f"{text} [{short:g}, full {full:g}]")
    options.add_computation(add)
    options.add_verbose(add)
    options.add_output(add, "results/imagenet-MODEL-INIT-seedSEED-BACKEND")
    number = PRESETS.index(parser.parse_known_args(argv)[0].preset)
    parser.set_defaults(**{name: values[number] for name, values in RECIPE.items()})
    args = parser.parse_args(argv)
    if args.drop_path and args.model.startswith("convmixer"):
        parser.error(f"argument --drop-path: must be 0 for {args.model}, not {args.drop_path:g}")
    return args
