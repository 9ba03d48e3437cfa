"""Keras layers that start with the structure of trained ones."""

from keras_mimetic.layers.mimetic_mlp_block import MimeticMLPBlock

__all__ = ["MimeticMLPBlock"]
