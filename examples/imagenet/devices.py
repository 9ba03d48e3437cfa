"""Training on several devices with each backend's own API.

- JAX: `keras.distribution`, all devices of all hosts. Each host has its number and that of all
  hosts in the environment variables of `keras.distribution.initialize`.
- TensorFlow: `MirroredStrategy`, on one host. Keras 3 cannot train under
  `MultiWorkerMirroredStrategy` (keras-team/keras#20585).
- torch: one device, since Keras has no engine for `fit` on more.
"""

import contextlib
import dataclasses
import os
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that train a model.

    Attributes:
        count: Devices that share a batch.
        host: Number of this process among those that train together.
        hosts: Number of these processes.
        scope: Returns a context in which models are built and compiled.
    """

    count: int = 1
    host: int = 0
    hosts: int = 1
    scope: Any = contextlib.nullcontext


def use_all(args):
    """Let Keras use all devices."""
    found = Devices()
    if keras.backend.backend() == "jax":
        found = _jax()
    elif keras.backend.backend() == "tensorflow":
        found = _tensorflow(args)
    if args.batch_size % found.count:
        raise SystemExit(f"--batch-size must be a multiple of {found.count}, for all devices.")
    return found


def _jax():
    import jax

    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
    devices = keras.distribution.list_devices()
    if len(devices) > 1:
        # Each host reads its own images.
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
        )
    return Devices(len(devices), jax.process_index(), jax.process_count())


def _tensorflow(args):
    import tensorflow as tf

    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) == 1:
        return Devices()
    if args.clip:
        raise SystemExit(
            "Keras does not clip the gradients of several devices together with TensorFlow: give "
            "--clip 0, or use KERAS_BACKEND=jax."
        )
    strategy = tf.distribute.MirroredStrategy([device.name for device in found])
    return Devices(len(found), scope=strategy.scope)
