"""Mimetic initialization for Keras 3: initial weights with the structure of trained ones."""

from keras_mimetic import initializers, layers
from keras_mimetic.initialize import initialize

__version__ = "0.1.0"

__all__ = ["__version__", "initialize", "initializers", "layers"]
