import dataclasses
import importlib.util
import io
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from paths import EXAMPLES, TESTS
from PIL import Image

from common import data
from imagenet import recipe
from imagenet import train as imagenet

tf = pytest.importorskip("tensorflow", reason="images are read and decoded by TensorFlow")

from imagenet import augment
from imagenet import data as imagenet_data
from imagenet import sources as imagenet_sources

# Without the operations of RandAugment, whose graph takes seconds to make.
HOW = recipe.Recipe(
    epochs=2,
    batch_size=8,
    learning_rate=1e-3,
    warmup_epochs=0,
    image_size=32,
    rand_augment=0,
    cutmix=0.0,
)


def encoded(seed, form="JPEG", size=(60, 40)):
    """Return a smooth picture, which compression changes little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 4, 3)).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(file, form)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Write 24 and 10 images of 2 classes. One is a PNG with the name of a JPEG."""
    number = 0
    for split, count in (("train", 12), ("val", 5)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for image in range(count):
                form = "PNG" if number == 3 else "JPEG"
                path = tmp_path / split / name / f"{image:02d}.JPEG"
                path.write_bytes(encoded(number, form))
                number += 1
    return tmp_path


def read(batches, epoch=0):
    batches.epoch = epoch
    return [batches[index] for index in range(len(batches))]


def whole(arrays):
    return [np.concatenate(part) for part in zip(*arrays, strict=True)]


def test_image_folder(folder):
    source = imagenet_sources.image_folder(folder)
    assert (source.classes, source.train.count, source.validation.count) == (2, 24, 10)
    files = list(source.train.read(None).as_numpy_iterator())
    assert [pathlib.Path(name.decode()).parent.name for name, _ in files] == (
        ["cat"] * 12 + ["dog"] * 12
    )
    assert [label for _, label in files] == [0] * 12 + [1] * 12
    orders = [
        [name for name, _ in source.train.read(seed).as_numpy_iterator()] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == [name for name, _ in files]
    assert source.train.name(1, 5).encode() == orders[0][5]
    (folder / "train" / "dog" / "11.JPEG").rename(folder / "train" / "dog" / "12.JPEG")
    assert imagenet_sources.image_folder(folder).version != source.version


def test_folders_that_are_not_as_they_should_be(folder):
    (folder / "train" / "emu").mkdir()
    with pytest.raises(data.DatasetError, match="class folder .*emu has no images"):
        imagenet_sources.image_folder(folder)
    (folder / "train" / "emu" / "a.png").write_bytes(encoded(0, "PNG"))
    with pytest.raises(data.DatasetError, match="Only in one of them: emu"):
        imagenet_sources.image_folder(folder)
    with pytest.raises(data.DatasetError, match="There is no folder .*cat/train"):
        imagenet_sources.image_folder(folder / "train" / "cat")
    (folder / "empty" / "train").mkdir(parents=True)
    with pytest.raises(data.DatasetError, match="has no folders: there must be one per class"):
        imagenet_sources.image_folder(folder / "empty")


def test_training_batches_are_functions_of_seed_and_epoch(folder):
    source = imagenet_sources.image_folder(folder)
    how = dataclasses.replace(HOW, rand_augment=1)
    reader, again = (imagenet_data.Reader(source, how, seed=0) for _ in range(2))
    first = whole(read(reader.training()))
    assert first[0].shape == (24, 32, 32, 3)
    assert first[0].dtype == np.uint8
    assert first[1].sum() == pytest.approx(24, rel=1e-5)
    second = whole(read(reader.training(), epoch=1))
    # From the middle, as in a resumed run.
    for a, b in zip(second, whole(read(again.training(epoch=1), epoch=1)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != second[0]).any()
    again.seed = 1
    assert (first[0] != whole(read(again.training()))[0]).any()


def test_batches_come_in_order_and_start_again_at_0(folder):
    reader = imagenet_data.Reader(imagenet_sources.image_folder(folder), HOW, seed=0)
    batches = reader.training()
    first = batches[0]
    batches[1]
    np.testing.assert_array_equal(batches[0][0], first[0])
    with pytest.raises(IndexError, match="Expected: 1. Received: 2"):
        batches[2]


def test_hosts_share_the_images(folder):
    plain = dataclasses.replace(HOW, mixup=0.0, erase=0.0)
    source = imagenet_sources.image_folder(folder)
    alone = imagenet_data.Reader(source, plain, seed=0)
    both = [
        imagenet_data.Reader(source, plain, seed=0, host=imagenet_data.Host(number, 2))
        for number in range(2)
    ]
    for make in ("training", "validation"):
        parts = [read(getattr(reader, make)()) for reader in both]
        for step, batch in enumerate(read(getattr(alone, make)())):
            together = [
                np.concatenate(arrays) for arrays in zip(*(p[step] for p in parts), strict=True)
            ]
            for a, b in zip(batch, together, strict=True):
                # The same images, in another order.
                assert sorted(x.tobytes() for x in a) == sorted(x.tobytes() for x in b)


def test_validation_is_whole_and_filled_up_with_weight_0(folder):
    reader = imagenet_data.Reader(imagenet_sources.image_folder(folder), HOW, seed=0)
    images, labels, weights = whole(read(reader.validation()))
    assert images.shape == (16, 32, 32, 3)
    # 16 / 10: Keras divides by all places.
    np.testing.assert_array_equal(weights, np.float32([1.6] * 10 + [0] * 6))
    np.testing.assert_array_equal(labels[:10].argmax(1), [0] * 5 + [1] * 5)
    assert not images[10:].any()


def test_the_loss_of_validation_is_the_mean_over_its_images(folder):
    reader = imagenet_data.Reader(imagenet_sources.image_folder(folder), HOW, seed=0)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        weighted_metrics=[
            keras.metrics.CategoricalCrossentropy("exact", from_logits=True, label_smoothing=0.1)
        ],
    )
    found = model.evaluate(reader.validation(), verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(found["exact"], rel=1e-5)


@pytest.mark.parametrize(
    ("split", "name"),
    # The last of validation leaves an empty batch.
    [("training", "train/dog/07.JPEG"), ("validation", "val/dog/05.JPEG")],
)
def test_an_image_that_cannot_be_decoded_is_named(split, name, folder):
    path = folder / name
    path.write_bytes(encoded(99)[:200] if split == "training" else b"no image")
    reader = imagenet_data.Reader(imagenet_sources.image_folder(folder), HOW, seed=0)
    with pytest.raises(data.DatasetError, match=f"{name}' cannot be decoded"):
        read(getattr(reader, split)())
    assert isinstance(reader.error, data.DatasetError)


def test_a_broken_image_ends_a_run_with_its_name(folder, tmp_path):
    (folder / "train" / "cat" / "00.JPEG").write_bytes(b"no image")
    given = ("--image-folder", folder, "--model", "vit_trial", "--image-size", 32, "--epochs", 1)
    given = (*given, "--warmup-epochs", 0, "--batch-size", 8, "--verbose", 0, "--clip", 0)
    with pytest.raises(data.DatasetError, match="cat/00.JPEG' cannot be decoded"):
        imagenet.main([str(x) for x in (*given, "--output", tmp_path / "out")])
    (folder / "train" / "cat" / "00.JPEG").write_bytes(encoded(0))
    logs = () if importlib.util.find_spec("tensorboard") is None else ("--tensorboard",)
    imagenet.main([str(x) for x in (*given, *logs, "--output", tmp_path / "out")])
    assert len((tmp_path / "out" / "history.csv").read_text().splitlines()) == 2
    assert bool(list((tmp_path / "out").rglob("events*"))) == bool(logs)


def test_center_and_random_crops():
    jpeg = encoded(0)
    center = augment.decode_center(jpeg, 32).numpy()
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert center.shape == (32, 32, 3)
    # 35 of the 40 rows, and as many of the 60 columns, around the middle.
    window = Image.fromarray(pixels[2:37, 12:47]).resize((32, 32), Image.Resampling.BICUBIC)
    assert abs(center.astype(int) - np.asarray(window)).mean() < 3
    png = augment.decode_center(encoded(0, "PNG"), 32).numpy()
    assert abs(center.astype(int) - png).mean() < 5
    crops = [augment.decode_random_crop(jpeg, 32, seed).numpy() for seed in range(8)]
    assert len({crop.tobytes() for crop in crops}) == 8
    np.testing.assert_array_equal(crops[3], augment.decode_random_crop(jpeg, 32, 3).numpy())
    areas = [crop.astype(float).std() for crop in crops]
    assert max(areas) > 1.2 * min(areas)


def in_graph(function, *arguments):
    """As tf.data calls it."""
    return tf.function(function, autograph=False)(*arguments)


def test_rand_augment_is_a_function_of_the_seed_and_stronger_with_magnitude():
    image = tf.constant(np.asarray(Image.open(io.BytesIO(encoded(1))).resize((48, 48))))
    changes = []
    for magnitude in (0, 3, 10):
        operation = augment.RandAugment(1, magnitude)
        draw = tf.function(operation, autograph=False)
        results = [draw(image, tf.constant(seed)).numpy() for seed in range(30)]
        np.testing.assert_array_equal(draw(image, tf.constant(7)).numpy(), results[7])
        changes.append(np.mean([abs(r.astype(int) - image.numpy()).mean() for r in results]))
    assert changes[0] < changes[1] < changes[2]
    assert len({result.tobytes() for result in results}) > 20


def test_operations_do_nothing_at_magnitude_0_and_enough_at_10():
    random = np.random.default_rng(0)
    image = random.integers(40, 200, (32, 32, 3)).astype("float32")
    # Two have no strength: the contrast of an image, and the ranks of its grays.
    without_strength = ("AutoContrast", "_equalize")

    def results(magnitude):
        augmentation = augment.RandAugment(1, magnitude)
        for operation in augmentation._operations:
            name = type(operation).__mro__[1].__name__
            name = getattr(operation, "__name__", name)
            draw = tf.function(augmentation._apply, autograph=False)
            yield (
                name,
                [draw(operation, tf.constant(image), tf.constant(s)).numpy() for s in range(12)],
            )

    for name, drawn in results(0):
        if name not in without_strength:
            for result in drawn:
                np.testing.assert_allclose(result, image, atol=1.01, err_msg=name)
    for name, drawn in results(10):
        changes = [abs(np.clip(result, 0, 255) - image).mean() for result in drawn]
        assert max(changes) > 7, (name, changes)
        if name == "RandomContrast":
            spreads = [result.std() / image.std() for result in drawn]
            assert min(spreads) < 0.7
            assert max(spreads) > 1.15
        if name == "RandomPosterization":
            assert {16, 8, 4} & {int(np.gcd.reduce(result.astype(int).ravel())) for result in drawn}


def test_equalization_spreads_the_ranks_of_grays():
    grey = np.arange(64).repeat(16).reshape(32, 32)
    image = np.stack([grey, 3 * grey, np.full_like(grey, 7)], -1).astype("float32")
    equal = augment._equalize(tf.constant(image)).numpy()
    expected = np.arange(64).repeat(16).reshape(32, 32) * 255 / 63
    np.testing.assert_allclose(equal[..., 0], expected, rtol=1e-5)
    np.testing.assert_allclose(equal[..., 1], expected, rtol=1e-5)
    np.testing.assert_array_equal(equal[..., 2], 7)  # One grey stays.


def test_erasing():
    image = tf.constant(np.full((48, 48, 3), 100, np.uint8))
    draw = tf.function(augment.Erase(0.5), autograph=False)
    erased = [draw(image, tf.constant(seed)).numpy() for seed in range(40)]
    changed = [(result != 100).any(-1).mean() for result in erased]
    assert 8 <= sum(part > 0 for part in changed) <= 32
    assert max(changed) < 0.5
    assert not (in_graph(augment.Erase(0.0), image, 0) != image).numpy().any()


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)])
def test_mixing_keeps_labels_and_pixels_together(mixup, cutmix):
    # Image i has class i and gray 20 i, so that its label tells its parts.
    count = 8
    grey = 20 * np.arange(count, dtype="uint8")
    images = np.broadcast_to(grey[:, None, None, None], (count, 32, 32, 3))
    labels = np.eye(count, dtype="float32")
    mixed, new = (x.numpy() for x in in_graph(augment.Mix(mixup, cutmix), images, labels, 3))
    np.testing.assert_allclose(new.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), new @ grey, atol=6)
    assert (new.max(1) < 1).any() == bool(mixup or cutmix)


WRITE_TFDS = """
import io, sys
import tensorflow_datasets as tfds
sys.path.insert(0, sys.argv[2])
from test_imagenet_data import encoded

def examples(split, count):
    names = builder.info.features["label"].names
    for i in range(count):
        image = io.BytesIO(encoded(i))
        yield i, {"image": image, "label": names[i % 10], "file_name": f"{split}_{i}.JPEG"}

builder = tfds.builder("imagenet2012", data_dir=sys.argv[1])
builder._split_generators = lambda *_, **__: {
    split: examples(split, count) for split, count in (("train", 40), ("validation", 20))
}
builder.download_and_prepare()
"""


def test_imagenet_through_tfds(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="only the examples environment has TFDS")
    here = pathlib.Path(__file__).parent
    written = subprocess.run(
        [sys.executable, "-c", WRITE_TFDS, tmp_path, here],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (EXAMPLES, TESTS)))},
    )
    assert written.returncode == 0, written.stderr
    source = imagenet_sources.tfds("imagenet2012", data_dir=tmp_path)
    assert (source.classes, source.train.count, source.validation.count) == (1000, 40, 20)
    assert source.version == "imagenet2012/5.1.0"
    orders = [
        [image for image, _ in source.train.read(seed).as_numpy_iterator()] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert len({*orders[0]}) == 40
    reader = imagenet_data.Reader(source, HOW, seed=0)
    assert whole(read(reader.training()))[0].shape == (40, 32, 32, 3)
    # Places that fill up the last batch have weight 0.
    assert (whole(read(reader.validation()))[2] > 0).sum() == 20


def test_data_sets_that_are_not_there(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="only the examples environment has TFDS")
    for name in ("imagenet2012", "no_such_set"):
        with pytest.raises(data.DatasetError, match=f"could not load '{name}' from .*--data-dir"):
            imagenet_sources.tfds(name, data_dir=tmp_path)


def test_too_few_images_for_a_batch(folder):
    source = imagenet_sources.image_folder(folder)
    with pytest.raises(data.DatasetError, match="has 24 training images, less than a batch of 32"):
        imagenet_data.Reader(source, dataclasses.replace(HOW, batch_size=32), seed=0)


def test_tensorflow_keeps_off_the_accelerator():
    if keras.backend.backend() != "tensorflow":
        imagenet_sources.import_tensorflow()
        assert not tf.config.get_visible_devices("GPU")
