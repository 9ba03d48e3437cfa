"""Attention in a graph: Keras layers, or operations that compute attention."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np

from keras_mimetic._numerics.attention import PAIRS, ROLES
from keras_mimetic._patterns.causality import bound, is_causal, most_causal
from keras_mimetic._patterns.kernels import Part
from keras_mimetic._patterns.roles import (
    GATED,
    GROUPED,
    NO_OUTPUT,
    NONE,
    UNKNOWN,
    Attention,
    attentions,
)
from keras_mimetic._patterns.site import Site
from keras_mimetic._patterns.streams import (
    Streams,
    is_in,
    one_stream,
    streams,
    ways_from_one_stream,
)
from keras_mimetic._tracing.graph import Call, Graph
from keras_mimetic._tracing.keras_internals import attention_projection
from keras_mimetic._tracing.operations import CONVOLUTIONS, strip_copies

CROSS = {
    "query_key": "cross-attention: query and key come from different streams",
    "value_output": "cross-attention: values and queries come from different streams",
}
LEARNED = "its queries are learned, not a stream of the input"
SHARED = "it shares weights with another attention"
CAUSAL = "causal attention: query and key keep their weights"
UNKNOWN_MASK = "a mask that could not be traced: query and key keep their weights"
LAYERS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AttentionSite(Site):
    """The projections of one attention; its weights are those of `ROLES`.

    Attributes:
        pairs: Whether both weights of a pair (`"query_key"`, `"value_output"`) work on one
            stream of channels, so that their product can be near an identity.
        skipped_pairs: Pairs that are not written, with the reason.
        is_causal: Whether one of its calls hides later positions; `None` if the maker of a
            mask is unknown.
        is_grouped: Whether several heads share a key and a value head. The heads of a group
            follow one another in the weights.
    """

    structure: ClassVar[str] = "attention"

    pairs: Mapping[str, bool]
    skipped_pairs: Mapping[str, str]
    is_causal: bool | None = False
    is_grouped: bool = False

    @property
    def default_skips(self) -> dict[str, str]:
        """Pairs that are written only if their settings are numbers, with the reason."""
        if self.is_grouped:
            return dict.fromkeys(PAIRS, GROUPED)
        if self.is_causal is None:
            return {"query_key": UNKNOWN_MASK}
        return {"query_key": CAUSAL} if self.is_causal else {}

    @property
    def default_skip(self) -> str:
        reasons = [self.default_skips.get(pair) for pair in PAIRS if pair not in self.skipped_pairs]
        return "; ".join(dict.fromkeys(x for x in reasons if x)) if all(reasons) else ""

    @property
    def self_attention(self) -> bool:
        """Whether each pair works on one stream."""
        return all(self.pairs.values())

    @property
    def partly_skipped(self) -> dict[str, str]:
        return {
            role: reason
            for pair, reason in self.skipped_pairs.items()
            for role in PAIRS[pair]
            if role in self.weights
        }

    @property
    def known_pairs(self) -> tuple[str, ...]:
        """Pairs whose products can be computed, since their weights are known by head."""
        is_layer = isinstance(self.layer, LAYERS)
        return tuple(
            pair
            for pair, roles in PAIRS.items()
            if is_layer or all(isinstance(self.weights.get(role), Part) for role in roles)
        )


def find_attention(
    graph: Graph, layers: list[Any], layer_paths: dict[Any, str]
) -> list[AttentionSite]:
    """Find each attention, in the order of the network.

    Attention is a `MultiHeadAttention` layer, or its parts: projections, a product, a
    softmax, a product, a projection. Each pair of weights is considered separately. Query
    and key must read one stream of channels; for value and output, values and queries must.
    """
    context = _Context(graph, layer_paths)
    order: dict[Any, int] = {}
    for number, call in enumerate(graph.calls):
        order.setdefault(call.operation, number)
    sites = [*_layers(graph, layers, context), *_in_operations(graph, context)]
    return sorted(sites, key=lambda site: order.get(site.layer, len(graph.calls)))


class _Context:
    """Properties of a graph that the search for attention needs."""

    def __init__(self, graph: Graph, layer_paths: dict[Any, str]) -> None:
        self.layer_paths = layer_paths
        self.streams: Streams = streams(graph)

    def why_apart(self, pair: str, queries: Any, others: Any) -> str:
        """Return why a pair does not work on one stream, or "" if it does.

        `others` are the keys for `"query_key"`, and the values for `"value_output"`.
        """
        if strip_copies(queries) is strip_copies(others):
            return ""
        own = one_stream(queries, self.streams)
        if is_in(own, others, self.streams):
            return ""
        if not own:
            return LEARNED
        if own & one_stream(others, self.streams):
            return CROSS[pair]
        ways = ways_from_one_stream(queries, others, self.streams)
        return CROSS[pair] if ways is None else _apart(pair, *ways)


def _apart(pair: str, own: list[Call], other: list[Call]) -> str:
    """Return the skip reason for matrices between a common stream and a pair."""
    what = "keys" if pair == "query_key" else "values"
    if own and other:
        return f"queries and {what} are of one stream, each after a matrix of its own"
    if own:
        return f"queries are {_kind(own)} of the stream of the {what}, which mixes its channels"
    return f"{what} are {_kind(other)} of the stream of the queries, which mixes its channels"


def _kind(matrices: list[Call]) -> str:
    convolutions = [x.operation for x in matrices if isinstance(x.operation, CONVOLUTIONS)]
    if any(max(x.strides) > 1 for x in convolutions):
        return "a strided convolution"
    if any(max(x.kernel_size) > 1 for x in convolutions):
        return "a convolution"
    return "a projection" if matrices else "an activation"


def _layers(graph: Graph, layers: list[Any], context: _Context) -> list[AttentionSite]:
    calls: dict[Any, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(call.operation, []).append(call)
    sites = []
    for layer in layers:
        if not isinstance(layer, LAYERS) or not layer.built:
            continue
        layer_path, seen = context.layer_paths[layer], calls.get(layer, [])
        reason = "" if seen else "none of its calls could be traced; use `rules` to include it"
        apart = [_apart_by_pair(call, context) for call in seen]
        sites.append(
            attention_site(
                layer,
                layer_path,
                {name: next((x[name] for x in apart if x[name]), "") for name in PAIRS},
                skip_reason=reason,
                is_causal=most_causal(map(is_causal, seen)),
            )
        )
    return sites


def attention_site(
    layer: Any,
    layer_path: str,
    apart: Mapping[str, str] | None = None,
    *,
    skip_reason: str = "",
    is_causal: bool | None = False,
) -> AttentionSite:
    """Return the site of a built `MultiHeadAttention` or `GroupQueryAttention`.

    Args:
        layer: The layer.
        layer_path: Its path in the model.
        apart: Reasons by pair that does not work on one stream; `None` if both do.
        skip_reason: See `Site`.
        is_causal: See `AttentionSite`.
    """
    kernels = {role: attention_projection(layer, role).kernel for role in ROLES}
    unfollowed = bool(skip_reason)
    if not skip_reason and len(kernels["output"].shape) != 3:
        skip_reason = "its output has several axes: the structure is that of a matrix"
    apart = {name: why for name, why in (apart or {}).items() if why}
    if attention_projection(layer, "gate") is not None:
        apart["value_output"] = GATED
    return _judged(
        AttentionSite(
            layer_path=layer_path,
            layer=layer,
            weights=kernels,
            pairs={name: not unfollowed and name not in apart for name in PAIRS},
            skipped_pairs={} if skip_reason else apart,
            skip_reason=skip_reason,
            is_causal=is_causal,
            is_grouped=kernels["query"].shape[1] != kernels["key"].shape[1],
        )
    )


def _judged(site: AttentionSite) -> AttentionSite:
    """Skip pairs whose product is not square, and the site if both pairs are skipped."""
    skipped, skip_reason = dict(site.skipped_pairs), site.skip_reason
    for name, (first, second) in PAIRS.items():
        if name in skipped or skip_reason or not {first, second} <= set(site.weights):
            continue
        rows = site.weights[first].shape[0]
        columns = site.weights[second].shape[0 if second == "key" else -1]
        if rows != columns:
            skipped[name] = f"its product is not square ({rows} by {columns})"
    if not skip_reason and len(skipped) == len(PAIRS):
        both = list(dict.fromkeys(skipped.values()))
        is_cross = set(skipped.values()) <= set(CROSS.values())
        skip_reason = "cross-attention" if is_cross else "; ".join(both)
    return dataclasses.replace(site, skipped_pairs=skipped, skip_reason=skip_reason)


def _apart_by_pair(call: Call, context: _Context) -> dict[str, str]:
    arguments = bound(call) if call.args or call.kwargs else {}
    query = arguments.get("query", call.inputs[0] if call.inputs else None)
    value = arguments.get("value")
    # A derived layer may take one argument.
    value = query if value is None else value
    key = arguments.get("key")
    key = value if key is None else key
    return {
        name: context.why_apart(name, query, other)
        for name, other in (("query_key", key), ("value_output", value))
    }


def _in_operations(graph: Graph, context: _Context) -> list[AttentionSite]:
    """Find attention whose projections are separate layers, or parts of one layer."""
    by_layer: dict[Any, list[Attention]] = {}
    for found in attentions(graph):
        sources = [found.query_source, found.key_source, found.value_source, found.output]
        layer = next(x.call.operation for x in sources if x is not None)
        if layer in context.layer_paths:
            by_layer.setdefault(layer, []).append(found)
    sites = [_operations_site(calls, context) for calls in by_layer.values()]
    used: dict[int, list[int]] = {}
    for number, one in enumerate(sites):
        for part in _parts(one):
            used.setdefault(id(part.variable), []).append(number)
    return [
        dataclasses.replace(one, skip_reason=one.skip_reason or SHARED)
        if any(set(used[id(part.variable)]) != {number} for part in _parts(one))
        else one
        for number, one in enumerate(sites)
    ]


def _parts(one: AttentionSite) -> list[Part]:
    return [part for part in one.weights.values() if isinstance(part, Part)]


def _operations_site(calls: list[Attention], context: _Context) -> AttentionSite:
    found = calls[0]
    sources = dict(
        zip(
            ROLES,
            (found.query_source, found.key_source, found.value_source, found.output),
            strict=True,
        )
    )
    index = dict(zip(ROLES, (found.query, found.key, found.value, found.rows), strict=True))
    weights: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    pairs: dict[str, bool] = {}
    for name, roles in PAIRS.items():
        why = found.odd.get("both") or found.odd.get(name, "")
        missing = [role for role in roles if sources[role] is None]
        if missing == ["output"]:
            why = why or NO_OUTPUT
        elif missing:
            why = why or f"its {' and '.join(missing)} {NONE}"
        if not why and any(index[role] is None for role in roles):
            why = UNKNOWN
        inputs = [_input(sources[role]) for role in ("query", roles[0], roles[-1])]
        first, second = (inputs[0], inputs[2]) if name == "query_key" else (inputs[0], inputs[1])
        apart = found.odd.get("query_key") or CROSS[name]
        if first is not None and second is not None:
            apart = context.why_apart(name, first, second)
        pairs[name] = not apart
        why = why or apart
        if not why and any(not _same(found, other, name) for other in calls[1:]):
            why = "its calls differ in what they do with its weights"
        if why:
            skipped[name] = why
        weights |= {
            role: _part(sources[role], None if index[role] is None else index[role], role)
            for role in roles
            if sources[role] is not None
        }
    for name, roles in PAIRS.items():
        whole = all(isinstance(weights.get(role), Part) for role in roles)
        if name not in skipped and not whole:
            skipped[name] = UNKNOWN
    kernels = [x for x in sources.values() if x is not None]
    layer = kernels[0].call.operation
    return _judged(
        AttentionSite(
            layer_path=context.layer_paths[layer],
            layer=layer,
            weights=weights,
            pairs=pairs,
            skipped_pairs=skipped,
            is_causal=most_causal(call.causal for call in calls),
            is_grouped=found.grouped,
            other_layers=tuple(x.call.operation for x in kernels),
        )
    )


def _input(projection: Any) -> Any:
    return None if projection is None else projection.call.inputs[0]


def _same(a: Attention, b: Attention, pair: str) -> bool:
    names = ("query", "key") if pair == "query_key" else ("value", "rows")
    sources = ("query_source", "key_source") if pair == "query_key" else ("value_source", "output")
    for name in sources:
        one, other = getattr(a, name), getattr(b, name)
        if one is None or other is None or one.call.operation is not other.call.operation:
            return False
    for name in names:
        one, other = getattr(a, name), getattr(b, name)
        if one is None or other is None or not np.array_equal(one, other):
            return False
    return True


def _part(projection: Any, index: Any, role: str) -> Any:
    """Return the weights of a role: a part of a kernel, or all of it if the part is unknown."""
    kernel = projection.call.operation.kernel
    if index is None or projection.matrix is None:
        return kernel
    return Part(kernel, projection.matrix, index, 0 if role == "output" else 1)
