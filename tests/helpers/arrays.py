"""Tensors and variables of any backend as arrays."""

import keras
import numpy as np


def array(tensor):
    """Return a tensor or variable as a float32 array, also of a type that NumPy lacks."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))
