"""Where attention layers are."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_mimetic._numerics.attention import ROLES
from keras_mimetic._patterns.causality import bound, is_causal, values_of_tokens
from keras_mimetic._patterns.kernels import Part
from keras_mimetic._patterns.roles import GROUPED, NO_OUTPUT, NONE, UNKNOWN, Attention, attentions
from keras_mimetic._patterns.site import Site
from keras_mimetic._patterns.streams import Streams, streams
from keras_mimetic._tracing.graph import Call, Graph
from keras_mimetic._tracing.operations import strip_passthrough

CROSS = {
    "query_key": "cross-attention: query and key are of different streams",
    "value_output": "cross-attention: values are of another stream than queries",
}
SHARED = "another attention uses a part of its weights"
PAIRS = {"query_key": ("query", "key"), "value_output": ("value", "output")}
_GROUPED = keras.layers.GroupQueryAttention


def find(graph: Graph, layers: list[Any], layer_paths: dict[int, str]) -> list[Site]:
    """One site for each attention, in the order of the network.

    Attention is a `MultiHeadAttention`, or what has its parts: projections, a
    product, a softmax, a product, a projection. Whether a pair of weights has the
    identity is judged for each pair (`facts["pairs"]`): the query-key pair where
    queries and keys are of one stream of channels, the value-output pair where
    values and queries are. `self_attention` is whether both are. `causal` is
    whether one of its calls hides what comes later (as far as the mask can be
    seen), `tokens` whether what flows into it began as integer tokens.
    """
    looked = _Looked(graph, layer_paths)
    order: dict[int, int] = {}
    for number, call in enumerate(graph.calls):
        order.setdefault(id(call.operation), number)
    sites = [*_layers(graph, layers, looked), *_in_operations(graph, looked)]
    return sorted(sites, key=lambda site: order.get(id(site.layer), len(graph.calls)))


class _Looked:
    """What the finder looks up of a graph."""

    def __init__(self, graph: Graph, layer_paths: dict[int, str]) -> None:
        self.layer_paths = layer_paths
        self.streams: Streams = streams(graph)
        self.tokens = values_of_tokens(graph)

    def one_stream(self, a: Any, b: Any) -> bool:
        if strip_passthrough(a) is strip_passthrough(b):
            return True
        a, b = self.streams.get(id(a), frozenset()), self.streams.get(id(b), frozenset())
        return bool(a & b)


def _layers(graph: Graph, layers: list[Any], looked: _Looked) -> list[Site]:
    calls: dict[int, list[Call]] = {}
    for call in graph.calls:
        if call.seen:
            calls.setdefault(id(call.operation), []).append(call)
    sites = []
    for layer in layers:
        if not isinstance(layer, (keras.layers.MultiHeadAttention, _GROUPED)) or not layer.built:
            continue
        layer_path, seen = looked.layer_paths[id(layer)], calls.get(id(layer), [])
        if isinstance(layer, _GROUPED):
            sites.append(Site("attention", layer_path, layer, {}, skip_reason=GROUPED))
            continue
        reason = "" if seen else "no call of it could be followed; `rules` may name it"
        pairs = [_pairs(call, looked) for call in seen]
        facts = {
            "causal": any(is_causal(call) for call in seen),
            "tokens": any(id(value) in looked.tokens for call in seen for value in call.inputs),
        }
        own = {name: bool(seen) and all(pair[name] for pair in pairs) for name in PAIRS}
        sites.append(site(layer, layer_path, own, skip_reason=reason, **facts))
    return sites


def site(
    layer: Any,
    layer_path: str,
    pairs: dict[str, bool] | None = None,
    *,
    skip_reason: str = "",
    causal: bool = False,
    tokens: bool = False,
) -> Site:
    """The site of a built `MultiHeadAttention`; `pairs` are those of one stream."""
    kernels = {role: getattr(layer, f"{role}_dense").kernel for role in ROLES}
    if not skip_reason and len(kernels["output"].shape) != 3:
        skip_reason = "its output has several axes: the structure is that of a matrix"
    pairs = dict.fromkeys(PAIRS, True) if pairs is None else pairs
    skipped = {} if skip_reason else {name: CROSS[name] for name, own in pairs.items() if not own}
    facts = {"causal": causal, "tokens": tokens, "skipped": skipped}
    return _judged("attention", layer_path, layer, kernels, facts, skip_reason, pairs)


def _judged(
    structure: str,
    layer_path: str,
    layer: Any,
    weights: dict[str, Any],
    facts: dict[str, Any],
    skip_reason: str,
    pairs: dict[str, bool],
    others: tuple[Any, ...] = (),
) -> Site:
    """A site, left as a whole where each of its pairs is."""
    skipped = facts["skipped"]
    for name, (first, second) in PAIRS.items():
        if name in skipped or skip_reason or not {first, second} <= set(weights):
            continue
        rows = weights[first].shape[0]
        columns = weights[second].shape[0 if second == "key" else -1]
        if rows != columns:
            skipped[name] = f"its product is not square ({rows} by {columns})"
    if not skip_reason and len(skipped) == len(PAIRS):
        both = list(dict.fromkeys(skipped.values()))
        is_cross = set(skipped.values()) <= set(CROSS.values())
        skip_reason = "cross-attention" if is_cross else "; ".join(both)
    facts = {**facts, "pairs": pairs, "self_attention": all(pairs.values())}
    return Site(structure, layer_path, layer, weights, facts, skip_reason, others=others)


def unknown(site: Site) -> set[str]:
    """Pairs of a site without the weights of heads that could be multiplied."""
    is_layer = isinstance(site.layer, keras.layers.MultiHeadAttention)
    return {
        name
        for name, roles in PAIRS.items()
        if not is_layer and not all(isinstance(site.weights.get(role), Part) for role in roles)
    }


def _pairs(call: Call, looked: _Looked) -> dict[str, bool]:
    arguments = bound(call) if call.args or call.kwargs else {}
    query = arguments.get("query", call.inputs[0] if call.inputs else None)
    value = arguments.get("value")
    # A derived layer may take one argument.
    value = query if value is None else value
    key = arguments.get("key")
    key = value if key is None else key
    return {
        "query_key": looked.one_stream(query, key),
        "value_output": looked.one_stream(query, value),
    }


def _in_operations(graph: Graph, looked: _Looked) -> list[Site]:
    """Attention whose projections are layers of their own, or parts of one."""
    by_layer: dict[int, list[Attention]] = {}
    for found in attentions(graph):
        sources = [found.query_source, found.key_source, found.value_source, found.output]
        layer = next(x.call.operation for x in sources if x is not None)
        if id(layer) in looked.layer_paths:
            by_layer.setdefault(id(layer), []).append(found)
    sites = [_operations_site(calls, looked) for calls in by_layer.values()]
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


def _parts(one: Site) -> list[Part]:
    return [part for part in one.weights.values() if isinstance(part, Part)]


def _operations_site(calls: list[Attention], looked: _Looked) -> Site:
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
        pairs[name] = first is not None and second is not None and looked.one_stream(first, second)
        if not why and not pairs[name]:
            why = CROSS[name]
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
    facts = {
        "causal": any(call.causal for call in calls),
        "tokens": any(id(v) in looked.tokens for call in calls for v in call.inputs),
        "skipped": skipped,
    }
    others = tuple(x.call.operation for x in kernels)
    layer_path = looked.layer_paths[id(layer)]
    return _judged("attention", layer_path, layer, weights, facts, "", pairs, others)


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
    """The weights of a role: part of a kernel, or the whole where it is not known which."""
    kernel = projection.call.operation.kernel
    if index is None or projection.matrix is None:
        return kernel
    return Part(kernel, projection.matrix, index, 0 if role == "output" else 1)
