"""Keras initializers, one for each structure that a single weight can have."""

import keras

from keras_mimetic._numerics.depthwise import sigma_at_depth
from keras_mimetic.initializers.depthwise import MimeticDepthwise
from keras_mimetic.initializers.mean import MimeticMean

__all__ = ["MimeticDepthwise", "MimeticMean", "sigma_at_depth"]

# So `kernel_initializer="mimetic_mean"` works, like the names of Keras's own. (`MimeticDepthwise`
# needs its sigma.) What is saved names the class, "keras_mimetic>MimeticMean", as before.
keras.saving.get_custom_objects().update(mimetic_mean=MimeticMean, MimeticMean=MimeticMean)
