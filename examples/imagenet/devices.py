"""Multi-device and multi-host training with each backend's own API.

- JAX: `keras.distribution`, all devices of all hosts; parallel in data, or in the model too.
- TensorFlow: `MirroredStrategy`, on one host. Keras 3 cannot train under
  `MultiWorkerMirroredStrategy` (keras-team/keras#20585).
- torch: Keras has no engine for `fit`.
"""

import contextlib
import dataclasses
import json
import os
from typing import Any

import keras
import numpy as np

from common import script
from imagenet.data import ALONE, Host


class DevicesError(script.Stop):
    """The devices cannot be used like this; says what can."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that train a model.

    Attributes:
        text: Description for the reader.
        replicas: Devices that share a batch.
        host: This process among those that train together.
        scope: Returns a context in which models are built and compiled.
    """

    text: str
    replicas: int = 1
    host: Host = ALONE
    scope: Any = contextlib.nullcontext


def use(args, recipe):
    """Let Keras use the devices that the options name."""
    backend = keras.backend.backend()
    if backend == "jax":
        return _jax(args)
    if args.model_devices > 1 or args.hosts:
        raise DevicesError(
            "--model-devices and --hosts are for KERAS_BACKEND=jax. Received: "
            f"KERAS_BACKEND={backend}"
        )
    if backend == "tensorflow":
        return _tensorflow(args, recipe)
    if args.devices and args.devices > 1:
        raise DevicesError(
            "Keras trains on one device with torch: use KERAS_BACKEND=jax or tensorflow for "
            f"several. Received: --devices {args.devices}"
        )
    return Devices("one device")


def _jax(args):
    import jax

    host = ALONE
    if args.hosts:
        if args.devices:
            raise DevicesError("Of several --hosts all devices are used: leave --devices out.")
        host = _host(args.hosts)
        keras.distribution.initialize(args.hosts[0], host.count, host.number)
    found = keras.distribution.list_devices()
    accelerated = jax.default_backend() != "cpu"
    number = args.devices or (len(found) if accelerated or args.hosts else 1)
    _check_number(number, len(found))
    if args.model_devices > 1 and not args.model.startswith("vit"):
        raise DevicesError(
            f"--model-devices shares the weights of ViTs. Received: --model {args.model}"
        )
    if number % args.model_devices:
        raise DevicesError(
            f"--model-devices {args.model_devices} must divide the number of devices, {number}."
        )
    if jax.local_device_count() % args.model_devices:
        raise DevicesError(
            f"--model-devices {args.model_devices} must divide the number of devices of each host, "
            f"{jax.local_device_count()}: hosts share no layer."
        )
    if number == 1:
        return Devices("one device")
    replicas = number // args.model_devices
    mesh = keras.distribution.DeviceMesh(
        (replicas, args.model_devices), ("batch", "model"), found[:number]
    )
    # Each host reads its own images.
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=_layout(mesh), batch_dim_name="batch", auto_shard_dataset=False
        )
        if args.model_devices > 1
        else keras.distribution.DataParallel(devices=found[:number], auto_shard_dataset=False)
    )
    text = f"{number} devices"
    if host.count > 1:
        text += f" of {host.count} hosts"
    if args.model_devices > 1:
        text += f", each layer on {args.model_devices}"
    return Devices(text, replicas, host)


def _host(hosts):
    _, *numbers = hosts
    if not all(text.isdecimal() for text in numbers) or not int(numbers[1]) < int(numbers[0]):
        raise DevicesError(
            "--hosts must be HOST:PORT, the number of hosts and that of this one, from 0. "
            f"Received: {' '.join(hosts)}"
        )
    return Host(int(numbers[1]), int(numbers[0]))


def _layout(mesh):
    """Return a layout that splits attention of a ViT by the channels of heads, MLPs by units."""
    layout = keras.distribution.LayoutMap(mesh)
    for pattern, axes in {
        r".*(query|key|value)/kernel": (None, None, "model"),
        r".*(query|key|value)/bias": (None, "model"),
        r".*attention_output/kernel": (None, "model", None),
        r".*fc1/kernel": (None, "model"),
        r".*fc1/bias": ("model",),
        r".*fc2/kernel": ("model", None),
    }.items():
        layout[pattern] = axes
    return layout


def _tensorflow(args, recipe):
    import tensorflow as tf

    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    if len(workers := config.get("cluster", {}).get("worker", [])) > 1:
        raise DevicesError(
            f"TF_CONFIG names {len(workers)} hosts, and Keras 3 does not train on several with "
            "TensorFlow (keras-team/keras#20585): use KERAS_BACKEND=jax with --hosts."
        )
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    accelerated = found[0].device_type != "CPU"
    number = args.devices or (len(found) if accelerated else 1)
    _check_number(number, len(found))
    if number == 1:
        return Devices("one device")
    if recipe.clip or recipe.accumulate > 1:
        # Keras clips gradients per device there, and cannot accumulate them.
        raise DevicesError(
            "On several devices Keras neither clips whole gradients nor accumulates them with "
            "TensorFlow: give --clip 0 --accumulate 1, or use KERAS_BACKEND=jax. Received: "
            f"--clip {recipe.clip:g} --accumulate {recipe.accumulate}"
        )
    strategy = tf.distribute.MirroredStrategy([device.name for device in found[:number]])
    return Devices(f"{number} devices, mirrored", number, scope=strategy.scope)


def check_agreement(host, epoch):
    """Raise `DevicesError` unless all hosts resume from the same epoch."""
    if host.count == 1:
        return
    from jax.experimental import multihost_utils

    epochs = multihost_utils.process_allgather(np.asarray(epoch))
    if len({*epochs.tolist()}) > 1:
        raise DevicesError(
            f"The hosts would resume from the epochs {epochs.tolist()}: they must share the folder "
            "of --output."
        )


def _check_number(number, found):
    if number > found:
        raise DevicesError(f"--devices must be from 1 to {found}, which there are. Got: {number}")
