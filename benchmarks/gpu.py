"""Measure one GPU: images per second in training, and the times of a state space.

    KERAS_BACKEND=jax python benchmarks/gpu.py
    KERAS_BACKEND=torch python benchmarks/gpu.py --part images

Training steps of ViT-S/16 and ConvNeXt-Tiny take images from the host's memory, in the given
precision, beside those of timm in PyTorch if it is installed. The state space is compared with the
Mamba-2 of transformers if that is installed.

Every measurement is a line of runs.csv in the output folder, with hardware and versions. A second
call continues with what is missing, on any backend, and prints all of them as a table.
"""

import contextlib
import functools
import importlib.util
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from common import options
from imagenet.recipe import MODELS

COLUMNS = ("part", "what", "value", "unit", "backend", "hardware")
TIMM = {"vit_s16": "vit_small_patch16_224", "convnext_tiny": "convnext_tiny"}
# The chunk size of transformers.
CHUNK = 256
# The names of `PARTS`, whose functions come with Keras.
NAMES = ("images", "state-space")


def parse(argv=None):
    parser, add = options.parser(__doc__)
    whole = options.positive(int)
    add("--part", nargs="+", choices=NAMES, default=list(NAMES), help=f"{', '.join(NAMES)} [all]")
    add("--model", nargs="+", choices=MODELS, default=list(TIMM), help="for images %(default)s")
    add("--image-size", type=whole, default=224, help="pixels [%(default)s]")
    add("--batch-size", type=whole, default=256, help="images [%(default)s]")
    add("--classes", type=whole, default=1000, help="of images [%(default)s]")
    seconds = "per measurement, the state space a quarter [%(default)s]"
    add("--seconds", type=options.positive(float), default=8.0, help=seconds)
    precision = {"choices": options.PRECISION, "default": "bfloat16"}
    add("--mixed-precision", **precision, help="of all parts [%(default)s]")
    sizes = "width, state_dim, head_dim and batch of the state space %(default)s"
    add("--state-space", nargs=4, type=whole, default=[1024, 128, 64, 8], help=sizes)
    add("--lengths", nargs="+", type=whole, default=[512, 2048, 8192], help="of it %(default)s")
    options.add_output(add, "results/gpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    options.start(parse)

import keras
import numpy as np

from common import folders
from common.training import adamw
from imagenet import models
from keras_mimetic.layers import MimeticStateSpace
from lib import state_space_layers
from lib.timing import wait


def main(argv=None):
    args = parse(argv)
    options.set_precision(args)
    # Each row names its settings.
    runs = folders.Runs(args.output or "results/gpu", {})
    where = folders.environment()
    for part in args.part:
        for what, unit, function in PARTS[part](args):
            if not runs.find(what=what, **where):
                row = {"part": part, "what": what, "value": _value(what, function), "unit": unit}
                runs.add({**row, **where})
    print(table(runs.rows))


def _value(what, function):
    """Return the value of a measurement as text, or why there is none."""
    try:
        return f"{function():.6g}"
    except Exception as error:
        # The memory of this GPU may be too small.
        note = str(error).strip().splitlines() or [""]
        print(f"{what}: {type(error).__name__}: {note[0]}", file=sys.stderr, flush=True)
        return f"failed: {type(error).__name__}"


def table(rows):
    """Return a Markdown table of measurements."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(row[name] for name in COLUMNS)} |" for row in rows]
    return "\n".join(lines)


# ---- Images ----


def images(args):
    """Yield training steps of models of published sizes, in images per second."""
    shape = (args.image_size, args.image_size, 3)
    sizes = f"{args.image_size} pixels, batch {args.batch_size}, {args.mixed_precision}"
    has_timm = keras.backend.backend() == "torch" and importlib.util.find_spec("timm") is not None
    for name in args.model:
        yield f"{name}, {sizes}", "images/s", functools.partial(_keras_rate, name, shape, args)
        if has_timm and name in TIMM:
            step = functools.partial(_timm_rate, TIMM[name], shape, args)
            yield f"timm {TIMM[name]}, {sizes}", "images/s", step


def _batch(shape, args):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (args.batch_size, *shape), dtype=np.uint8)
    return x, generator.integers(0, args.classes, args.batch_size, dtype=np.int32)


def _keras_rate(name, shape, args):
    model = models.MODELS[name](shape, args.classes, seed=0)
    model.compile(
        optimizer=adamw(1e-3, 0.05, 10**6, warmup=0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batch = _batch(shape, args)

    def steps(count):
        model.fit((batch for _ in range(count)), steps_per_epoch=count, verbose=0)

    return args.batch_size * _rate(steps, args.seconds)


def _timm_rate(name, shape, args):
    import timm
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(name, num_classes=args.classes).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    x, labels = (torch.from_numpy(array) for array in _batch(shape, args))

    def steps(count):
        for _ in range(count):
            pixels = x.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with _autocast(device, args):
                loss = torch.nn.functional.cross_entropy(model(pixels), labels.to(device).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        # Wait for the result.
        float(loss.detach())

    return args.batch_size * _rate(steps, args.seconds)


def _rate(work, seconds):
    """Return how often per second `work` runs, after a short warm-up."""
    work(4)
    count, elapsed = 1, 0.0
    while elapsed < seconds / 4:
        count *= 2
        begin = time.perf_counter()
        work(count)
        elapsed = time.perf_counter() - begin
    return count / elapsed


def _autocast(device, args):
    """Return the context in which PyTorch's own layers, of float32 weights, compute."""
    import torch

    dtype = torch.float16 if args.mixed_precision == "float16" else torch.bfloat16
    return torch.autocast(device, dtype=dtype, enabled=args.mixed_precision != "no")


# ---- State space ----


def state_space(args):
    """Yield one layer, forward and training step, beside a Mamba-2 of PyTorch, in milliseconds."""
    width, state_dim, _, batch = args.state_space
    names = ["ours"]
    if state_space_layers.mixer_version():
        names.append(f"transformers {CHUNK}")
    for name in names:
        for length in args.lengths:
            what = f"{name}, {width} x {length}, state {state_dim}, batch {batch}"
            for kind in ("forward", "training step"):
                label = f"{what}, {args.mixed_precision}, {kind} on {keras.backend.backend()}"
                yield label, "ms", functools.partial(_layer_time, name, kind, length, args)


def _layer_time(name, kind, length, args):
    width, state_dim, head_dim, batch = args.state_space
    x = np.random.default_rng(0).normal(size=(batch, length, width))
    x = keras.ops.convert_to_tensor(x, dtype=keras.config.dtype_policy().compute_dtype)
    layer = MimeticStateSpace(state_dim, head_dim, seed=0)
    layer.build((None, None, width))
    context = contextlib.nullcontext()
    if name != "ours":
        layer = state_space_layers.mixer(layer, CHUNK)
        context = _autocast(x.device.type, args)
    function = state_space_layers.functions(layer)[kind]
    times = []
    with context:
        end = time.perf_counter() + args.seconds / 4
        while len(times) < 4 or time.perf_counter() < end:
            start = time.perf_counter()
            wait(function(x))
            times.append(time.perf_counter() - start)
    # The first compile and allocate.
    return 1e3 * statistics.median(times[2:])


PARTS = {"images": images, "state-space": state_space}


if __name__ == "__main__":
    main()
