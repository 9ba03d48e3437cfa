"""Mimetic initialization for Keras 3: initial weights with the structure of trained ones."""

from keras_mimetic import callbacks, initializers, layers
from keras_mimetic.initialize import initialize
from keras_mimetic.measure import measure
from keras_mimetic.measurements import Measurements
from keras_mimetic.mimic import mimic
from keras_mimetic.report import Report

__version__ = "0.1.0"

__all__ = [
    "Measurements",
    "Report",
    "__version__",
    "callbacks",
    "initialize",
    "initializers",
    "layers",
    "measure",
    "mimic",
]
