"""One place of a model where a structure could go."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A layer whose initial weights could have a structure.

    Attributes:
        structure: Name of the structure, such as `"mlp"`.
        place: Path of attributes and containers to the layer (see
            `keras_mimetic._tracing.layer_paths`): equal whenever the model is built.
        layer: The Keras layer.
        weights: Its variables by role, such as `{"kernel": ...}`.
        facts: What the structure depends on, such as `{"before": "layer_norm"}`.
        left: Why the structure is not written here, or "" where it is.
        around: Variables by role that belong to the structure's surroundings,
            such as the second matrix of an MLP. They are measured, and written
            only where a setting asks for it.
        by_rule: Whether it was a rule of the user's that left it.
        others: Layers that the weights belong to besides `layer`.
    """

    structure: str
    layer_path: str
    layer: Any
    weights: dict[str, Any]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    skip_reason: str = ""
    context: dict[str, Any] = dataclasses.field(default_factory=dict)
    by_rule: bool = False
    others: tuple[Any, ...] = ()

    def variable(self, role: str) -> Any:
        """The variable of a role, also of one around it."""
        return self.weights[role] if role in self.weights else self.context[role]
