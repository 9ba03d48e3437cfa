import io
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from paths import EXAMPLES, HELPERS
from PIL import Image

tf = pytest.importorskip("tensorflow", reason="images are read and decoded by TensorFlow")

from imagenet import augment, data, recipe, train

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="the same images on every backend: the environment `examples` reads them for JAX",
)
SMALL = ("--batch-size", "8", "--image-size", "32", "--rand-augment", "1", "--mixup", "0.8")


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


def options(folder, *more):
    return recipe.parse(["--image-folder", str(folder), *SMALL, *map(str, more)])


def whole(batches):
    return [np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True)]


def test_image_folder(folder):
    source = data.source(options(folder))
    assert (source.classes, source.train, source.validation) == (2, 24, 10)
    labels = [label for _, label in source.read("train", None).as_numpy_iterator()]
    assert labels == [0] * 12 + [1] * 12
    orders = [list(source.read("train", seed).as_numpy_iterator()) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(label for _, label in orders[2]) == labels


def test_training_batches_are_functions_of_seed_and_epoch(folder):
    args = options(folder)
    source = data.source(args)
    first, again, second = (whole(data.training(source, args, epoch)) for epoch in (0, 0, 1))
    assert first[0].shape == (24, 32, 32, 3)
    assert first[0].dtype == np.uint8
    assert first[1].sum() == pytest.approx(24, rel=1e-5)
    for a, b, other in zip(first, again, second, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != other).any()
    other = whole(data.training(source, options(folder, "--seed", 1), 0))
    assert (first[0] != other[0]).any()


def test_hosts_share_the_images(folder):
    args = options(folder, "--mixup", 0)
    source = data.source(args)
    for make in (lambda *host: data.training(source, args, 0, *host), validation_of(source, args)):
        parts = [list(make(host, 2).as_numpy_iterator()) for host in range(2)]
        for batch, *both in zip(make(0, 1).as_numpy_iterator(), *parts, strict=True):
            for whole_batch, *halves in zip(batch, *both, strict=True):
                together = np.concatenate(halves)
                # The same images, in another order.
                assert sorted(x.tobytes() for x in whole_batch) == sorted(
                    x.tobytes() for x in together
                )


def validation_of(source, args):
    return lambda *host: data.validation(source, args, *host)


def test_validation_is_whole_and_filled_up_with_weight_0(folder):
    args = options(folder)
    images, labels, weights = whole(data.validation(data.source(args), args))
    assert images.shape == (16, 32, 32, 3)
    # 16 / 10: Keras divides by all places.
    np.testing.assert_array_equal(weights, np.float32([1.6] * 10 + [0] * 6))
    np.testing.assert_array_equal(labels[:10].argmax(1), [0] * 5 + [1] * 5)
    assert not images[10:].any()


def test_the_loss_of_validation_is_the_mean_over_its_images(folder):
    args = options(folder)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    train.compile_model(model, recipe.parse(["--smoothing", "0"]), steps=1)
    found = model.evaluate(data.validation(data.source(args), args), verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(found["cross_entropy"], rel=1e-5)


def test_a_run_on_files(folder, tmp_path):
    given = ("--model", "vit_trial", "--epochs", 1, "--warmup-epochs", 0, "--clip", 0)
    given = (*SMALL, *given, "--image-folder", folder, "--output", tmp_path / "out")
    train.main(list(map(str, given)))
    assert len((tmp_path / "out" / "history.csv").read_text().splitlines()) == 2
    with pytest.raises(SystemExit, match="has 24 training images, less than a batch"):
        train.main(list(map(str, (*given, "--batch-size", 32))))
    with pytest.raises(SystemExit, match="must have folders train/ and val/"):
        data.source(options(folder / "train"))


def test_center_and_random_crops():
    jpeg = encoded(0)
    center = augment.center_crop(jpeg, 32).numpy()
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert center.shape == (32, 32, 3)
    # 35 of the 40 rows, and as many of the 60 columns, around the middle.
    window = Image.fromarray(pixels[2:37, 12:47]).resize((32, 32), Image.Resampling.BICUBIC)
    assert abs(center - np.asarray(window)).mean() < 3
    png = augment.center_crop(encoded(0, "PNG"), 32).numpy()
    assert abs(center - png).mean() < 5
    crops = [augment.random_crop(jpeg, 32, (seed, 0)).numpy() for seed in range(8)]
    assert len({crop.tobytes() for crop in crops}) == 8
    np.testing.assert_array_equal(crops[3], augment.random_crop(jpeg, 32, (3, 0)).numpy())
    areas = [crop.std() for crop in crops]
    assert max(areas) > 1.2 * min(areas)


def test_rand_augment_is_a_function_of_the_seed_and_stronger_with_magnitude():
    image = np.asarray(Image.open(io.BytesIO(encoded(1))).resize((48, 48))).astype("float32")
    draw = tf.function(lambda seed, magnitude: augment.rand_augment(image, seed, 1, magnitude))
    changes = []
    for magnitude in (0.0, 3.0, 10.0):
        results = [draw((seed, 0), tf.constant(magnitude)).numpy() for seed in range(30)]
        np.testing.assert_array_equal(draw((7, 0), tf.constant(magnitude)).numpy(), results[7])
        changes.append(np.mean([abs(result - image).mean() for result in results]))
    assert changes[0] < changes[1] < changes[2]
    assert len({result.tobytes() for result in results}) > 20


@pytest.mark.parametrize("operate", augment._OPERATIONS, ids=lambda operate: operate.__name__)
def test_operations_do_nothing_at_strength_0_and_enough_at_1(operate):
    image = np.random.default_rng(0).integers(40, 200, (32, 32, 3)).astype("float32")
    results = {s: np.clip(operate(image, tf.constant(s)).numpy(), 0, 255) for s in (-1.0, 0.0, 1.0)}
    # Two have no strength: the contrast of an image, and the ranks of its grays.
    if operate not in (augment._auto_contrast, augment._equalize):
        np.testing.assert_allclose(results[0.0], image, atol=1e-3)
    for sign in (-1.0, 1.0):
        assert abs(results[sign] - image).mean() > 7


def test_warps_turn_shear_and_shift():
    image = np.zeros((9, 9, 3), "float32")
    image[2, 4] = 90
    # The image moves left by four columns, and gray comes in.
    shifted = augment._shift_x(image, tf.constant(4 / 9 / 0.45)).numpy()
    assert shifted[2, 0, 0] == pytest.approx(90, abs=0.1)
    np.testing.assert_allclose(shifted[:, 5:], 128, atol=0.1)
    # A quarter turn around the center.
    turned = augment._warp(image, ((0.0, -1.0), (1.0, 0.0))).numpy()
    assert turned[4, 2, 0] == pytest.approx(90, abs=0.1) or turned[4, 6, 0] == pytest.approx(
        90, abs=0.1
    )


def test_equalization_spreads_the_ranks_of_grays():
    grey = np.arange(64).repeat(16).reshape(32, 32)
    image = np.stack([grey, 3 * grey, np.full_like(grey, 7)], -1).astype("float32")
    equal = augment._equalize(tf.constant(image), 0.0).numpy()
    expected = np.arange(64).repeat(16).reshape(32, 32) * 255 / 63
    np.testing.assert_allclose(equal[..., 0], expected, rtol=1e-5)
    np.testing.assert_allclose(equal[..., 1], expected, rtol=1e-5)
    np.testing.assert_array_equal(equal[..., 2], 7)  # One grey stays.


def test_mixing_keeps_labels_and_pixels_together():
    # Image i has class i and gray 20 i, so that its label tells its parts.
    grey = 20 * np.arange(8, dtype="float32")
    images = np.broadcast_to(grey[:, None, None, None], (8, 32, 32, 3))
    mixed, labels = (x.numpy() for x in augment.mixup(images, np.eye(8), (3, 0), 1.0))
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), labels @ grey, rtol=1e-4)
    assert (labels.max(1) < 1).all()


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
    args = recipe.parse([*SMALL, "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="could not load 'imagenet2012'.*--data-dir"):
        data.source(args)
    here = pathlib.Path(__file__).parent
    written = subprocess.run(
        [sys.executable, "-c", WRITE_TFDS, tmp_path, here],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (EXAMPLES, HELPERS)))},
    )
    assert written.returncode == 0, written.stderr
    source = data.source(args)
    assert (source.classes, source.train, source.validation) == (1000, 40, 20)
    assert source.name == "imagenet2012/5.1.0"
    orders = [
        [image for image, _ in source.read("train", seed).as_numpy_iterator()] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert len({*orders[0]}) == 40
    assert whole(data.training(source, args, 0))[0].shape == (40, 32, 32, 3)
    # Places that fill up the last batch have weight 0.
    assert (whole(data.validation(source, args))[2] > 0).sum() == 20
