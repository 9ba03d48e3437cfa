"""One layer of a model whose weights could have a structure."""

import dataclasses
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Site:
    """A layer, with the layers around it, whose initial weights could have a structure.

    Each structure has a subclass with what its weights depend on.

    Attributes:
        structure: Name of the structure, such as `"mlp"`; one for each subclass.
        layer_path: Path of attributes and containers to the layer (see
            `_tracing.layer_paths`), the same whenever the model is built.
        layer: The Keras layer.
        weights: Its main variables by role, such as `{"kernel": ...}`, which reports name.
        skip_reason: Why the structure is not written here, or "" where it is.
        by_rule: Whether a rule of the user's skips it.
        other_layers: Layers that the weights belong to besides `layer`.
    """

    structure: ClassVar[str]

    layer_path: str
    layer: Any
    weights: dict[str, Any]
    skip_reason: str = ""
    by_rule: bool = False
    other_layers: tuple[Any, ...] = ()

    @property
    def variables(self) -> dict[str, Any]:
        """All variables that are measured or may be written, by role."""
        return self.weights

    @property
    def covered_layers(self) -> tuple[Any, ...]:
        """The layers whose matrices this site accounts for."""
        return (self.layer, *self.other_layers)

    @property
    def partly_skipped(self) -> dict[str, str]:
        """Reasons by role for weights that are skipped where the site as a whole is not."""
        return {}
