"""The structures, the settings that their classes document, and how to register one more."""

from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import register
from keras_mimetic._structures.attention import Attention
from keras_mimetic._structures.base import (
    Figure,
    FigureSpec,
    Measured,
    NewWeights,
    Skip,
    Structure,
)
from keras_mimetic._structures.depthwise import Depthwise
from keras_mimetic._structures.mlp import MLP
from keras_mimetic._structures.position import Position
from keras_mimetic._structures.state_space import StateSpace

__all__ = [
    "MLP",
    "Attention",
    "Depthwise",
    "Figure",
    "FigureSpec",
    "Measured",
    "NewWeights",
    "Position",
    "Site",
    "Skip",
    "StateSpace",
    "Structure",
    "register",
]
