"""The parts of gpu.py: generators of names, units, and functions that measure."""

import argparse
import contextlib
import functools
import itertools
import pathlib
import statistics
import subprocess
import sys
import time

import keras
import numpy as np

from common import folders
from common.training import adamw
from imagenet.models import MODELS
from lib import state_space_layers, variants
from lib.timing import wait

TIMM = {"vit_s16": "vit_small_patch16_224", "convnext_tiny": "convnext_tiny"}
_COMPARE = pathlib.Path(__file__).resolve().parent.parent / "compare.py"


def images(args, results):
    """Yield training steps of models of published sizes, in images per second."""
    shape = (args.image_size, args.image_size, 3)
    sizes = f"{args.image_size} pixels, batch {args.batch_size}, {args.mixed_precision}"
    for name in args.model:
        step = functools.partial(_keras_rate, name, shape, args)
        yield f"{name}, {sizes}", "images/s", step
        if keras.backend.backend() == "torch" and name in TIMM:
            step = functools.partial(_timm_rate, TIMM[name], shape, args)
            yield f"timm {TIMM[name]}, {sizes}", "images/s", step


def _batch(shape, args):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (args.batch_size, *shape), dtype=np.uint8)
    return x, generator.integers(0, args.classes, args.batch_size, dtype=np.int32)


def _keras_rate(name, shape, args):
    model = MODELS[name](shape, args.classes, seed=0)
    model.compile(
        optimizer=adamw(1e-3, 0.05, 10**6, warmup=0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batch = _batch(shape, args)

    def steps(count):
        model.fit((batch for _ in range(count)), steps_per_epoch=count, verbose=0)

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


def _timm_rate(name, shape, args):
    import timm
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(name, num_classes=args.classes).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    x, labels = (torch.from_numpy(array) for array in _batch(shape, args))
    is_mixed, dtype = args.mixed_precision != "no", _torch_dtype(args)

    def steps(count):
        for _ in range(count):
            pixels = x.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast(device, dtype=dtype, enabled=is_mixed):
                loss = torch.nn.functional.cross_entropy(model(pixels), labels.to(device).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        # Wait for the result.
        float(loss.detach())

    return args.batch_size * _rate(steps, args.seconds)


def _torch_dtype(args):
    import torch

    return torch.float16 if args.mixed_precision == "float16" else torch.bfloat16


def state_space(args, results):
    """Yield one layer, forward and training step, beside a Mamba-2 of PyTorch, in milliseconds."""
    width, state_dim, head_dim, batch = args.state_space
    sizes = argparse.Namespace(
        width=width,
        state_dim=state_dim,
        head_dim=head_dim,
        beside=[state_space_layers.TRANSFORMERS],
        their_chunks=[256],
    )
    names, _ = state_space_layers.layers(sizes)
    for name in names:
        for length in args.lengths:
            what = f"{name}, {width} x {length}, state {state_dim}, batch {batch}"
            for kind in state_space_layers.KINDS:
                run = functools.partial(_layer_times, name, kind, sizes, (batch, length), args)
                label = f"{what}, {args.mixed_precision}, {kind} on {keras.backend.backend()}"
                yield label, "ms", run


def _layer_times(name, kind, sizes, shape, args):
    x = np.random.default_rng(0).normal(size=(*shape, sizes.width))
    x = keras.ops.convert_to_tensor(x, dtype=keras.config.dtype_policy().compute_dtype)
    function = state_space_layers.functions(name, sizes)[kind]
    context = contextlib.nullcontext()
    if name != state_space_layers.OURS and args.mixed_precision != "no":
        import torch

        # Its weights are float32.
        context = torch.autocast(x.device.type, dtype=_torch_dtype(args))
    times = []
    with context:
        end = time.perf_counter() + args.seconds / 4
        while len(times) < 4 or time.perf_counter() < end:
            start = time.perf_counter()
            wait(function(x))
            times.append(time.perf_counter() - start)
    # The first compile and allocate.
    return 1e3 * statistics.median(times[2:])


def cifar10(args, results):
    """Yield runs of compare.py, as many as fit in the time that is left, by test accuracy."""
    if wrong := [name for name in args.cifar_model if name not in variants.MODELS]:
        raise SystemExit(
            f"--cifar-model must be among {', '.join(variants.MODELS)}, not {', '.join(wrong)}"
        )
    for name in args.variant:
        try:
            variants.parse(name)
        except ValueError as error:
            raise SystemExit(f"--variant: {error}") from None
    # compare.py does not mix settings, so that each has a folder of its own.
    settings = (
        f"{pathlib.Path(args.dataset).stem}-{args.train_size or 'all'}-{args.augment}"
        f"-{args.epochs}-{args.mixed_precision}"
    )
    folder = results.path.parent / f"compare-{keras.backend.backend()}-{settings}"
    pairs = itertools.product(range(args.seeds), args.cifar_model, args.variant)
    names = [_run_name(model, variant, seed, args) for seed, model, variant in pairs]
    # The first call runs all that fit in the time.
    runs = functools.cache(functools.partial(_compare, args, results, folder))
    for name in names:
        yield name, "% of test images", runs


def _compare(args, results, folder):
    command = [
        *(sys.executable, _COMPARE, "--dataset", args.dataset, "--output", folder),
        *("--model", *args.cifar_model, "--variant", *args.variant, "--seeds", args.seeds),
        *("--epochs", args.epochs, "--learning-rate", 2e-3, "--validate", "last"),
        *("--mixed-precision", args.mixed_precision, "--augment", args.augment),
        *(("--data-dir", args.data_dir) if args.data_dir else ()),
        *(("--train-size", args.train_size) if args.train_size else ()),
        *(("--download",) if args.download else ()),
    ]
    command = list(map(str, command))
    code = 0
    # The runs that ended are kept.
    with contextlib.suppress(subprocess.TimeoutExpired):
        seconds = max(1.0, results.left() - 5)
        code = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=seconds).returncode
    runs = {
        _run_name(run["model"], run["init"], run["seed"], args): 100 * run["test_accuracy"]
        for run in folders.Runs(folder).rows
    }
    if code and not runs:
        raise RuntimeError(f"compare.py ended with status {code}")
    return runs


def _run_name(model, variant, seed, args):
    images = f"{args.dataset}, {args.train_size or 'all'} images, augmentation {args.augment}"
    how = f"{args.epochs} epochs, {args.mixed_precision}"
    return f"{model}, {variant}, seed {seed}, {images}, {how}"


PARTS = {"images": images, "state-space": state_space, "cifar10": cifar10}
