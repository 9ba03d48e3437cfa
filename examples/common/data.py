"""Images for the examples.

Order and augmentation of the training images are functions of (seed, epoch, batch), so that runs
with equal seeds see equal data on every backend.
"""

import dataclasses
import functools
import hashlib
import pathlib

import keras
import numpy as np

from common import script

# The part of the training images that is kept for choosing, never for training.
VALIDATION_PART = 0.1
# The split is the same for every seed.
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Images:
    """Arrays of a data set: images uint8 (n, height, width, channels), labels int32 (n,)."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def shape(self):
        """Shape of one image."""
        return self.train[0].shape[1:]

    @property
    def sha256(self):
        """Digest of all images and labels, which identifies the data."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.validation, *self.test):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    @property
    def classes(self):
        """Number of classes."""
        splits = (self.train, self.validation, self.test)
        return int(max(labels.max() for _, labels in splits)) + 1


class DatasetError(script.Stop):
    """The data set is missing or malformed; says what to do."""


def from_options(args):
    """Load the data set that the options of `options.add_data` name."""
    return load(
        args.dataset, data_dir=args.data_dir, download=args.download, train_size=args.train_size
    )


# A process that runs several models loads its images once.
@functools.lru_cache(maxsize=1)
def load(name, *, data_dir=None, download=False, train_size=None):
    """Load a data set and split off the validation images.

    Args:
        name: "digits", "cifar10" or the path of an .npz file.
        data_dir: Where TFDS keeps "cifar10"; by default its own folder.
        download: Whether TFDS may fetch what is missing.
        train_size: Training images to use, of those left when the validation images are taken;
            all by default.
    """
    if name == "digits":
        train, test = _digits()
    elif name == "cifar10":
        train, test = _tfds(name, data_dir, download)
    elif str(name).endswith(".npz"):
        train, test = _npz(pathlib.Path(name).expanduser())
    else:
        raise DatasetError(
            f"Unknown data set {name!r}: choose 'digits', 'cifar10' or the path of an .npz file."
        )
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(train[0]))
    kept = max(1, round(VALIDATION_PART * len(order)))
    chosen = order[kept:]
    if train_size is not None:
        if train_size > len(chosen):
            raise DatasetError(
                f"--train-size {train_size} is more than the {len(chosen)} training images that "
                f"{name} has beside its {kept} validation images."
            )
        chosen = chosen[:train_size]
    return Images(
        name=name if name in ("digits", "cifar10") else pathlib.Path(name).stem,
        train=tuple(array[chosen] for array in train),
        validation=tuple(array[order[:kept]] for array in train),
        test=test,
    )


class Batches(keras.utils.PyDataset):
    """Shuffled training batches, cropped and flipped at random with `augment`."""

    def __init__(self, images, labels, *, batch_size, seed, augment, **kwargs):
        super().__init__(**kwargs)
        self.images, self.labels = images, labels
        self.batch_size = min(batch_size, len(images))
        self.seed, self.augment = seed, augment
        self.epoch = 0
        self._shuffle()

    def __len__(self):
        # A last, smaller batch would be a second program to compile. Its images come up in other
        # epochs.
        return len(self.images) // self.batch_size

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.images[chosen]
        if self.augment:
            images = crop_and_flip(images, self._random(index))
        return images, self.labels[chosen]

    def on_epoch_end(self):
        self.epoch += 1
        self._shuffle()

    def _shuffle(self):
        self.order = self._random().permutation(len(self.images))

    def _random(self, *place):
        return np.random.default_rng([self.seed, self.epoch, *place])


def crop_and_flip(images, random, padding=4):
    """Shift each image by up to `padding` pixels, filled with zeros, and flip half of them."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = random.integers(0, 2 * padding + 1, size=(2, count))
    images = np.moveaxis(windows[np.arange(count), down, right], 1, -1)
    flipped = random.random(count) < 0.5
    return np.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def _digits():
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DatasetError(
            "The data set 'digits' comes with scikit-learn, which is not installed: "
            "pip install scikit-learn"
        ) from error
    digits = load_digits()
    # Their 17 gray levels are 0 to 16.
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    test, train = order[:360], order[360:]
    return (images[train], labels[train]), (images[test], labels[test])


def _tfds(name, data_dir, download):
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DatasetError(
            f"The data set '{name}' is read by tensorflow-datasets with TensorFlow, and "
            f"{error.name} is not installed: in a clone of this package, pip install '.[tfds]'"
        ) from error
    if keras.backend.backend() != "tensorflow":
        # TensorFlow only decodes here. The accelerator is for the backend.
        tf.config.set_visible_devices([], "GPU")
    try:
        splits = tfds.load(
            name, split=["train", "test"], data_dir=data_dir, batch_size=-1, download=download
        )
    except Exception as error:
        raise DatasetError(
            f"TFDS could not load '{name}' from {data_dir or 'its default folder'}: give the "
            f"folder that has it with --data-dir, or let TFDS fetch it with --download. "
            f"({type(error).__name__}: {error})"
        ) from error
    return tuple(
        (split["image"].numpy(), split["label"].numpy().astype(np.int32)) for split in splits
    )


def _npz(path):
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        # Pickled objects could run code.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = [file[name] for name in names]
    except FileNotFoundError as error:
        raise DatasetError(f"There is no file {path}.") from error
    except Exception as error:
        raise DatasetError(
            f"{path} must be an .npz file with the arrays {', '.join(names)}, as Keras's data sets "
            f"are. ({type(error).__name__}: {error})"
        ) from error
    train, test = (_checked(path, *arrays[start : start + 2]) for start in (0, 2))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DatasetError(
            f"{path} must hold training and test images of one shape. Received: "
            f"{train[0].shape[1:]} and {test[0].shape[1:]}"
        )
    return train, test


def _checked(path, images, labels):
    if images.ndim == 3:
        images = images[..., None]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    is_whole = np.issubdtype(labels.dtype, np.integer) and labels.size and labels.min() >= 0
    # Classes are counted from 0: a label of millions is not one.
    if (
        (images.ndim, images.dtype) != (4, np.uint8)
        or min(images.shape[1:3]) < 4
        or labels.shape != images.shape[:1]
        or not (is_whole and labels.max() < 2**16)
    ):
        raise DatasetError(
            f"{path} must hold uint8 images (n, height, width[, channels]) of 4 x 4 pixels or more "
            f"and n integer labels from 0 on. Received: images {images.shape} {images.dtype}, "
            f"labels {labels.shape} {labels.dtype}"
        )
    return images, labels.astype(np.int32)
