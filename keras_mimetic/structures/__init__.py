"""Structures of trained weights, drawn in closed form: pure NumPy, no Keras."""

from keras_mimetic.structures.attention import query_key, value_output
from keras_mimetic.structures.depthwise import covariance, depthwise_filters, sigma_at_depth
from keras_mimetic.structures.mean_shift import mean_shifted
from keras_mimetic.structures.variance_scaling import fans, scaled_std

__all__ = [
    "covariance",
    "depthwise_filters",
    "fans",
    "mean_shifted",
    "query_key",
    "scaled_std",
    "sigma_at_depth",
    "value_output",
]
