"""Batches for `fit` from the sources of sources.py, or made up.

Order and augmentation are functions of (seed, epoch, index), so that a run that is
resumed at an epoch sees what an uninterrupted one sees, on every backend. tf.data
reads, decodes and augments, on the CPU and in threads: TFDS's usual files have no
random access, which Grain would need, and TFDS reads them with TensorFlow anyway.
"""

import dataclasses
import functools
import sys

import keras
import numpy as np

from common.data import DatasetError
from imagenet import sources
from keras_mimetic._numerics.random import fold_in

# Of what an epoch draws, by its number in the sub-streams of a seed.
_ORDER, _AUGMENT, _MIX = range(3)
# An epoch goes on with its own images where some are broken, but not for ever.
_PASSES = 2
_PREFETCH = 4


@dataclasses.dataclass(frozen=True)
class Host:
    """One of the processes that train a model together: it reads every `count`-th image."""

    number: int = 0
    count: int = 1


ALONE = Host()


class Batches(keras.utils.PyDataset):
    """Batches in the order in which an epoch's iterator gives them.

    Keras asks for them by number; 0 starts the iterator.

    Args:
        steps: Batches an epoch.
        start: `start(epoch)` is an iterator over one epoch's batches.
        epoch: The one whose batches they are; `Epochs` sets it in training.
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
    """Tells `Batches` which epoch it is, whatever Keras does between two of them."""

    def __init__(self, batches):
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self._batches.epoch = epoch


def synthetic(recipe, *, images, classes, seed, epoch=0, host=ALONE):
    """`Batches` (numbers of images int32, labels float32) for a model behind an `ImageBank`."""
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
        source: Of sources.py.
        recipe: A `recipe.Recipe`.
        seed: Of order and augmentation.
        host: This process among several.

    Attributes:
        broken: Images that could not be read or decoded, each time that one is met. An
            epoch of training has further images in their place; validation ends without.
        validated: Part of this host's validation images that could be read, of the last pass.
        error: What made it stop, or `None`: some backends hide that behind errors of theirs.
    """

    def __init__(self, source, recipe, *, seed, host=ALONE):
        # It needs TensorFlow, which a source has found to be there.
        from imagenet import augment

        _check_count(source.name, source.train.count, recipe)
        self.source, self.recipe, self.seed, self.host = source, recipe, seed, host
        self.broken, self.validated, self.error = [], 1.0, None
        self._augment = augment
        # `None` for what the recipe has not, and would be a large graph all the same.
        self._operations = [
            augment.RandAugment(recipe.rand_augment, recipe.magnitude)
            if recipe.rand_augment
            else None,
            augment.Erase(recipe.erase) if recipe.erase else None,
        ]
        self._mix = augment.Mix(recipe.mixup, recipe.cutmix)
        # Traced once, not at each epoch: what differs between epochs is their seed.
        tf = sources.import_tensorflow()
        self._train_image = tf.function(self._train_image, autograph=False)
        self._mixed = tf.function(self._mixed, autograph=False)

    def training(self, epoch=0):
        """`Batches` (images uint8, labels float32), first those of `epoch`."""
        recipe = self.recipe
        steps = self.source.train.count // recipe.batch_size * recipe.accumulate
        batch = recipe.batch_size // recipe.accumulate // self.host.count
        return Batches(steps, functools.partial(self._train_epoch, steps, batch), epoch)

    def validation(self):
        """`Batches` (images uint8, labels float32, weights); weight 0 is for what fills up.

        The others have one weight, with which Keras's mean of the loss is that of the images.
        """
        batch = self.recipe.batch_size // self.recipe.accumulate // self.host.count
        steps = -(-self.source.validation.count // (batch * self.host.count))
        return Batches(steps, lambda epoch: self._validation_epoch(steps, batch))

    def _train_epoch(self, steps, batch, epoch):
        import tensorflow as tf

        split, kinds = self.source.train, (_ORDER, _AUGMENT, _MIX)
        order, augment, mix = (fold_in(self.seed, epoch, kind) % 2**31 for kind in kinds)
        augment, mix = tf.constant(augment), tf.constant(mix)
        images = self._decoded(
            split.read(order).repeat(_PASSES),
            lambda place, encoded: self._train_image(augment, place, encoded),
        )
        batches = images.batch(batch, drop_remainder=True).enumerate()
        batches = batches.map(
            lambda number, whole: self._mixed(mix, number, whole),
            tf.data.AUTOTUNE,
            deterministic=True,
        ).take(steps)
        expected = self.host.number
        for place, *arrays in batches.prefetch(_PREFETCH).as_numpy_iterator():
            expected = self._note_gaps(split, order, place, expected)
            yield tuple(arrays)
        # Only reached where too many images were broken: nobody asks for a batch beyond.
        self._note_gaps(split, order, np.arange(0), expected, split.count)
        raise self._too_many_broken("training")

    def _validation_epoch(self, steps, batch):
        split = self.source.validation
        images = self._decoded(split.read(None), self._validation_image)
        batches = images.batch(batch).prefetch(_PREFETCH).as_numpy_iterator()
        expected, read = self.host.number, 0
        # Keras divides the sum of losses by all places, filled up ones too.
        weight = np.float32(steps * batch * self.host.count / split.count)
        for number, (place, *arrays) in enumerate(batches, start=1):
            # Nobody asks for more after the last one.
            last = split.count if number == steps else None
            expected = self._note_gaps(split, None, place, expected, last)
            read += len(place)
            if number == steps:
                self._check_validation(read)
            weights = np.full(len(place), weight)
            yield tuple(_filled(array, batch) for array in (*arrays, weights))
        self._note_gaps(split, None, np.arange(0), expected, split.count)
        self._check_validation(read)
        size = self.recipe.image_size
        nothing = np.zeros((0, size, size, 3), np.uint8), np.zeros((0, self.source.classes), "f")
        while True:
            yield tuple(_filled(array, batch) for array in (*nothing, np.zeros(0, "f")))

    def _check_validation(self, read):
        own = len(range(self.host.number, self.source.validation.count, self.host.count))
        self.validated = read / own if own else 1.0
        if 2 * read < own:
            raise self._too_many_broken("validation")

    def _too_many_broken(self, which):
        self.error = DatasetError(
            f"Most {which} images of {self.source.name} could not be decoded, the first of them "
            f"{', '.join(self.broken[:3])}."
        )
        return self.error

    def _decoded(self, images, decode):
        """(Place in the epoch, image, labels) of this host's images that can be decoded."""
        import tensorflow as tf

        own = images.enumerate().shard(self.host.count, self.host.number)
        return own.map(decode, tf.data.AUTOTUNE, deterministic=True).ignore_errors()

    def _train_image(self, seed, place, encoded):
        import tensorflow as tf

        own = self._augment.image_seed(seed, tf.cast(place, tf.int32))
        crop, *seeds = (
            self._augment.image_seed(own, use) for use in range(1 + len(self._operations))
        )
        opened, label = encoded
        jpeg = self.source.train.open(opened)
        image = self._augment.decode_random_crop(jpeg, self.recipe.image_size, crop)
        for operation, drawn in zip(self._operations, seeds, strict=True):
            image = operation(image, drawn) if operation else image
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

    def _note_gaps(self, split, order, place, expected, last=None):
        """Notes images from `expected` on that are missing in `place`; where the next is."""
        step = self.host.count
        last = place[-1] + step if last is None else last
        for missing in np.setdiff1d(np.arange(expected, last, step), place):
            name = split.name(order, missing % split.count)
            if name not in self.broken:
                print(f"\nLeft out, it cannot be decoded: {name}", file=sys.stderr)
            self.broken.append(name)
        return last


def _check_count(name, images, recipe):
    if images < recipe.batch_size:
        raise DatasetError(
            f"{name} has {images} training images, less than a batch of {recipe.batch_size}: "
            "choose a smaller --batch-size."
        )


def _filled(array, count):
    """With zeros at its end, `count` entries."""
    return np.concatenate([array, np.zeros((count - len(array), *array.shape[1:]), array.dtype)])
