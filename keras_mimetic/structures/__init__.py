"""Structures of trained weights, drawn in closed form: pure NumPy, no Keras."""

from keras_mimetic.structures.mean_shift import mean_shifted
from keras_mimetic.structures.variance_scaling import fans, scaled_std

__all__ = ["fans", "mean_shifted", "scaled_std"]
