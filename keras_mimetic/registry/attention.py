"""Attention: products of query and key, and of value and output, near identities."""

from typing import Any

import keras

from keras_mimetic.initializers.attention_projection import check_strengths, where_it_stands
from keras_mimetic.registry.structure import Settings, Structure, Weights
from keras_mimetic.sites import attention as sites
from keras_mimetic.sites.site import Site
from keras_mimetic.structures import attention


def _strengths(site: Site, settings: Settings) -> dict[str, tuple[float, float]]:
    """(noise, identity) by pair, as far as the site takes them."""
    shapes = {role: site.weights[role].shape for role in attention.ROLES}
    is_square = {
        "query_key": shapes["query"][0] == shapes["key"][0],
        "value_output": shapes["value"][0] == shapes["output"][-1],
    }
    return {
        name: where_it_stands(
            name, settings[name], site.facts["self_attention"] and square, site.place
        )
        for name, square in is_square.items()
        if settings[name] is not None
    }


def _draw(site: Site, settings: Settings, seed: int) -> Weights:
    weights: Weights = {}
    for name, (noise, identity) in _strengths(site, settings).items():
        first, second = name.split("_")
        draw = {"query_key": attention.query_key, "value_output": attention.value_output}[name]
        rows, heads, head_dim = site.weights[first].shape
        partner = site.weights[second].shape
        columns = partner[0] if second == "key" else partner[-1]
        weights[first], weights[second] = draw(
            rows, columns, heads, head_dim, noise=noise, identity=identity, seed=seed
        )
    return weights


def _control(weights: Weights, seed: int) -> Weights:
    controls = attention.same_norms(tuple(weights.values()), seed)
    return dict(zip(weights, controls, strict=True))


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    checked = {
        name: None if strengths is None else check_strengths(name, strengths)
        for name, strengths in settings.items()
    }
    if all(strengths is None for strengths in checked.values()):
        raise ValueError(
            "One of the settings `query_key` and `value_output` of 'attention' must not be None. "
            f"Received: {settings}"
        )
    return checked


def _named(layer: Any, place: str) -> Site | None:
    if not isinstance(layer, keras.layers.MultiHeadAttention):
        return None
    return sites.site(layer, place, self_attention=True)


def _describe(site: Site, role: str, settings: Settings) -> str:
    pair = next(pair for pair in settings if role in pair.split("_"))
    noise, identity = _strengths(site, settings)[pair]
    cross = "" if site.facts["self_attention"] else " (cross-attention)"
    return f"{pair.replace('_', '-')}: {noise:g} noise {identity:+g} identity{cross}"


ATTENTION = Structure(
    settings={"query_key": attention.QUERY_KEY, "value_output": attention.VALUE_OUTPUT},
    check=_check,
    find=sites.find,
    named=_named,
    draw=_draw,
    control=_control,
    describe=_describe,
)
