"""The structure of attention: products of projections near multiples of the identity."""

from typing import Any, ClassVar, TypedDict

import keras
import numpy as np

from keras_mimetic._checks import AUTO, is_auto
from keras_mimetic._graph.graph import Graph
from keras_mimetic._graph.operations import ATTENTIONS
from keras_mimetic._numerics import attention, products
from keras_mimetic._numerics.attention import PAIRS
from keras_mimetic._patterns.attention import AttentionSite, attention_site, find_attention
from keras_mimetic._patterns.kernels import Part
from keras_mimetic._structures import base
from keras_mimetic.initializers.attention import Strengths, check_strengths


class AttentionSettings(TypedDict, total=False):
    """Settings of the structure `"attention"`; see `Attention`."""

    query_key: Strengths
    value_output: Strengths


class Attention(base.Structure):
    """Products of query and key, and of value and output, near multiples of the identity.

    Settings:
        query_key: The coefficients (noise, identity) of the product of query and key of
            every head; `None` keeps both weights. `"auto"` is (0.7, 0.7), from secondary
            sources. It is `None` in causal attention (ours; `qk` and `both` in
            `benchmarks/results/language-500/table.md`).
        value_output: The coefficients of the product of value and output over all heads.
            `"auto"` is (0.4, -0.4), from secondary sources (`value_output` in
            `benchmarks/results/confirm-attention/over-default.md`).

    Numbers also apply to grouped-query and multi-query attention, which `"auto"` keeps. W_K is
    then paired with the mean of the query weights of its group, and W_V with the sum of the
    output weights of its group (ours).

    Reference:

    - Trockman and Kolter, 2023, "Mimetic Initialization of Self-Attention Layers"
      (arXiv:2305.09828).
    """

    name = "attention"
    looks_for = "attention (projections, a product, a softmax, a product, a projection)"
    defaults: ClassVar[base.Settings] = {"query_key": AUTO, "value_output": AUTO}
    compound_layers = ATTENTIONS
    legend = (
        "diagonals of products in standard deviations of the off-diagonal entries, and noise and "
        "identity that give such products; qk: W_Q W_K^T, mean over heads [range]; vo: W_V W_O, "
        "single heads and their sum"
    )
    figures = (
        base.FigureSpec(
            "query_key",
            "diagonal",
            "qk diagonal",
            "+.2f",
            by_head=True,
            panel="diagonal of query-key products (dots: heads)",
            unit="off-diagonal standard deviations",
        ),
        base.FigureSpec("query_key", "noise", "qk noise", ".2f", by_head=True),
        base.FigureSpec("query_key", "identity", "qk identity", "+.2f", by_head=True),
        base.FigureSpec("value_output", "diagonal", "vo diagonal, heads", "+.2f", by_head=True),
        base.FigureSpec(
            "value_output",
            "diagonal",
            "sum",
            "+.2f",
            panel="diagonal of the value-output product",
            unit="off-diagonal standard deviations",
        ),
        base.FigureSpec("value_output", "noise", "vo noise", ".2f"),
        base.FigureSpec("value_output", "identity", "vo identity", "+.2f"),
    )
    images: ClassVar[dict[str, str]] = {
        "query_key": "query-key products, mean over heads, up to 64 channels",
        "value_output": "value-output products, sum over heads, up to 64 channels",
    }

    def check(self, settings: dict[str, Any]) -> dict[str, Any]:
        checked = {name: check_strengths(name, given) for name, given in settings.items()}
        if all(given is None for given in checked.values()):
            raise ValueError(
                "The settings `query_key` and `value_output` of 'attention' must not both be "
                f"None. Received: {settings}"
            )
        return checked

    def find(
        self, graph: Graph, layers: base.Layers, layer_paths: base.Paths
    ) -> list[AttentionSite]:
        return find_attention(graph, layers, layer_paths)

    def site_at(self, layer: keras.layers.Layer, layer_path: str) -> AttentionSite | None:
        return attention_site(layer, layer_path) if isinstance(layer, ATTENTIONS) else None

    def sample(self, site: AttentionSite, settings: base.Settings, seed: int) -> base.Sampled:
        kept = {
            pair: reason
            for pair, reason in site.default_skips.items()
            if is_auto(settings[pair]) and pair not in site.skipped_pairs
        }
        why = "; ".join(dict.fromkeys(kept.values()))
        values: base.Weights = {}
        notes = {}
        for pair, (noise, identity) in _strengths(site, settings).items():
            shapes = (tuple(site.weights[role].shape) for role in PAIRS[pair])
            sampled = attention.sample_pair(
                pair, *shapes, noise=noise, identity=identity, seed=seed
            )
            for role, value in zip(PAIRS[pair], sampled, strict=True):
                values[role] = value
                part = site.weights[role]
                of = f"; {role} part" if isinstance(part, Part) and not part.is_whole else ""
                note = f"{pair.replace('_', '-')}: {noise:.4g} noise {identity:+.4g} identity{of}"
                notes[role] = f"{note} ({why})" if why else note
        if not values:
            notes = {role: reason for pair, reason in kept.items() for role in PAIRS[pair]}
        return base.NewWeights(values, notes)

    def measure(self, site: AttentionSite, weights: base.Weights) -> base.Measured:
        figures: list[base.Figure] = []
        images: base.Weights = {}
        first = slice(base.MAX_IMAGE_CHANNELS)
        known = site.known_pairs
        if "query_key" in known and len(weights["query"]) == len(weights["key"]):
            query, key = weights["query"], weights["key"]
            key = np.repeat(key, query.shape[1] // key.shape[1], axis=1)
            left, right = np.moveaxis(query, 1, 0), np.moveaxis(key, 1, 0).swapaxes(1, 2)
            for head, factors in enumerate(zip(left, right, strict=True)):
                figures += _figures("query_key", *factors, head)
            images["query_key"] = _product(left[:, first], right[..., first]).mean(axis=0)
        if "value_output" in known and _is_square(weights["value"], weights["output"]):
            value, output = weights["value"], weights["output"]
            size = len(output) // value.shape[1]
            for head in range(len(output)):
                found = products.diagonal(value[:, head // size], output[head])
                figures.append(base.Figure("value_output", "diagonal", found, head))
            output = output.reshape(-1, size, *output.shape[1:]).sum(axis=1)
            left, right = value.reshape(len(value), -1), output.reshape(-1, output.shape[-1])
            figures += _figures("value_output", left, right)
            images["value_output"] = _product(left[first], right[:, first])
        return base.Measured(tuple(figures), images)

    def expected(self, site: AttentionSite, shapes: base.Shapes) -> base.Expected:
        # Single heads and their sum have the same distribution.
        return {
            (pair, "diagonal", by_head): products.expected_diagonal(shapes[PAIRS[pair][0]][0])
            for pair in site.known_pairs
            for by_head in (True, False)
        }


def _strengths(site: AttentionSite, settings: base.Settings) -> dict[str, tuple[float, float]]:
    """Return (noise, identity) for each pair of the site that is written."""
    found = {}
    for pair in PAIRS:
        given = settings[pair]
        if is_auto(given):
            given = (
                None
                if pair in site.default_skips
                else attention.auto_strengths(pair, is_causal=False)
            )
        if given is not None and pair not in site.skipped_pairs:
            found[pair] = given
    return found


def _is_square(value: np.ndarray, output: np.ndarray) -> bool:
    return output.ndim == 3 and len(value) == output.shape[-1]


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left.astype(np.float64) @ right.astype(np.float64)


def _figures(
    part: str, left: np.ndarray, right: np.ndarray, head: int | None = None
) -> list[base.Figure]:
    noise, identity = products.strengths(left, right)
    diagonal = products.diagonal(left, right)
    return base.figures(part, head, diagonal=diagonal, noise=noise, identity=identity)
