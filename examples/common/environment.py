"""Backend, hardware and versions, as every output names them."""

import importlib
import os
import pathlib
import platform


def current():
    """Return backend, hardware and versions, as a dict of texts."""
    # Here, because reading results needs no Keras.
    import keras

    backend = keras.backend.backend()
    modules = {name: importlib.import_module(name) for name in ("keras", "keras_mimetic", backend)}
    versions = {name: module.__version__ for name, module in modules.items()}
    versions["python"] = platform.python_version()
    return {
        "backend": backend,
        "hardware": _hardware(backend),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }


def _hardware(backend):
    gpus = []
    if backend == "torch":
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    elif backend == "jax":
        import jax

        gpus = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    elif backend == "tensorflow":
        import tensorflow as tf

        gpus = [
            tf.config.experimental.get_device_details(d).get("device_name", d.name)
            for d in tf.config.list_physical_devices("GPU")
        ]
    if gpus:
        return f"{len(gpus)} x {gpus[0]}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} core{'s' if cores != 1 else ''}"


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def summary(rows):
    """Return hardware and versions of some rows, as text."""
    distinct = dict.fromkeys(
        f"{row['backend']}, {row['hardware']} ({row['versions']})" for row in rows
    )
    return " and ".join(distinct)
