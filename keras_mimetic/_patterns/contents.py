"""What the tensors around an attention contain, and the attention that they make up."""

import dataclasses

import numpy as np

from keras_mimetic._graph.graph import Call
from keras_mimetic._patterns.heads import pair_heads

GROUPED = "grouped-query attention: each pair is written only if its setting is given"
SHARED_CHANNELS = "its heads share channels"
MIXED_HEADS = "its heads are mixed with one another"
SEVERAL = "its scores are a sum of several products"
SEVERAL_USES = "its softmax has several uses"
SEVERAL_OUTPUTS = "several projections follow it"
GATED = "a gate multiplies its values"
SEPARABLE = "separable attention: a softmax over positions of one projection weighs another"
NO_SOFTMAX = "its weights are another function of its scores than a softmax"
LINEAR = "linear attention: no softmax between its products"
UNKNOWN = "the operations between its projections and their product could not be traced"
NO_OUTPUT = "no projection of its values was found"
NO_MATRIX = "its projection is not one matrix on the channels of each position"
NONE = "not made by a projection"
ADDITIVE = "additive attention: its scores are not a product"

# Key of the reasons to skip both pairs.
BOTH = "both"


@dataclasses.dataclass(eq=False)
class Attention:
    """One attention: its projections, its channels by head, and reasons to skip it.

    Attributes:
        sources: Calls of projections by role.
        channels: By role, the channel numbers of each head, of shape (heads, head_dim). For
            `"output"`, they are the rows of the output projection that multiply the values,
            in the same order. If heads share keys and values, `"key"` and `"value"` have one
            row per group, and the heads of a group follow one another.
        reasons: Skip reasons by pair, or of `BOTH`.
        is_causal: As in `AttentionSite`.
        is_grouped: Whether heads share keys and values.
    """

    sources: dict[str, Call] = dataclasses.field(default_factory=dict)
    channels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    is_causal: bool | None = False
    is_grouped: bool = False

    def set_queries_and_keys(self, query: np.ndarray | None, key: np.ndarray | None) -> None:
        """Set the channels of each head from those in a product, of shape (..., head_dim)."""
        heads = None if query is None or key is None else pair_heads(query, key)
        if heads is None:
            self.reasons.setdefault("query_key", UNKNOWN)
            return
        self.channels |= {"query": heads.query, "key": heads.key}
        self.is_grouped = len(heads.query) > len(heads.key)
        if heads.share_channels:
            self.reasons["query_key"] = SHARED_CHANNELS


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """Channels of the call of a projection.

    `numbers` has the shape of the tensor and the channel of each entry; `None` if unknown.
    """

    source: Call
    numbers: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """A product of the channels of two projections, before or after its softmax.

    `function` is the function of the scores: "", "exp", "softmax" or "other".
    """

    attention: Attention
    function: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """Values gathered by attention, with their channels as in `Channels`."""

    attention: Attention
    numbers: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Weights(Channels):
    """Weights of positions: a softmax of the channels of a projection over another axis."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pooled:
    """Channels of a projection, pooled with weights of positions."""

    attention: Attention


# `None` if a tensor contains anything else.
Contents = Channels | Scores | Gathered | Pooled | None
