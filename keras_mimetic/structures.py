"""The structures, the settings that their classes document, and how to register one more."""

from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import MLP, Attention, Depthwise, Position, StateSpace, register
from keras_mimetic._structures.base import (
    Figure,
    FigureSpec,
    Measured,
    NewWeights,
    Skip,
    Structure,
)

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
