"""The registry of structures: each is one module and one entry here."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

import keras

from keras_mimetic._structures.attention import Attention, AttentionSettings
from keras_mimetic._structures.base import Structure
from keras_mimetic._structures.depthwise import Depthwise, DepthwiseSettings
from keras_mimetic._structures.mlp import MLP, MLPSettings
from keras_mimetic._structures.position import Position, PositionSettings
from keras_mimetic._structures.state_space import StateSpace, StateSpaceSettings

_ALL = (MLP(), Attention(), Depthwise(), StateSpace(), Position())

STRUCTURES: dict[str, Structure] = {structure.name: structure for structure in _ALL}
DEFAULT = tuple(structure.name for structure in _ALL if structure.by_default)
COMPOUND_LAYERS = tuple({layer for structure in _ALL for layer in structure.compound_layers})

StructureName = Literal["mlp", "attention", "depthwise", "state_space", "position"]


class StructureSettings(TypedDict, total=False):
    """Structures and their settings; `None` or `{}` takes the defaults."""

    mlp: MLPSettings | None
    attention: AttentionSettings | None
    depthwise: DepthwiseSettings | None
    state_space: StateSpaceSettings | None
    position: PositionSettings | None


# Names of structures, or names with settings; `None` for the defaults. Not `Iterable`, which
# would accept dicts with misspelled settings.
Structures = StructureName | Sequence[StructureName] | StructureSettings | None
# Names of structures, and initializers or their names, by regular expressions on weight paths;
# `None` skips the weights that match.
Rules = Mapping[str, str | keras.initializers.Initializer | None] | None

__all__ = [
    "COMPOUND_LAYERS",
    "DEFAULT",
    "STRUCTURES",
    "Rules",
    "Structure",
    "StructureName",
    "Structures",
]
