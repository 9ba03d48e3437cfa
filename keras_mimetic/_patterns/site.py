"""A layer of a model whose weights could have a structure."""

import dataclasses
from typing import Any, ClassVar, Self


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Site:
    """A layer, or layers that belong together, whose initial weights could have a structure.

    Each structure has a subclass with the context that its weights depend on.

    Attributes:
        structure: Name of the structure, such as `"mlp"`, set by each subclass.
        layer_path: Path of the layer in the model (see `_graph.layer_paths`), the same
            each time the model is built.
        layer: The Keras layer.
        weights: Main variables by role, such as `{"kernel": ...}`, as named in reports.
        skip_reason: Why the structure is not written here, or "" if it is.
        by_rule: Whether a rule skips the site.
        other_layers: Layers besides `layer` that own some of the weights.
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
        """All variables that may be measured or written, by role."""
        return self.weights

    @property
    def covered_layers(self) -> tuple[Any, ...]:
        """The layers whose matrices belong to this site."""
        return (self.layer, *self.other_layers)

    @property
    def default_skip(self) -> str:
        """Why it is written only if settings are numbers, or "" if it is by default."""
        return ""

    def included_by_rule(self) -> Self | None:
        """Return the site for a rule that includes it although it is skipped.

        `None` uses the layer alone, without its context.
        """
        return None

    @property
    def partly_skipped(self) -> dict[str, str]:
        """Skip reasons by role, for weights that are skipped while others are written."""
        return {}
