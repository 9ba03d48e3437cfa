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
    def classes(self):
        """Number of classes."""
        splits = (self.train, self.validation, self.test)
        return int(max(labels.max() for _, labels in splits)) + 1

    @property
    def sha256(self):
        """Digest of all images and labels, which identifies the data."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.validation, *self.test):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


def from_options(args):
    """Load the data set that the options of `options.add_data` name."""
    return load(args.dataset, args.data_dir, args.download, args.train_size)


# A process that runs several models loads its images once.
@functools.lru_cache(maxsize=1)
def load(name, data_dir=None, download=False, train_size=None):
    """Load "digits", "cifar10" (from TFDS) or an .npz file, and split off validation images."""
    if name == "digits":
        train, test = _digits()
    elif name == "cifar10":
        train, test = _tfds(name, data_dir, download)
    elif name.endswith(".npz"):
        train, test = _npz(name)
    else:
        raise SystemExit(
            f"Unknown data set {name!r}: choose 'digits', 'cifar10' or the path of an .npz file."
        )
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(train[0]))
    kept, chosen = np.split(order, [max(1, round(VALIDATION_PART * len(order)))])
    if train_size and train_size > len(chosen):
        raise SystemExit(
            f"--train-size {train_size} is more than the {len(chosen)} training images that {name} "
            f"has beside its {len(kept)} validation images."
        )
    chosen = chosen[:train_size]
    return Images(
        name=pathlib.Path(name).stem,
        train=tuple(array[chosen] for array in train),
        validation=tuple(array[kept] for array in train),
        test=test,
    )


def _digits():
    from sklearn.datasets import load_digits

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

        if keras.backend.backend() != "tensorflow":
            # TensorFlow only decodes here. The accelerator is for the backend.
            tf.config.set_visible_devices([], "GPU")
        splits = tfds.load(
            name, split=["train", "test"], data_dir=data_dir, batch_size=-1, download=download
        )
    except Exception as error:
        raise SystemExit(
            f"TFDS could not load {name!r}. Install it by pip install '.[tfds]', and give the "
            "folder that has the data set with --data-dir, or let TFDS fetch it with --download. "
            f"({type(error).__name__}: {error})"
        ) from error
    return [(split["image"].numpy(), split["label"].numpy().astype(np.int32)) for split in splits]


def _npz(path):
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path) as file:
            x_train, y_train, x_test, y_test = (file[name] for name in names)
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(
            f"{path} must be an .npz file with the arrays {', '.join(names)}, as Keras's data sets "
            f"are. ({type(error).__name__}: {error})"
        ) from error
    if x_train.dtype != np.uint8:
        raise SystemExit(f"{path} must hold uint8 images. Received: {x_train.dtype}")
    return [
        # Images without channels get one.
        (images.reshape(*images.shape[:3], -1), labels.ravel().astype(np.int32))
        for images, labels in ((x_train, y_train), (x_test, y_test))
    ]


class Batches(keras.utils.PyDataset):
    """Shuffled training batches, cropped and flipped at random with `augment`."""

    def __init__(self, images, labels, *, batch_size, seed, augment):
        super().__init__()
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
