"""Batches for `fit`, from TFDS or from folders of files.

Order and augmentation are functions of (seed, epoch, index), so that a run that resumes at an epoch
sees what an uninterrupted one sees, on every backend. tf.data reads, decodes and augments, on the
CPU and in threads: TFDS's usual files have no random access, which Grain would need, and TFDS reads
them with TensorFlow anyway.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from imagenet import augment
from keras_mimetic._numerics.random import fold_in

# Encoded images that TFDS's order is shuffled over, for ImageNet some 110 kB each.
_SHUFFLE_BUFFER = 16_384
_fold_in = tf.random.experimental.stateless_fold_in


@dataclasses.dataclass(frozen=True)
class Source:
    """Encoded images.

    Attributes:
        name: Name of the data set.
        classes: Number of classes.
        train: Number of training images.
        validation: Number of validation images.
        read: `read(split, seed)` returns a tf.data set of (encoded image, label), in an order that
            is a function of the seed, or in that of the files for `None`.
    """

    name: str
    classes: int
    train: int
    validation: int
    read: Callable[[str, int | None], Any]


def source(args):
    """Return the data that the options name."""
    if keras.backend.backend() != "tensorflow":
        # Accelerators are for Keras's backend.
        tf.config.set_visible_devices([], "GPU")
    return _folder(pathlib.Path(args.image_folder)) if args.image_folder else _tfds(args)


def _tfds(args):
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(args.dataset, data_dir=args.data_dir)
        if args.download:
            builder.download_and_prepare()
        counts = [builder.info.splits[split].num_examples for split in ("train", "validation")]
    except Exception as error:
        raise SystemExit(
            f"TFDS could not load {args.dataset!r}: give the folder that has it with --data-dir, "
            f"or let TFDS prepare it with --download. ({type(error).__name__}: {error})"
        ) from error

    def read(split, seed):
        images = builder.as_dataset(
            split=split,
            as_supervised=True,
            shuffle_files=seed is not None,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(shuffle_seed=seed),
        )
        return images if seed is None else images.shuffle(_SHUFFLE_BUFFER, seed)

    classes = builder.info.features["label"].num_classes
    return Source(builder.info.full_name, classes, *counts, read)


def _folder(folder):
    if not (folder / "train").is_dir():
        raise SystemExit(
            f"{folder} must have folders train/ and val/ with one folder of images per class."
        )
    classes = sorted(path.name for path in (folder / "train").iterdir())
    files = {
        split: sorted((folder / name).glob("*/*"))
        for split, name in (("train", "train"), ("validation", "val"))
    }

    def read(split, seed):
        found = files[split]
        if seed is not None:
            found = [found[n] for n in np.random.default_rng(seed).permutation(len(found))]
        labels = [classes.index(path.parent.name) for path in found]
        images = tf.data.Dataset.from_tensor_slices(([str(path) for path in found], labels))
        return images.map(lambda path, label: (tf.io.read_file(path), label))

    return Source(folder.name, len(classes), *map(len, files.values()), read)


def training(source, args, epoch, host=0, hosts=1):
    """Return a tf.data set of one epoch's batches, (images uint8, labels float32)."""
    order, of_images, of_batches = (fold_in(args.seed, epoch, use) % 2**31 for use in range(3))

    def image(number, example):
        encoded, label = example
        seed = _fold_in((of_images, 0), number)
        image = augment.random_crop(encoded, args.image_size, seed)
        image = augment.rand_augment(image, _fold_in(seed, 1), args.rand_augment, args.magnitude)
        return image, tf.one_hot(label, source.classes)

    def batch(number, examples):
        images, labels = examples
        if args.mixup:
            seed = _fold_in((of_batches, 0), number)
            images, labels = augment.mixup(images, labels, seed, args.mixup)
        return _to_bytes(images), labels

    images = source.read("train", order).enumerate().shard(hosts, host)
    batches = images.map(image, tf.data.AUTOTUNE).batch(args.batch_size // hosts)
    batches = batches.take(source.train // args.batch_size)
    return batches.enumerate().map(batch, tf.data.AUTOTUNE).prefetch(4)


def validation(source, args, host=0, hosts=1):
    """Return a tf.data set of (images uint8, labels float32, weights).

    Blank images of weight 0 fill up the last batch. The others have one weight, with which Keras's
    mean of the loss, over all places, is that of the images.
    """
    steps = -(-source.validation // args.batch_size)
    weight = steps * args.batch_size / source.validation

    def image(encoded, label):
        image = _to_bytes(augment.center_crop(encoded, args.image_size))
        return image, tf.one_hot(label, source.classes), weight

    shape = (args.image_size, args.image_size, 3)
    blank = tf.zeros(shape, tf.uint8), tf.zeros(source.classes), 0.0
    images = source.read("validation", None).shard(hosts, host).map(image, tf.data.AUTOTUNE)
    images = images.concatenate(tf.data.Dataset.from_tensors(blank).repeat())
    return images.batch(args.batch_size // hosts).take(steps).prefetch(4)


def _to_bytes(images):
    return tf.cast(tf.round(images), tf.uint8)
