"""Keras layers that start with the structure of trained ones."""

from keras_mimetic.layers.mimetic_mlp_block import MimeticMLPBlock
from keras_mimetic.layers.mimetic_multi_head_attention import MimeticMultiHeadAttention

__all__ = ["MimeticMLPBlock", "MimeticMultiHeadAttention"]
