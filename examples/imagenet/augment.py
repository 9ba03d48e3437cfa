"""Augmentation in tf.data graphs, where each image has random numbers of its own.

Crops are TensorFlow's. Nearly everything else uses Keras's preprocessing layers, which work in
tf.data graphs on every backend. Their random generators have a state, so that what an image gets
depends on the images before it, perhaps on another thread. Here they use `Place` instead, so that a
resumed run sees the same images.
"""

import functools

import keras
import tensorflow as tf

# The effect of a magnitude of 10. As in the code of the RandAugment paper (arXiv:1909.13719): turns
# by 30 degrees, shears by 0.3, shifts by 0.45 of the image, 4 bits of 8, contrast and color by 0.9.
# Unlike there, brightness is added, by up to 0.4 of white, and strengths are uniform from zero up
# to these.
_TURN, _SHEAR, _SHIFT, _BITS, _ENHANCE, _BRIGHTEN = 30 / 360, 0.3, 0.45, 4, 0.9, 0.4
_GRAY = 128.0


class Place(keras.random.SeedGenerator):
    """A generator whose random numbers are a function of the seed given to `start`.

    `seed` may be a tensor, so that one traced graph serves every image.
    """

    def __init__(self):
        # Keras's makes a variable of the backend. This has no state.
        pass

    def start(self, seed):
        self._seed, self._drawn = tf.cast(seed, tf.int32), 0

    def next(self, ordered=True):
        self._drawn += 1
        return tf.stack([self._seed, self._drawn])


def placed(layer, place, **settings):
    """Return a preprocessing layer of Keras that uses `place`."""

    class Placed(layer):
        def _get_seed_generator(self, backend=None):
            return place

    return Placed(dtype="float32", **settings)


def image_seed(seed, index):
    """Return a seed for one image of an epoch and one use, from two integers."""
    return tf.random.stateless_uniform((), (seed, index), minval=None, maxval=None, dtype=tf.int32)


def decode_random_crop(jpeg, size, seed, area=(0.08, 1.0)):
    """Return a random part of an image, size x size, flipped or not; uint8.

    The part has 8 to 100 % of the area and an aspect ratio of 3:4 to 4:3, as for Inception
    (arXiv:1409.4842). Only that part of a JPEG file is decoded.
    """
    window = tf.image.stateless_sample_distorted_bounding_box(
        _shape(jpeg),
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=(seed, 0),
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=area,
        use_image_if_no_bounding_boxes=True,
    )
    corner, extent = window.begin[:2], window.size[:2]
    image = _resize(_decode_window(jpeg, corner, extent), size)
    return tf.image.stateless_random_flip_left_right(image, (seed, 1))


def decode_center(jpeg, size, part=0.875):
    """Return the central square with `part` of the shorter side, size x size; uint8."""
    shape = _shape(jpeg)
    shorter = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
    side = tf.cast(tf.round(part * shorter), tf.int32)
    corner = (shape[:2] - side) // 2
    return _resize(_decode_window(jpeg, corner, tf.stack((side, side))), size)


def _shape(image):
    # Some of ImageNet's files are PNGs in spite of their names. `tf.cond` is needed because Keras
    # reads batches in threads without AutoGraph.
    return tf.cond(
        tf.io.is_jpeg(image),
        lambda: tf.io.extract_jpeg_shape(image),
        lambda: tf.shape(_decode(image)),
    )


def _decode(image):
    return tf.io.decode_image(image, channels=3, expand_animations=False)


def _decode_window(image, corner, extent):
    return tf.cond(
        tf.io.is_jpeg(image),
        lambda: tf.io.decode_and_crop_jpeg(image, tf.concat((corner, extent), 0), channels=3),
        lambda: tf.slice(_decode(image), tf.concat((corner, [0]), 0), tf.concat((extent, [3]), 0)),
    )


def _resize(image, size):
    image = tf.image.resize(image, (size, size), method="bicubic", antialias=True)
    return _to_bytes(tf.ensure_shape(image, (size, size, 3)))


def _to_bytes(images):
    return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)


class RandAugment:
    """Apply `count` random operations to an image.

    Keras's own layer of that name computes all operations and picks one, which takes several times
    as long, and turns by up to 180 degrees at full strength.

    Args:
        count: Operations per image.
        magnitude: From 0 to 10, the paper's scale.
    """

    def __init__(self, count, magnitude):
        self.count, self._place = count, Place()
        strength = magnitude / 10
        geometry = {"fill_mode": "constant", "fill_value": _GRAY}
        shear, shift, enhance = (strength * most for most in (_SHEAR, _SHIFT, _ENHANCE))
        # Keras's sharpness is 0.5 where nothing happens.
        sharpness = (0.5 - enhance / 2, 0.5 + enhance / 2)
        make = keras.layers
        layers = [
            (make.AutoContrast, {}),
            (make.RandomRotation, {"factor": _TURN * strength, **geometry}),
            (make.RandomShear, {"x_factor": shear, **geometry}),
            (make.RandomShear, {"y_factor": shear, **geometry}),
            (make.RandomTranslation, {"height_factor": shift, "width_factor": 0.0, **geometry}),
            (make.RandomTranslation, {"height_factor": 0.0, "width_factor": shift, **geometry}),
            (make.RandomBrightness, {"factor": _BRIGHTEN * strength}),
            (make.RandomContrast, {"factor": (enhance, enhance)}),
            (make.RandomColorDegeneration, {"factor": enhance}),
            (make.RandomSharpness, {"factor": sharpness}),
            # Its upper bound is exclusive.
            (make.RandomPosterization, {"factor": (8 - round(_BITS * strength), 9)}),
        ]
        self._operations = [placed(layer, self._place, **settings) for layer, settings in layers]
        # Keras's layer has a random threshold below the given one.
        threshold = 256 * (1 - strength)
        self._operations += [lambda x: tf.where(x < threshold, x, 255 - x), _equalize]

    def __call__(self, image, seed):
        """Return a uint8 image (height, width, 3) of the same shape."""
        image = tf.cast(image, tf.float32)
        chosen = tf.random.stateless_uniform(
            (self.count,), (seed, 0), 0, len(self._operations), dtype=tf.int32
        )

        def operate(number, image):
            own = image_seed(seed, number + 1)
            branches = [
                functools.partial(self._apply, operation, image, own)
                for operation in self._operations
            ]
            return number + 1, tf.ensure_shape(tf.switch_case(chosen[number], branches), shape)

        # A loop, so that the graph has all operations once.
        shape = image.shape
        _, image = tf.while_loop(lambda number, _: number < self.count, operate, (0, image))
        return _to_bytes(image)

    def _apply(self, operation, image, seed):
        self._place.start(seed)
        return operation(image)


def _equalize(image):
    """Equalize the histogram of each channel. Keras's layer is very slow with JAX."""
    pixels = tf.cast(image, tf.int32)

    def spread(channel):
        counts = tf.math.bincount(channel, minlength=256, maxlength=256)
        ranks = tf.cast(tf.cumsum(counts) - counts, tf.float32)
        most = tf.reduce_max(tf.where(counts > 0, ranks, 0.0))
        return tf.gather(tf.math.divide_no_nan(255 * ranks, most), channel)

    equalized = tf.stack([spread(pixels[..., number]) for number in range(3)], -1)
    # A channel of one value stays.
    return tf.where(tf.reduce_max(equalized, (0, 1)) > 0, equalized, image)


class Erase:
    """Replace a random part of some images by noise (arXiv:1708.04896)."""

    def __init__(self, probability):
        self._place = Place()
        self._layer = placed(
            keras.layers.RandomErasing, self._place, factor=(probability, probability)
        )

    def __call__(self, image, seed):
        """Return a uint8 image (height, width, 3) of the same shape."""
        self._place.start(seed)
        return _to_bytes(self._layer(tf.cast(image, tf.float32)))


class Mix:
    """Mix each image of a batch with another one, by mixup or cutmix at random for each batch.

    Args:
        mixup: Alpha of mixup (arXiv:1710.09412), or 0 for none.
        cutmix: Alpha of cutmix (arXiv:1905.04899), or 0 for none.
    """

    def __init__(self, mixup, cutmix):
        self._place = Place()
        self._layers = []
        if mixup:
            self._layers.append(placed(keras.layers.MixUp, self._place, alpha=mixup))
        if cutmix:
            self._layers.append(placed(keras.layers.CutMix, self._place, factor=(cutmix, cutmix)))

    def __call__(self, images, labels, seed):
        """Return images uint8 (batch, height, width, 3) and labels float32 (batch, classes)."""
        if not self._layers:
            return images, labels
        coin = tf.random.stateless_uniform((), (seed, 0), 0, len(self._layers), dtype=tf.int32)
        branches = [
            functools.partial(self._apply, layer, images, labels, seed) for layer in self._layers
        ]
        mixed, labels = tf.switch_case(coin, branches)
        return _to_bytes(tf.ensure_shape(mixed, images.shape)), labels

    def _apply(self, layer, images, labels, seed):
        self._place.start(seed)
        mixed = layer({"images": images, "labels": labels})
        return mixed["images"], mixed["labels"]
