"""MLPs in a graph: a projection, an activation, a second projection."""

import dataclasses
from typing import Any, ClassVar, Literal, Self

import keras
import numpy as np

from keras_mimetic._graph.graph import Call, Graph
from keras_mimetic._graph.operations import (
    ATTENTIONS,
    CONVOLUTIONS,
    DEPTHWISE,
    SEPARABLE,
    activates,
    is_projection,
    name_of,
    strip_copies,
)
from keras_mimetic._patterns import mlp_match
from keras_mimetic._patterns.kernels import Matrix, Part, matrix_of, values_of
from keras_mimetic._patterns.normalized import norm_over_channels
from keras_mimetic._patterns.site import Site
from keras_mimetic._patterns.streams import free_values

HEAD = "a head, which gives the model's output: set `mean` or `hidden_bias` to write it"
NOT_REACHED = "no input of the model reaches it"
UNCONNECTED = (
    "1x1 convolutions without a residual connection around them may belong to two blocks; use "
    "`rules` to include them"
)

# The input of an MLP; see `MLPSite.before`.
Before = Literal["layer_norm", "batch_norm", "normalized_activation", "other"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MLPSite(Site):
    """The first projection of an MLP; its main weight is `kernel`.

    Attributes:
        before: The layer directly before the MLP: `"layer_norm"` (over the channels,
            centered, with untrained gamma and beta, so that its output sums to zero),
            `"batch_norm"`, `"normalized_activation"` (either norm after an activation,
            as in ConvMixer) or `"other"`. It is `"other"` for a layer that is called several
            times in different contexts.
        norm: The LayerNormalization or BatchNormalization before the MLP, or `None`.
        second: The second projection, or `None` if it is unknown.
        inner_norm: The centered LayerNormalization or BatchNormalization directly before the
            activation, whose beta is the hidden bias, or `None`.
        default_skip: See `Site`.
    """

    structure: ClassVar[str] = "mlp"

    before: Before = "other"
    norm: keras.Layer | None = None
    second: keras.Layer | None = None
    inner_norm: Any = None
    default_skip: str = ""

    @property
    def bias(self) -> Any:
        """The bias of the first projection, or `None`."""
        bias, kernel = getattr(self.layer, "bias", None), self.weights["kernel"]
        if bias is None or not isinstance(kernel, Part):
            return bias
        return Part(bias, Matrix((0,), 0, tuple(bias.shape), (), (0,)), kernel.index, 1)

    @property
    def variables(self) -> dict[str, Any]:
        known = {
            **self.weights,
            "bias": self.bias,
            "second": None if self.second is None else self.second.kernel,
            "gamma": getattr(self.norm, "gamma", None),
            "beta": getattr(self.norm, "beta", None),
            "inner_gamma": getattr(self.inner_norm, "gamma", None),
            "inner_beta": getattr(self.inner_norm, "beta", None),
        }
        return {role: variable for role, variable in known.items() if variable is not None}

    def included_by_rule(self) -> Self:
        # As for any layer that a rule names, what stands before it is not used.
        return dataclasses.replace(
            self, skip_reason="", before="other", norm=None, inner_norm=None, default_skip=""
        )

    @property
    def covered_layers(self) -> tuple[Any, ...]:
        return (*super().covered_layers, *(() if self.second is None else (self.second,)))


def mlp_site(
    layer: keras.Layer, layer_path: str, kernel: Part | None = None, **details: Any
) -> MLPSite:
    """Return the site of a built projection, of which `kernel` may be a part."""
    weights = {"kernel": layer.kernel if kernel is None else kernel}
    return MLPSite(layer_path=layer_path, layer=layer, weights=weights, **details)


def find_mlps(graph: Graph, layer_paths: dict[keras.Layer, str]) -> list[MLPSite]:
    """Find the first projection of each MLP.

    Between the two projections, there must be an activation, and there may be dropout and
    normalizations, but nothing that mixes positions. An MLP is skipped if its hidden layer
    is narrower than its input or output, or if a layer before the activation cancels or
    replaces the hidden bias and is not a normalization with a beta. Inverted residuals are
    listed as skipped.
    """
    sites: dict[keras.Layer, MLPSite] = {}
    uses, free = mlp_match.Uses(graph), free_values(graph)
    # Whether a matrix or attention over positions came before.
    has_body = False
    heads: set[keras.Layer] = set()
    for call in graph.calls:
        layer = call.operation
        has_body |= _mixes_positions(call)
        match = mlp_match.match_mlp(call, uses) if is_projection(layer) else None
        if match is None or layer not in layer_paths:
            continue
        then = "" if match.end is None else mlp_match.follows(match.end, uses)
        if has_body and then == "output":
            heads.add(layer)
        skip_reason = match.skip_reason
        if call.inputs[0] in free:
            skip_reason = NOT_REACHED
        elif isinstance(layer, CONVOLUTIONS) and then != "residual" and layer not in heads:
            skip_reason = skip_reason or UNCONNECTED
        site = _site(call, match, layer_paths[layer], skip_reason)
        sites[layer] = _merged(sites[layer], site) if layer in sites else site
    for layer, site in reversed(sites.items()):
        if layer in heads or site.second in heads:
            heads.add(layer)
            sites[layer] = dataclasses.replace(site, default_skip=site.default_skip or HEAD)
    for first, second in mlp_match.inverted_residuals(graph):
        if first in layer_paths:
            site = mlp_site(
                first, layer_paths[first], second=second, skip_reason=mlp_match.INVERTED
            )
            sites.setdefault(first, site)
    return list(sites.values())


def _site(call: Call, match: mlp_match.Match, layer_path: str, skip_reason: str) -> MLPSite:
    norm, before = _norm_before(call)
    return mlp_site(
        call.operation,
        layer_path,
        kernel=_gate_kernel(call, match.gate),
        before=before,
        norm=norm,
        second=None if match.end is None else match.end.operation,
        inner_norm=match.inner_norm,
        skip_reason=skip_reason,
        default_skip=match.default_skip,
    )


def _gate_kernel(call: Call, gate: np.ndarray | None) -> Part | None:
    """Return the part of a kernel for some channels."""
    matrix = matrix_of(call)
    return None if gate is None or matrix is None else Part(call.operation.kernel, matrix, gate, 1)


def _merged(earlier: MLPSite, site: MLPSite) -> MLPSite:
    """Return the site of a layer that is called several times."""
    same_end = earlier.second is site.second
    same_norm = earlier.inner_norm is site.inner_norm
    return dataclasses.replace(
        site,
        before=site.before if earlier.before == site.before else "other",
        norm=site.norm if earlier.norm is site.norm else None,
        second=site.second if same_end else None,
        inner_norm=site.inner_norm if same_norm else None,
        skip_reason=site.skip_reason
        or earlier.skip_reason
        or ("" if same_norm else mlp_match.INNER_NORM),
        default_skip=site.default_skip or earlier.default_skip,
    )


def _mixes_positions(call: Call) -> bool:
    layer = call.operation
    if isinstance(layer, (*CONVOLUTIONS, *DEPTHWISE, *SEPARABLE)):
        return not is_projection(layer)
    return isinstance(layer, (*ATTENTIONS, keras.layers.RNN)) or name_of(layer) == "Softmax"


def _norm_before(call: Call) -> tuple[keras.Layer | None, Before]:
    """Return the norm over channels directly before an MLP, and its kind."""
    normalized = norm_over_channels(call.inputs[0], call.operation)
    if normalized is None:
        return None, "other"
    norm, before = normalized.operation, strip_copies(normalized.inputs[0]).producer
    if before is not None and activates(before.operation):
        return norm, "normalized_activation"
    if isinstance(norm, keras.layers.BatchNormalization):
        return norm, "batch_norm"
    return norm, "layer_norm" if _is_untrained(norm) else "other"


def _is_untrained(norm: keras.layers.LayerNormalization) -> bool:
    """Return whether gamma and beta of a LayerNormalization are untrained."""
    untrained = ((norm.gamma, 1.0), (norm.beta, 0.0))
    return all(
        variable is None or np.all(values_of(variable) == value) for variable, value in untrained
    )
