"""One place of a model where a structure could go."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A layer whose initial weights could have a structure.

    Attributes:
        structure: Name of the structure, such as `"mlp"`.
        place: Path of attributes and containers to the layer (see
            `keras_mimetic.sites.places`): equal whenever the model is built.
        layer: The Keras layer.
        weights: Its variables by role, such as `{"kernel": ...}`.
        facts: What the structure depends on, such as `{"before": "layer_norm"}`.
        left: Why the structure is not written here, or "" where it is.
    """

    structure: str
    place: str
    layer: Any
    weights: dict[str, Any]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    left: str = ""
