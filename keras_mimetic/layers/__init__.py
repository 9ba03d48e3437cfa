"""Keras layers that start with the structure of trained ones."""

from keras_mimetic.layers.attention import MimeticMultiHeadAttention
from keras_mimetic.layers.mlp_block import MimeticMLPBlock
from keras_mimetic.layers.state_space import MimeticStateSpace

__all__ = ["MimeticMLPBlock", "MimeticMultiHeadAttention", "MimeticStateSpace"]
