"""Encoded images from TFDS or from folders of files."""

import dataclasses
import functools
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from common.data import DatasetError

_SUFFIXES = (".jpeg", ".jpg", ".png")


@dataclasses.dataclass(frozen=True)
class Split:
    """Encoded images of one split.

    Attributes:
        count: Number of images.
        read: `read(seed)` returns a tf.data set of (what `open` takes, label), in an order that is
            a function of the seed, or in that of the files for `None`.
        open: Returns the encoded image, given what `read` yields, in a graph.
        name: `name(seed, index)` names the image with this index in `read(seed)`.
    """

    count: int
    read: Callable[[int | None], Any]
    open: Callable[[Any], Any]
    name: Callable[[int | None, int], str]


@dataclasses.dataclass(frozen=True)
class Source:
    """Two splits with the same classes; `version` is equal for equal images."""

    name: str
    version: str
    classes: int
    train: Split
    validation: Split


def import_tensorflow():
    """Return TensorFlow, which only reads and decodes: accelerators are for Keras's backend."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise DatasetError(
            "Images are read and decoded by TensorFlow, which is not installed: in a clone of this "
            "package, pip install '.[tfds]'. (--dataset synthetic needs no TensorFlow.)"
        ) from error
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")
    return tf


def tfds(name, *, data_dir=None, download=False, shuffle_buffer=16_384):
    """Return a data set of TFDS with the features image and label, such as "imagenet2012".

    Its files are read in random order, sixteen at a time, and a buffer of `shuffle_buffer` encoded
    images is shuffled (for ImageNet some 110 kB each).
    """
    import_tensorflow()
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DatasetError(
            f"The data set '{name}' is read by tensorflow-datasets, and {error.name} is not "
            "installed: in a clone of this package, pip install '.[tfds]'"
        ) from error
    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir)
        if download:
            builder.download_and_prepare()
        splits = builder.info.splits
        classes = builder.info.features["label"].num_classes
        counts = {split: splits[split].num_examples for split in ("train", "validation")}
        reads = {split: functools.partial(_read_tfds, builder, split) for split in counts}
        reads["validation"](None)  # Fails now if the files cannot be read.
    except Exception as error:
        raise DatasetError(
            f"TFDS could not load '{name}' from {data_dir or 'its default folder'}: give the "
            "folder that has it, as TFRecord files, with --data-dir, or let TFDS prepare it with "
            f"--download. ({type(error).__name__}: {error})"
        ) from error

    def train(seed):
        return reads["train"](seed).shuffle(
            min(shuffle_buffer, counts["train"]), seed=seed, reshuffle_each_iteration=False
        )

    def split(which, read):
        # Its identity is unknown without reading all images before it.
        return Split(
            counts[which],
            read,
            lambda encoded: encoded,
            lambda seed, index: f"number {index} of {which}, shuffle seed {seed}",
        )

    return Source(
        name,
        builder.info.full_name,
        classes,
        split("train", train),
        split("validation", reads["validation"]),
    )


def _read_tfds(builder, split, seed):
    import tensorflow as tf
    import tensorflow_datasets

    options = tf.data.Options()
    options.deterministic = True
    config = tensorflow_datasets.ReadConfig(
        options=options,
        shuffle_seed=seed,
        shuffle_reshuffle_each_iteration=False,
        try_autocache=False,
    )
    examples = builder.as_dataset(
        split=split,
        shuffle_files=seed is not None,
        decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
        read_config=config,
    )
    return examples.map(lambda example: (example["image"], example["label"]))


def image_folder(folder):
    """Return the images of train/ and val/, with a folder of JPEG or PNG files per class."""
    tf = import_tensorflow()
    folder = pathlib.Path(folder)
    listed = {split: _list(folder / split) for split in ("train", "val")}
    classes = list(listed["train"])
    if classes != list(listed["val"]):
        different = sorted({*classes} ^ {*listed["val"]})
        raise DatasetError(
            f"{folder}/train and {folder}/val must have the same class folders. Only in one "
            f"of them: {', '.join(different[:5])}{' ...' if len(different) > 5 else ''}."
        )
    splits, version = [], 0
    for files in listed.values():
        counts = [len(of_class) for of_class in files.values()]
        labels = np.repeat(np.arange(len(classes)), counts)
        paths = [path for of_class in files.values() for path in of_class]
        names = "\n".join(f"{path.parent.name}/{path.name}" for path in paths)
        version = zlib.crc32(os.fsencode(names), version)
        paths = np.array([str(path) for path in paths])
        read = functools.partial(_read_files, paths, labels)
        name = functools.partial(_path, paths)
        splits.append(Split(len(paths), read, tf.io.read_file, name))
    return Source(folder.name, f"files {version:08x}", len(classes), *splits)


def _list(folder):
    """Return the files of each class, both sorted by name."""
    if not folder.is_dir():
        raise DatasetError(
            f"There is no folder {folder}. --image-folder must have folders train/ and val/ with "
            "one folder of images per class."
        )
    files = {}
    for of_class in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = sorted(path for path in of_class.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not found:
            raise DatasetError(
                f"The class folder {of_class} has no images ({', '.join(_SUFFIXES)})."
            )
        files[of_class.name] = found
    if not files:
        raise DatasetError(f"{folder} has no folders: there must be one per class.")
    return files


def _read_files(paths, labels, seed):
    import tensorflow as tf

    order = _order(len(paths), seed)
    return tf.data.Dataset.from_tensor_slices((paths[order], labels[order]))


def _path(paths, seed, index):
    return str(paths[_order(len(paths), seed)[index]])


def _order(count, seed):
    return np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
