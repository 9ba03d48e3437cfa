"""Augmentation in tf.data graphs, where what an image gets is a function of its seed.

A seed is an int32 tensor (2,), as for TensorFlow's stateless functions. Images are float32 (height,
width, 3) in [0, 255].
"""

import functools
import math

import tensorflow as tf

_fold_in = tf.random.experimental.stateless_fold_in
_GRAY = 128.0


def random_crop(encoded, size, seed):
    """Return a random part of an encoded image, size x size, flipped or not.

    The part has 8 to 100 % of the area and an aspect ratio of 3:4 to 4:3, as for Inception
    (arXiv:1409.4842).
    """

    def choose(shape):
        window = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            bounding_boxes=tf.zeros((1, 0, 4)),
            seed=seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat((window.begin[:2], window.size[:2]), 0)

    image = _decode(encoded, size, choose)
    return tf.image.stateless_random_flip_left_right(image, _fold_in(seed, 0))


def center_crop(encoded, size, part=0.875):
    """Return the central square with `part` of the shorter side, size x size."""

    def choose(shape):
        shorter = tf.cast(tf.reduce_min(shape[:2]), tf.float32)
        side = tf.cast(tf.round(part * shorter), tf.int32)
        return tf.concat(((shape[:2] - side) // 2, (side, side)), 0)

    return _decode(encoded, size, choose)


def _decode(encoded, size, choose):
    """Decode the window (top, left, height, width) that `choose` returns for a shape."""

    def jpeg():
        window = choose(tf.io.extract_jpeg_shape(encoded))
        return tf.io.decode_and_crop_jpeg(encoded, window, channels=3)

    def other():  # Some of ImageNet's files are PNGs in spite of their names.
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.image.crop_to_bounding_box(image, *tf.unstack(choose(tf.shape(image))))

    image = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)
    image = tf.image.resize(image, (size, size), "bicubic", antialias=True)
    return tf.clip_by_value(image, 0, 255)


def rand_augment(image, seed, count, magnitude):
    """Apply `count` random operations with strengths from 0 to `magnitude` of 10, of either sign.

    Operations and their largest strengths follow RandAugment (arXiv:1909.13719).
    """
    for number in range(count):
        own = _fold_in(seed, number)
        chosen = tf.random.stateless_uniform((), own, 0, len(_OPERATIONS), tf.int32)
        most = magnitude / 10
        strength = tf.random.stateless_uniform((), _fold_in(own, 0), -most, most)
        branches = [functools.partial(operate, image, strength) for operate in _OPERATIONS]
        image = tf.clip_by_value(tf.switch_case(chosen, branches), 0, 255)
    return image


def _blend(image, other, strength):
    """Move an image away from another one, or toward it if the strength is negative."""
    return other + (1 + 0.9 * strength) * (image - other)


def _color(image, strength):
    return _blend(image, tf.image.rgb_to_grayscale(image), strength)


def _contrast(image, strength):
    return _blend(image, tf.reduce_mean(tf.image.rgb_to_grayscale(image)), strength)


def _brightness(image, strength):
    return _blend(image, 0.0, strength)


def _sharpness(image, strength):
    blurred = tf.nn.avg_pool2d(image[None], 3, 1, "SAME")[0]
    return _blend(image, blurred, strength)


def _posterize(image, strength):
    """Round down to multiples of 1 to 16."""
    step = 2 ** tf.round(4 * tf.abs(strength))
    return tf.floor(image / step) * step


def _solarize(image, strength):
    return tf.where(image < 256 * (1 - tf.abs(strength)), image, 255 - image)


def _auto_contrast(image, strength):
    low, high = tf.reduce_min(image, (0, 1)), tf.reduce_max(image, (0, 1))
    return tf.where(high > low, (image - low) * 255 / tf.maximum(high - low, 1), image)


def _equalize(image, strength):
    """Spread the ranks of the values of each channel evenly."""

    def spread(channel):
        values = tf.cast(channel, tf.int32)
        counts = tf.math.bincount(values, minlength=256, maxlength=256)
        ranks = tf.cast(tf.cumsum(counts) - counts, tf.float32)
        most = tf.reduce_max(tf.where(counts > 0, ranks, 0.0))
        return tf.where(most > 0, tf.gather(255 * ranks / tf.maximum(most, 1), values), channel)

    return tf.stack([spread(channel) for channel in tf.unstack(image, axis=-1)], -1)


def _rotate(image, strength):
    angle = math.radians(30) * strength
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return _warp(image, ((cosine, -sine), (sine, cosine)))


def _shear_x(image, strength):
    return _warp(image, ((1.0, 0.3 * strength), (0.0, 1.0)))


def _shear_y(image, strength):
    return _warp(image, ((1.0, 0.0), (0.3 * strength, 1.0)))


def _shift_x(image, strength):
    return _warp(image, ((1.0, 0.0), (0.0, 1.0)), (0.45 * strength, 0.0))


def _shift_y(image, strength):
    return _warp(image, ((1.0, 0.0), (0.0, 1.0)), (0.0, 0.45 * strength))


def _warp(image, matrix, shift=(0.0, 0.0)):
    """Transform coordinates (x, y) around the center; `shift` is in widths of the image."""
    size = tf.cast(tf.shape(image)[0], tf.float32)
    center = tf.fill((2, 1), (size - 1) / 2)
    matrix = tf.convert_to_tensor(matrix)
    offset = center - matrix @ center + size * tf.convert_to_tensor(shift)[:, None]
    rows = tf.reshape(tf.concat((matrix, offset), 1), (-1,))
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.concat((rows, (0.0, 0.0)), 0)[None],
        output_shape=tf.shape(image)[:2],
        interpolation="BILINEAR",
        fill_value=_GRAY,
    )[0]


_OPERATIONS = (
    *(_color, _contrast, _brightness, _sharpness, _posterize, _solarize),
    *(_auto_contrast, _equalize, _rotate, _shear_x, _shear_y, _shift_x, _shift_y),
)


def mixup(images, labels, seed, alpha):
    """Mix each example of a batch with the one at the opposite place (arXiv:1710.09412)."""
    # The first of two numbers over their sum has a Beta distribution.
    gammas = tf.random.stateless_gamma((2,), seed, alpha)
    part = tf.math.divide_no_nan(gammas[0], tf.reduce_sum(gammas))
    return tuple(part * values + (1 - part) * values[::-1] for values in (images, labels))
