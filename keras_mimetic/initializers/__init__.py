"""Keras initializers for the structures of single weights."""

import keras

from keras_mimetic._numerics.depthwise import sigma_at_depth
from keras_mimetic.initializers.depthwise import MimeticDepthwise
from keras_mimetic.initializers.mean import MimeticMean

__all__ = ["MimeticDepthwise", "MimeticMean", "sigma_at_depth"]

# Makes `kernel_initializer="mimetic_mean"` work, like the names of Keras's initializers. Saved
# models use the registered name, "keras_mimetic>MimeticMean".
keras.saving.get_custom_objects().update(mimetic_mean=MimeticMean, MimeticMean=MimeticMean)
