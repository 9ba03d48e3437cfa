"""Keras layers that start with the structure of trained ones."""

from keras_mimetic.layers.mimetic_mlp_block import MimeticMLPBlock
from keras_mimetic.layers.mimetic_multi_head_attention import MimeticMultiHeadAttention
from keras_mimetic.layers.mimetic_state_space import MimeticStateSpace

__all__ = ["MimeticMLPBlock", "MimeticMultiHeadAttention", "MimeticStateSpace"]
