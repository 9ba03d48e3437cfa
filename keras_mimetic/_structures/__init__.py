"""The structures that a model can be given and measured for: one entry each.

A new structure is a file in `structures/` that draws it, one in `measures/` that
sees it, one here with its entry, its line in `STRUCTURES`, and a test; if no
finder of `sites/` knows the places where it goes, a file there too.
"""

from keras_mimetic._structures.attention import ATTENTION
from keras_mimetic._structures.base import Structure
from keras_mimetic._structures.depthwise import DEPTHWISE
from keras_mimetic._structures.mlp import MLP
from keras_mimetic._structures.state_space import STATE_SPACE

STRUCTURES: dict[str, Structure] = {
    "mlp": MLP,
    "attention": ATTENTION,
    "depthwise": DEPTHWISE,
    "state_space": STATE_SPACE,
}

__all__ = ["STRUCTURES", "Structure"]
