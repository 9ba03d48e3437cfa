"""Images for the examples: what is chosen is loaded, and nothing else imported.

Order and augmentation of the training images are functions of
(seed, epoch, batch), so that runs with equal seeds see equal data on every
backend.
"""

import dataclasses
import hashlib
import pathlib

import keras
import numpy as np

from common import script

# The part of the training images that is kept for choosing, never for training.
VALIDATION_PART = 0.1
# The same split for every seed.
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
        """Digest of all images and labels, which tells data sets of one name apart."""
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
    """The data set is not there, or is not what it should be; says what to do."""


def from_options(args):
    """Load the data set that the options of `options.add_data` name."""
    return load(
        args.dataset, data_dir=args.data_dir, download=args.download, train_size=args.train_size
    )


def load(name, *, data_dir=None, download=False, train_size=None):
    """Loads a data set and splits off the validation images.

    Args:
        name: "digits", "cifar10" or the path of an .npz file.
        data_dir: Where TFDS keeps "cifar10"; by default its own place.
        download: Whether TFDS may fetch what is not there.
        train_size: How many training images to use, of those left when the
            validation images are taken; all by default.
    """
    if name == "digits":
        train, test = _digits()
    elif name == "cifar10":
        train, test = _tfds(name, data_dir, download)
    elif str(name).endswith(".npz"):
        train, test = _npz(pathlib.Path(name))
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
    """Shuffled training batches, cropped and flipped at random if `augment`."""

    def __init__(self, images, labels, *, batch_size, seed, augment, **kwargs):
        super().__init__(**kwargs)
        self.images, self.labels = images, labels
        self.batch_size = min(batch_size, len(images))
        self.seed, self.augment = seed, augment
        self.epoch = 0
        self._shuffle()

    def __len__(self):
        # A last, smaller batch would be a second program to compile; its
        # images come up in other epochs.
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
    """Shifts each image by up to `padding` pixels (zeros come in) and flips half of them."""
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
    # 17 grey levels, 0 to 16.
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
        # TensorFlow only decodes here; the accelerator is for the backend.
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
    if not path.is_file():
        raise DatasetError(f"There is no file {path}.")
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        # No pickled objects, which could run code.
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, no archive")
            missing = sorted({*names} - {*file.files})
            arrays = {} if missing else {name: file[name] for name in names}
        if wrong := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{', '.join(wrong)} is no array")
    except (Exception, MemoryError) as error:
        raise DatasetError(
            f"{path} cannot be read as an .npz file of arrays. ({type(error).__name__}: {error})"
        ) from error
    if missing:
        raise DatasetError(
            f"{path} must hold the arrays x_train, y_train, x_test and y_test, as Keras's "
            f"own data sets do. Missing: {', '.join(missing)}."
        )
    pairs = [(arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test")]
    train, test = (_checked(path, images, labels) for images, labels in pairs)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DatasetError(
            f"{path} must hold training and test images of one shape. Found "
            f"{train[0].shape[1:]} and {test[0].shape[1:]}."
        )
    _check_sizes(path, train, test)
    return tuple((images, labels.astype(np.int32)) for images, labels in (train, test))


# The smallest image that all models of models.py take.
_SMALLEST = 4


def _check_sizes(path, train, test):
    count, (height, width, channels) = len(train[0]), train[0].shape[1:]
    if count < 2 or not len(test[0]):
        raise DatasetError(
            f"{path} must hold two training images or more, of which one is kept for validation, "
            f"and a test image. Found {count} and {len(test[0])}."
        )
    if min(height, width) < _SMALLEST or not channels:
        raise DatasetError(
            f"{path} must hold images of {_SMALLEST} x {_SMALLEST} pixels or more, with a channel "
            f"or more. Found {(height, width, channels)}."
        )
    largest = max(int(labels.max()) for _, labels in (train, test))
    if largest >= count + len(test[0]):
        raise DatasetError(
            f"{path} must hold labels that count the classes from 0. Found the label {largest}, "
            f"with {count + len(test[0])} images."
        )


def _checked(path, images, labels):
    if images.ndim == 3:
        images = images[..., None]
    labels = labels.reshape(len(labels), -1 if labels.size else 1) if labels.ndim else labels
    whole = np.issubdtype(labels.dtype, np.integer) and (labels >= 0).all()
    if (
        images.ndim != 4
        or images.dtype != np.uint8
        or labels.shape != (len(images), 1)
        or not whole
    ):
        raise DatasetError(
            f"{path} must hold uint8 images of shape (n, height, width[, channels]) and n integer "
            f"labels >= 0. Found images {images.shape} {images.dtype} and labels {labels.shape} "
            f"{labels.dtype}."
        )
    # Not yet int32, in which large ones would be others.
    return images, labels[:, 0]
