"""Mimetic initialization for Keras 3: initial weights with the structure of trained ones."""

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    # What is missing, or part of it.
    backend = (error.name or "").partition(".")[0]
    if backend not in ("jax", "tensorflow", "torch"):
        raise
    raise ModuleNotFoundError(
        f"Keras's backend is {backend!r}, which is not installed. Install it, "
        f"pip install 'keras-mimetic[{backend}]', or choose another before Keras is imported: "
        "set the environment variable KERAS_BACKEND to jax, tensorflow or torch.",
        name=error.name,
    ) from error

from keras_mimetic import callbacks, initializers, layers
from keras_mimetic._initialize import initialize
from keras_mimetic._measure import measure
from keras_mimetic._measurements import Measurements
from keras_mimetic._mimic import mimic
from keras_mimetic._report import Report
from keras_mimetic._reset import reset

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
    "reset",
]
