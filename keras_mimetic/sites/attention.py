"""Where attention layers are."""

from typing import Any

import keras

from keras_mimetic.sites.causality import is_causal, values_of_tokens
from keras_mimetic.sites.graph import Call, Graph, in_call_order
from keras_mimetic.sites.operations import source
from keras_mimetic.sites.site import Site
from keras_mimetic.structures.attention import ROLES

_GROUPED = keras.layers.GroupQueryAttention


def find(graph: Graph, layers: list[Any], places: dict[int, str]) -> list[Site]:
    """One site for each attention layer.

    Its fact `self_attention` is whether query, key and value are one tensor in
    every call of the layer, `causal` whether one of its calls hides what comes
    later (as far as the mask can be seen), `tokens` whether what flows into it
    began as integer tokens.
    """
    tokens = values_of_tokens(graph)
    calls: dict[int, list[Call]] = {}
    for call in graph.calls:
        if not call.seen:
            continue
        calls.setdefault(id(call.operation), []).append(call)
    sites = []
    attention = [x for x in layers if isinstance(x, (keras.layers.MultiHeadAttention, _GROUPED))]
    for layer in in_call_order([layer for layer in attention if layer.built], graph):
        place = places[id(layer)]
        if isinstance(layer, _GROUPED):
            reason = "grouped-query attention: no structure is known for shared keys"
            sites.append(Site("attention", place, layer, {}, left=reason))
            continue
        seen = calls.get(id(layer), [])
        reason = "" if seen else "no call of it could be followed; `rules` may name it"
        own = bool(seen) and all(_is_self_attention(call) for call in seen)
        facts = {
            "causal": any(is_causal(call) for call in seen),
            "tokens": any(id(value) in tokens for call in seen for value in call.inputs),
        }
        sites.append(site(layer, place, self_attention=own, left=reason, **facts))
    return sites


def site(
    layer: Any,
    place: str,
    *,
    self_attention: bool,
    left: str = "",
    causal: bool = False,
    tokens: bool = False,
) -> Site:
    """The site of a built `MultiHeadAttention`."""
    kernels = {role: getattr(layer, f"{role}_dense").kernel for role in ROLES}
    if not left and len(kernels["output"].shape) != 3:
        left = "its output has several axes: the structure is that of a matrix"
    facts = {"self_attention": self_attention, "causal": causal, "tokens": tokens}
    return Site("attention", place, layer, kernels, facts, left)


def _is_self_attention(call: Any) -> bool:
    arguments = dict(zip(("query", "value", "key"), call.args, strict=False))
    arguments.update(call.kwargs)
    query, value, key = (source(arguments.get(name)) for name in ("query", "value", "key"))
    # A derived layer may take one argument.
    return (value is None or value is query) and (key is None or key is query)
