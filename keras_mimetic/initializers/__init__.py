"""Keras initializers, one for each structure that a single weight can have."""

from keras_mimetic.initializers.mimetic_depthwise import MimeticDepthwise
from keras_mimetic.initializers.mimetic_mean import MimeticMean
from keras_mimetic.structures.depthwise import sigma_at_depth

__all__ = ["MimeticDepthwise", "MimeticMean", "sigma_at_depth"]
