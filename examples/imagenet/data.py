"""Batches for `fit` from the images of sources.py, or random ones.

Order and augmentation are functions of (seed, epoch, index), so that a run that resumes at an epoch
sees what an uninterrupted one sees, on every backend. tf.data reads, decodes and augments, on the
CPU and in threads: TFDS's usual files have no random access, which Grain would need, and TFDS reads
them with TensorFlow anyway.
"""

import dataclasses
import functools

import keras
import numpy as np

from common.data import DatasetError
from imagenet import sources
from keras_mimetic._numerics.random import fold_in

# Sub-streams of an epoch's seed.
_ORDER, _AUGMENT, _MIX = range(3)
_PREFETCH = 4


@dataclasses.dataclass(frozen=True)
class Host:
    """One of the processes that train a model together: it reads every `count`-th image."""

    number: int = 0
    count: int = 1


ALONE = Host()


class Batches(keras.utils.PyDataset):
    """Batches in the order in which an epoch's iterator yields them.

    Keras asks for them by number, and 0 starts the iterator.

    Args:
        steps: Batches per epoch.
        start: `start(epoch)` returns an iterator over the batches of an epoch.
        epoch: The epoch of the batches. `Epochs` sets it in training.
    """

    def __init__(self, steps, start, epoch=0):
        super().__init__()
        self.epoch = epoch
        self._steps, self._start = steps, start
        self._batches, self._next = None, None

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        if index == 0:
            self._batches, self._next = self._start(self.epoch), 0
        if index != self._next:
            raise IndexError(f"Batches come in order. Expected: {self._next}. Received: {index}")
        self._next += 1
        return next(self._batches)


class Epochs(keras.callbacks.Callback):
    """Tells `Batches` which epoch it is."""

    def __init__(self, batches):
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self._batches.epoch = epoch


def synthetic(recipe, *, images, classes, seed, epoch=0, host=ALONE):
    """Return `Batches` (numbers of images int32, labels float32) for an `ImageBank`."""
    _check_count("The synthetic data set", images, recipe)
    batch = recipe.batch_size // recipe.accumulate // host.count
    steps = images // recipe.batch_size * recipe.accumulate

    def start(epoch):
        order = np.random.default_rng([seed, epoch]).permutation(steps * batch * host.count)
        for numbers in order.astype(np.int32).reshape(steps, host.count, batch)[:, host.number]:
            yield numbers, keras.utils.to_categorical(numbers % classes, classes)

    return Batches(steps, start, epoch)


class Reader:
    """Makes batches of a source's images, as a recipe says.

    Args:
        source: A `sources.Source`.
        recipe: A `recipe.Recipe`.
        seed: Seed of order and augmentation.
        host: This process among several.

    Attributes:
        error: What stopped it, or `None`: some backends hide it behind errors of their own.
    """

    def __init__(self, source, recipe, *, seed, host=ALONE):
        tf = sources.import_tensorflow()
        from imagenet import augment

        _check_count(source.name, source.train.count, recipe)
        self.source, self.recipe, self.seed, self.host = source, recipe, seed, host
        self.error = None
        self._augment = augment
        # `None` avoids a large graph.
        self._operations = [
            augment.RandAugment(recipe.rand_augment, recipe.magnitude)
            if recipe.rand_augment
            else None,
            augment.Erase(recipe.erase) if recipe.erase else None,
        ]
        self._mix = augment.Mix(recipe.mixup, recipe.cutmix)
        self._batch = recipe.batch_size // recipe.accumulate // host.count
        # Traced once, because only seeds differ between epochs.
        self._train_image = tf.function(self._train_image, autograph=False)
        self._mixed = tf.function(self._mixed, autograph=False)

    def training(self, epoch=0):
        """Return `Batches` (images uint8, labels float32), starting with those of `epoch`."""
        steps = self.source.train.count // self.recipe.batch_size * self.recipe.accumulate
        return Batches(steps, functools.partial(self._train_epoch, steps), epoch)

    def validation(self):
        """Return `Batches` (images uint8, labels float32, weights). Padding has weight 0.

        The others have one weight, with which Keras's mean of the loss is that of the images.
        """
        steps = -(-self.source.validation.count // (self._batch * self.host.count))
        return Batches(steps, lambda epoch: self._validation_epoch(steps))

    def _train_epoch(self, steps, epoch):
        import tensorflow as tf

        split, kinds = self.source.train, (_ORDER, _AUGMENT, _MIX)
        order, augment, mix = (fold_in(self.seed, epoch, kind) % 2**31 for kind in kinds)
        augment, mix = tf.constant(augment), tf.constant(mix)
        images = self._decoded(
            split.read(order), lambda place, encoded: self._train_image(augment, place, encoded)
        )
        # With the remainder: a batch that lacks an image must not be dropped as a whole.
        batches = images.batch(self._batch).enumerate()
        batches = batches.map(
            lambda number, batch: self._mixed(mix, number, batch),
            tf.data.AUTOTUNE,
            deterministic=True,
        )
        yield from self._checked(batches, split, order, steps)

    def _validation_epoch(self, steps):
        split = self.source.validation
        batches = self._decoded(split.read(None), self._validation_image).batch(self._batch)
        # Keras divides the sum of losses by all places, also those of the padding.
        weight = np.float32(steps * self._batch * self.host.count / split.count)
        for images, labels in self._checked(batches, split, None, steps):
            arrays = images, labels, np.full(len(images), weight)
            yield tuple(_padded(array, self._batch) for array in arrays)

    def _decoded(self, images, decode):
        """Return (place in the epoch, image, labels) of this host's images that can be decoded."""
        import tensorflow as tf

        own = images.enumerate().shard(self.host.count, self.host.number)
        return own.map(decode, tf.data.AUTOTUNE, deterministic=True).ignore_errors()

    def _checked(self, batches, split, order, steps):
        """Yield the arrays of each batch. Raise `DatasetError` if an image is missing in it."""
        iterator = batches.prefetch(_PREFETCH).as_numpy_iterator()
        own = np.arange(self.host.number, split.count, self.host.count)
        size = self.recipe.image_size
        nothing = np.zeros((0, size, size, 3), np.uint8), np.zeros((0, self.source.classes), "f")
        for step in range(steps):
            expected = own[step * self._batch :][: self._batch]
            place, *arrays = next(iterator, (own[:0], *nothing))
            if missing := sorted({*expected} - {*place}):
                name = split.name(order, missing[0])
                error = DatasetError(f"{name!r} cannot be decoded: remove or replace it.")
                # The first: images of a batch that a backend cancels are missing, too.
                self.error = self.error or error
                raise error
            yield tuple(arrays)

    def _train_image(self, seed, place, encoded):
        import tensorflow as tf

        own = self._augment.image_seed(seed, tf.cast(place, tf.int32))
        crop, *seeds = (
            self._augment.image_seed(own, use) for use in range(1 + len(self._operations))
        )
        opened, label = encoded
        jpeg = self.source.train.open(opened)
        image = self._augment.decode_random_crop(jpeg, self.recipe.image_size, crop)
        for operation, own_seed in zip(self._operations, seeds, strict=True):
            image = operation(image, own_seed) if operation else image
        return place, image, tf.one_hot(label, self.source.classes)

    def _mixed(self, seed, number, batch):
        import tensorflow as tf

        place, images, labels = batch
        # Hosts have images of their own, but batches of equal numbers.
        number = tf.cast(number, tf.int32) * self.host.count + self.host.number
        return place, *self._mix(images, labels, self._augment.image_seed(seed, number))

    def _validation_image(self, place, encoded):
        import tensorflow as tf

        opened, label = encoded
        jpeg = self.source.validation.open(opened)
        image = self._augment.decode_center(jpeg, self.recipe.image_size)
        return place, image, tf.one_hot(label, self.source.classes)


def _check_count(name, images, recipe):
    if images < recipe.batch_size:
        raise DatasetError(
            f"{name} has {images} training images, less than a batch of {recipe.batch_size}: "
            "choose a smaller --batch-size."
        )


def _padded(array, count):
    """Append zeros up to `count` entries."""
    return np.concatenate([array, np.zeros((count - len(array), *array.shape[1:]), array.dtype)])
