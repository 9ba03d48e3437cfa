"""Mimetic initialization for Keras 3: initial weights with the structure of trained ones."""

from keras_mimetic import initializers, layers
from keras_mimetic.initialize import initialize
from keras_mimetic.report import Report

__version__ = "0.1.0"

__all__ = ["Report", "__version__", "initialize", "initializers", "layers"]
