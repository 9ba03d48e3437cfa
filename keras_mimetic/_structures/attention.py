"""Attention: products of query and key, and of value and output, near identities."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_mimetic._checks import AUTO, is_auto
from keras_mimetic._numerics import attention
from keras_mimetic._numerics.attention import diagonal, expected_diagonal, moments, strengths
from keras_mimetic._numerics.noise_plus_identity import clear_decompositions
from keras_mimetic._numerics.stats import median
from keras_mimetic._patterns import attention as sites
from keras_mimetic._patterns.kernels import Part
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures.base import (
    SHOWN,
    Column,
    Expected,
    Figure,
    Kind,
    Measured,
    Panel,
    Reading,
    Settings,
    Shapes,
    Structure,
    Weights,
)
from keras_mimetic.initializers.attention import check_strengths


def _strengths(site: Site, settings: Settings) -> dict[str, tuple[float, float]]:
    """(noise, identity) by pair, as far as the site takes them."""
    strengths = {}
    for name in sites.PAIRS:
        given = settings[name]
        if is_auto(given):
            given = attention.auto_strengths(name, is_causal=site.facts.get("causal", False))
        if given is not None and name not in site.facts["skipped"]:
            strengths[name] = given
    return strengths


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
    checked = {name: check_strengths(name, strengths) for name, strengths in settings.items()}
    if all(strengths is None for strengths in checked.values()):
        raise ValueError(
            "One of the settings `query_key` and `value_output` of 'attention' must not be None. "
            f"Received: {settings}"
        )
    return checked


def _named(layer: Any, layer_path: str) -> Site | None:
    if not isinstance(layer, keras.layers.MultiHeadAttention):
        return None
    return sites.site(layer, layer_path)


def _describe(site: Site, role: str, settings: Settings) -> str:
    is_left = site.facts.get("causal") and is_auto(settings["query_key"])
    why = "causal attention: query and key keep their weights" if is_left else ""
    if not role:
        return why
    pair = next(pair for pair in settings if role in pair.split("_"))
    noise, identity = _strengths(site, settings)[pair]
    part = site.weights[role]
    of = f"; {role} part" if isinstance(part, Part) and not part.is_whole else ""
    note = f"{pair.replace('_', '-')}: {noise:g} noise {identity:+g} identity{of}"
    return f"{note} ({why})" if why else note


def _measure(site: Site, weights: Weights) -> Measured:
    figures: list[Figure] = []
    images: Weights = {}
    known = set(sites.PAIRS) - sites.unknown(site)
    if "query_key" in known and len(weights["query"]) == len(weights["key"]):
        query, key = weights["query"], weights["key"]
        left, right = np.moveaxis(query, 1, 0), np.moveaxis(key, 1, 0).swapaxes(1, 2)
        for head, factors in enumerate(zip(left, right, strict=True)):
            figures += _figures("query_key", *factors, head)
        images["query_key"] = _product(left[:, :SHOWN], right[..., :SHOWN]).mean(axis=0)
    if "value_output" in known and _is_square(weights["value"], weights["output"]):
        value, output = weights["value"], weights["output"]
        for head in range(value.shape[1]):
            found = diagonal(value[:, head], output[head])
            figures.append(Figure("value_output", "diagonal", found, head))
        left, right = value.reshape(len(value), -1), output.reshape(-1, output.shape[-1])
        figures += _figures("value_output", left, right)
        images["value_output"] = _product(left[:SHOWN], right[:, :SHOWN])
    return Measured(tuple(figures), images)


def _is_square(value: np.ndarray, output: np.ndarray) -> bool:
    return output.ndim == 3 and len(value) == output.shape[-1]


def _expected(site: Site, shapes: Shapes) -> Expected:
    known = set(sites.PAIRS) - sites.unknown(site)
    kinds: dict[Kind, tuple[float, float] | None] = {}
    if "query_key" in known:
        query_dim, _, key_dim = shapes["query"]
        kinds["query_key", "diagonal", True] = expected_diagonal(query_dim, key_dim)
    if "value_output" in known:
        dim, heads, head_dim = shapes["value"]
        kinds["value_output", "diagonal", True] = expected_diagonal(dim, head_dim)
        kinds["value_output", "diagonal", False] = expected_diagonal(dim, heads * head_dim)
    return {kind: pair for kind, pair in kinds.items() if pair}


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left.astype(np.float64) @ right.astype(np.float64)


def _figures(
    part: str, left: np.ndarray, right: np.ndarray, head: int | None = None
) -> list[Figure]:
    known = moments(left, right)
    noise, identity = strengths(left, right, known)
    return [
        Figure(part, "diagonal", diagonal(left, right, known), head),
        Figure(part, "noise", noise, head, has_null=False),
        Figure(part, "identity", identity, head, has_null=False),
    ]


def _read(readings: Sequence[Reading]) -> dict[str, Any]:
    """Where there are no figures, that pair is left."""
    settings: dict[str, Any] = {}
    for pair in sites.PAIRS:
        own = [reading for reading in readings if reading.site.facts["pairs"][pair]]
        noise, identity = (
            median(x for reading in own for x in reading.values.get((pair, name), []))
            for name in ("noise", "identity")
        )
        if noise is None or identity is None:
            settings[pair] = None
        else:
            # Cross-attention of the other model takes the noise alone: never none at all.
            settings[pair] = (max(noise, 1e-3 * abs(identity)), identity)
    return settings if any(settings.values()) else {}


ATTENTION = Structure(
    settings={"query_key": AUTO, "value_output": AUTO},
    check=_check,
    find=sites.find,
    named=_named,
    draw=_draw,
    control=_control,
    describe=_describe,
    measure=_measure,
    expected=_expected,
    legend=(
        "diagonals of products in deviations of the entries off it, and noise and identity to draw "
        "such products; qk: W_Q W_K^T, mean over heads [range]; vo: W_V W_O, single heads and "
        "their sum"
    ),
    columns=(
        Column("qk diagonal", "query_key", "diagonal", "+.2f", by_head=True),
        Column("qk noise", "query_key", "noise", ".2f", by_head=True),
        Column("qk identity", "query_key", "identity", "+.2f", by_head=True),
        Column("vo diagonal, heads", "value_output", "diagonal", "+.2f", by_head=True),
        Column("sum", "value_output", "diagonal", "+.2f"),
        Column("vo noise", "value_output", "noise", ".2f"),
        Column("vo identity", "value_output", "identity", "+.2f"),
    ),
    panels=(
        Panel(
            "diagonal of query-key products (dots: heads)",
            "off-diagonal deviations",
            "query_key",
            "diagonal",
            by_head=True,
        ),
        Panel(
            "diagonal of the value-output product",
            "off-diagonal deviations",
            "value_output",
            "diagonal",
        ),
    ),
    images={
        "query_key": "query-key products, mean over heads, first 64 channels",
        "value_output": "value-output products, sum over heads, first 64 channels",
    },
    read=_read,
    forget=clear_decompositions,
)
