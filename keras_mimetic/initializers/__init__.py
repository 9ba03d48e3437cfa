"""Keras initializers, one for each structure that a single weight can have."""

from keras_mimetic.initializers.mimetic_mean import MimeticMean

__all__ = ["MimeticMean"]
