"""Attention in a graph: Keras layers, or operations that compute attention."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
import numpy as np

from keras_mimetic._graph.graph import Call, Graph
from keras_mimetic._graph.keras_internals import attention_projection
from keras_mimetic._graph.operations import ATTENTIONS, CONVOLUTIONS, strip_copies
from keras_mimetic._graph.symbol import Nested
from keras_mimetic._numerics.attention import PAIRS, ROLES
from keras_mimetic._patterns import contents
from keras_mimetic._patterns.causality import bound, is_causal, most_causal
from keras_mimetic._patterns.contents import Attention
from keras_mimetic._patterns.kernels import Part, matrix_of
from keras_mimetic._patterns.roles import attentions
from keras_mimetic._patterns.site import Site
from keras_mimetic._patterns.streams import (
    Streams,
    is_in,
    one_stream,
    streams,
    ways_from_one_stream,
)

CROSS = {
    "query_key": "cross-attention: query and key come from different streams",
    "value_output": "cross-attention: values and queries come from different streams",
}
NOT_TRACED = "none of its calls could be traced; use `rules` to include it"
LEARNED = "its queries are learned, not a stream of the input"
SHARED = "it shares weights with another attention"
CAUSAL = "causal attention: query and key keep their weights"
UNKNOWN_MASK = "a mask that could not be traced: query and key keep their weights"
# The role that a pair relates to queries.
_OTHER = {"query_key": "key", "value_output": "value"}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AttentionSite(Site):
    """The projections of one attention; its weights are those of `ROLES`.

    Attributes:
        skipped_pairs: Pairs (`"query_key"`, `"value_output"`) that are not written, with the
            reason.
        is_causal: Whether one of its calls hides later positions; `None` if the maker of a
            mask is unknown.
        is_grouped: Whether several heads share a key and a value head. The heads of a group
            follow one another in the weights.
    """

    structure: ClassVar[str] = "attention"

    skipped_pairs: Mapping[str, str]
    is_causal: bool | None = False
    is_grouped: bool = False

    @property
    def default_skips(self) -> dict[str, str]:
        """Pairs that are written only if their settings are numbers, with the reason."""
        if self.is_grouped:
            return dict.fromkeys(PAIRS, contents.GROUPED)
        if self.is_causal is None:
            return {"query_key": UNKNOWN_MASK}
        return {"query_key": CAUSAL} if self.is_causal else {}

    @property
    def default_skip(self) -> str:
        reasons = [self.default_skips.get(pair) for pair in PAIRS if pair not in self.skipped_pairs]
        return "; ".join(dict.fromkeys(x for x in reasons if x)) if all(reasons) else ""

    def included_by_rule(self) -> Self | None:
        return None if self.skip_reason else self

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
        is_layer = isinstance(self.layer, ATTENTIONS)
        return tuple(
            pair
            for pair, roles in PAIRS.items()
            if is_layer or all(isinstance(self.weights.get(role), Part) for role in roles)
        )


def find_attention(
    graph: Graph, layers: list[Any], layer_paths: dict[Any, str]
) -> list[AttentionSite]:
    """Find each attention.

    Attention is a `MultiHeadAttention` layer, or its parts: projections, a product, a
    softmax, a product, a projection. Each pair of weights is considered separately. Query
    and key must read one stream of channels; for value and output, values and queries must.
    """
    found = streams(graph)
    return [
        *_layers(graph, layers, layer_paths, found),
        *_in_operations(graph, layer_paths, found),
    ]


def _why_apart(pair: str, queries: Nested, others: Nested, found: Streams) -> str:
    """Return why a pair does not work on one stream, or "" if it does.

    `others` are the keys for `"query_key"`, and the values for `"value_output"`.
    """
    if strip_copies(queries) is strip_copies(others):
        return ""
    own = one_stream(queries, found)
    if is_in(own, others, found):
        return ""
    if not own:
        return LEARNED
    if own & one_stream(others, found):
        return CROSS[pair]
    ways = ways_from_one_stream(queries, others, found)
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


def _layers(
    graph: Graph,
    layers: list[keras.Layer],
    layer_paths: dict[keras.Layer, str],
    found: Streams,
) -> list[AttentionSite]:
    sites = []
    for layer in layers:
        if not isinstance(layer, ATTENTIONS) or not layer.built:
            continue
        own = [call for call in graph.calls if call.operation is layer]
        apart = [_apart_by_pair(call, found) for call in own]
        site = attention_site(
            layer,
            layer_paths[layer],
            {pair: next((x[pair] for x in apart if x[pair]), "") for pair in PAIRS},
            skip_reason="" if own else NOT_TRACED,
            is_causal=most_causal(map(is_causal, own)),
        )
        sites.append(site)
    return sites


def attention_site(
    layer: keras.Layer,
    layer_path: str,
    apart: Mapping[str, str] | None = None,
    *,
    skip_reason: str = "",
    is_causal: bool | None = False,
) -> AttentionSite:
    """Return the site of a built layer; `apart` has the pairs that work on several streams."""
    kernels = {role: attention_projection(layer, role).kernel for role in ROLES}
    if not skip_reason and len(kernels["output"].shape) != 3:
        skip_reason = "its output has several axes: the structure is that of a matrix"
    apart = {name: why for name, why in (apart or {}).items() if why}
    if attention_projection(layer, "gate") is not None:
        apart["value_output"] = contents.GATED
    return _judged(
        AttentionSite(
            layer_path=layer_path,
            layer=layer,
            weights=kernels,
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


def _apart_by_pair(call: Call, found: Streams) -> dict[str, str]:
    arguments = bound(call)
    query = arguments.get("query", call.inputs[0] if call.inputs else None)
    # A derived layer may take one argument.
    value = query if arguments.get("value") is None else arguments["value"]
    key = value if arguments.get("key") is None else arguments["key"]
    return {
        "query_key": _why_apart("query_key", query, key, found),
        "value_output": _why_apart("value_output", query, value, found),
    }


def _in_operations(
    graph: Graph, layer_paths: dict[keras.Layer, str], found: Streams
) -> list[AttentionSite]:
    """Find attention whose projections are separate layers, or parts of one layer."""
    by_layer: dict[keras.Layer, list[Attention]] = {}
    for attention in attentions(graph):
        layer = _projections(attention)[0]
        if layer in layer_paths:
            by_layer.setdefault(layer, []).append(attention)
    sites = [_operations_site(calls, layer_paths, found) for calls in by_layer.values()]
    users = Counter(kernel for site in sites for kernel in _kernels(site))
    return [
        dataclasses.replace(site, skip_reason=site.skip_reason or SHARED)
        if any(users[kernel] > 1 for kernel in _kernels(site))
        else site
        for site in sites
    ]


def _projections(attention: Attention) -> list[keras.Layer]:
    return [attention.sources[role].operation for role in ROLES if role in attention.sources]


def _kernels(site: AttentionSite) -> set[int]:
    """Return the `id` of each kernel of which a site has a part."""
    return {id(part.variable) for part in site.weights.values() if isinstance(part, Part)}


def _operations_site(
    calls: list[Attention], layer_paths: dict[keras.Layer, str], found: Streams
) -> AttentionSite:
    first, *others = calls
    projections = _projections(first)
    weights = {
        role: _part(first.sources[role], first.channels.get(role), role)
        for role in ROLES
        if role in first.sources
    }
    skipped = {}
    for pair in PAIRS:
        why = _why_unknown(pair, first) or _why_apart_in_operations(pair, first, found)
        if not why and not all(_do_the_same(first, other, pair) for other in others):
            why = "its calls differ in what they do with its weights"
        if why:
            skipped[pair] = why
    return _judged(
        AttentionSite(
            layer_path=layer_paths[projections[0]],
            layer=projections[0],
            weights=weights,
            skipped_pairs=skipped,
            is_causal=most_causal(call.is_causal for call in calls),
            is_grouped=first.is_grouped,
            other_layers=tuple(projections),
        )
    )


def _why_unknown(pair: str, attention: Attention) -> str:
    """Return why the heads of a pair are unknown, or why its operations are no attention."""
    why = attention.reasons.get(contents.BOTH) or attention.reasons.get(pair)
    missing = [role for role in PAIRS[pair] if role not in attention.sources]
    if why or missing == ["output"]:
        return why or contents.NO_OUTPUT
    if missing:
        return f"its {' and '.join(missing)} {contents.NONE}"
    return "" if attention.channels.keys() >= set(PAIRS[pair]) else contents.UNKNOWN


def _why_apart_in_operations(pair: str, attention: Attention, found: Streams) -> str:
    """Return why a pair of projections does not work on one stream, or "" if it does."""
    if "query" not in attention.sources:
        return attention.reasons["query_key"]
    query, other = (attention.sources[role].inputs[0] for role in ("query", _OTHER[pair]))
    return _why_apart(pair, query, other, found)


def _do_the_same(a: Attention, b: Attention, pair: str) -> bool:
    """Return whether two attentions use the same channels of the same projections."""
    return all(
        role in b.channels
        and a.sources[role].operation is b.sources[role].operation
        and np.array_equal(a.channels[role], b.channels[role])
        for role in PAIRS[pair]
    )


def _part(call: Call, index: np.ndarray | None, role: str) -> Part | keras.Variable:
    """Return the weights of a role: a part of a kernel, or all of it if the part is unknown."""
    kernel, matrix = call.operation.kernel, matrix_of(call)
    if index is None or matrix is None:
        return kernel
    return Part(kernel, matrix, index, 0 if role == "output" else 1)
