"""The registry of structures."""

from collections.abc import Iterable, Mapping, Sequence
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

StructureName = Literal["mlp", "attention", "depthwise", "state_space", "position"]


class StructureSettings(TypedDict, total=False):
    """Structures and their settings; `{}` takes the defaults."""

    mlp: MLPSettings
    attention: AttentionSettings
    depthwise: DepthwiseSettings
    state_space: StateSpaceSettings
    position: PositionSettings


# Names of structures, or names with settings; `None` for the defaults. Not `Iterable`, which
# would accept dicts with misspelled settings.
Structures = StructureName | Sequence[StructureName] | StructureSettings | None
# Names of structures, and initializers or their names, by regular expressions on weight paths;
# `None` skips the weights that match.
Rules = Mapping[str, str | keras.initializers.Initializer | None] | None


def register(structure: Structure) -> None:
    """Add a structure to those that `initialize`, `measure` and `StructureLogger` know.

    The structure is then written and measured by default, unless its class has
    `by_default = False`. Register it before the first call. The interface is experimental: `find`
    takes an internal graph of the model, which may change in any version.

    Examples:

    >>> keras_mimetic.structures.register(ZeroHead())
    >>> report = keras_mimetic.initialize(model, structures="zero_head", seed=0)

    Args:
        structure: An instance of a subclass of `Structure`, whose `name` is not taken.

    Raises:
        TypeError: If it is not an instance of a subclass of `Structure`.
        ValueError: If a structure of this name is registered.
    """
    if not isinstance(structure, Structure):
        raise TypeError(
            "Argument `structure` must be an instance of a subclass of `Structure`. "
            f"Received: structure={structure!r}"
        )
    if structure.name in STRUCTURES:
        raise ValueError(
            f"Argument `structure` must have a name that is not among {', '.join(STRUCTURES)}. "
            f"Received: a structure named {structure.name!r}"
        )
    STRUCTURES[structure.name] = structure


def default_names() -> tuple[str, ...]:
    """Return the names of the structures that are on by default."""
    return tuple(name for name, structure in STRUCTURES.items() if structure.by_default)


def layers_for(names: Iterable[str]) -> str:
    """Return what structures look for, for warnings."""
    return ", ".join(STRUCTURES[name].looks_for.partition(" (")[0] for name in names)


def compound_layers() -> tuple[type, ...]:
    """Return the classes of layers that own the weights of their sublayers."""
    return tuple({x for structure in STRUCTURES.values() for x in structure.compound_layers})
