"""State space: hardly any decay, steps of 1, c like b; convolutions that hand on the present."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from keras_mimetic._checks import check_choice
from keras_mimetic._numerics import state_space
from keras_mimetic._numerics.attention import diagonal, expected_diagonal
from keras_mimetic._numerics.mlp import expected_part
from keras_mimetic._numerics.stats import median
from keras_mimetic._patterns import state_space as sites
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures.base import (
    SHOWN,
    Column,
    Expected,
    Figure,
    Measured,
    Panel,
    Reading,
    Settings,
    Shapes,
    Structure,
    Weights,
    normal_draws,
    of_same_norms,
)
from keras_mimetic.initializers.state_space import check_a_log, check_correlation, check_strength
from keras_mimetic.layers.state_space import MimeticStateSpace


def _draw(site: Site, settings: Settings, seed: int) -> Weights:
    shapes = {role: tuple(variable.shape) for role, variable in site.weights.items()}
    correlation, step = settings["correlation"], settings["step"]
    weights: Weights = {}
    if correlation is not None or step is not None:
        weights["in_projection"] = state_space.in_projection(
            shapes["in_projection"],
            num_heads=shapes["a_log"][0],
            shared=site.facts["shared"],
            correlation=correlation or 0.0,
            has_steps=step is None,
            seed=seed,
        )
    if settings["a_log"] is not None:
        weights["a_log"] = state_space.log_decays(
            shapes["a_log"], a_log=settings["a_log"], seed=seed
        )
    if step is not None:
        weights["step_bias"] = state_space.step_biases(shapes["step_bias"], step=step, seed=seed)
    if settings["convolution"] is not None:
        weights["conv_kernel"] = state_space.conv_kernel(
            shapes["conv_kernel"], identity=True, seed=seed
        )
        weights["conv_bias"] = np.zeros(shapes["conv_bias"], np.float32)
    return weights


def _control(weights: Weights, seed: int) -> Weights:
    """Noise of the same norms; decays and steps, which have none, are Mamba-2's own."""
    shapes = {role: values.shape for role, values in weights.items()}
    controls = of_same_norms(normal_draws(shapes, seed), weights)
    if "a_log" in weights:
        controls["a_log"] = state_space.log_decays(shapes["a_log"], a_log=None, seed=seed)
    if "step_bias" in weights:
        controls["step_bias"] = state_space.step_biases(shapes["step_bias"], step=None, seed=seed)
    return controls


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    if all(value is None for value in settings.values()):
        raise ValueError(
            f"One of the settings {', '.join(f'`{name}`' for name in settings)} of 'state_space' "
            f"must not be None. Received: {settings}"
        )
    return {
        "a_log": check_a_log("a_log", settings["a_log"]),
        "step": check_strength("step", settings["step"], positive=True),
        "correlation": check_correlation("correlation", settings["correlation"]),
        "convolution": check_choice("convolution", settings["convolution"], ("identity", None)),
    }


def _named(layer: Any, layer_path: str) -> Site | None:
    return sites.site(layer, layer_path) if isinstance(layer, MimeticStateSpace) else None


def _describe(site: Site, role: str, settings: Settings) -> str:
    if role == "in_projection":
        steps = "" if settings["step"] is None else ", no steps"
        return f"correlation {settings['correlation'] or 0:g} of c with b{steps}"
    if role == "a_log":
        return f"log decay {settings['a_log']:g}"
    if role == "step_bias":
        return f"step {settings['step']:g}"
    return "identity"


def _measure(site: Site, weights: Weights) -> Measured:
    a_log, kernel = weights["a_log"], weights["in_projection"]
    steps = np.logaddexp(0, weights["step_bias"].astype(np.float64))
    figures = []
    for head, (log, step) in enumerate(zip(a_log.tolist(), steps.tolist(), strict=True)):
        figures += [
            Figure("decay", "a_log", log, head, has_null=False),
            Figure("decay", "step", step, head, has_null=False),
            Figure("decay", "memory", float(np.exp(-log) / step), head, has_null=False),
        ]
    where = state_space.parts(kernel.shape[1], len(a_log), site.facts["shared"])
    b, c = (np.split(kernel[:, part], site.facts["groups"], axis=1) for part in where[:2])
    for group, (of_b, of_c) in enumerate(zip(b, c, strict=True)):
        figures += [
            Figure("state", "correlation", _cosine(of_b, of_c), group),
            Figure("state", "diagonal", diagonal(of_c, of_b.T), group),
        ]
    taps = np.square(weights["conv_kernel"], dtype=np.float64).sum(axis=1)
    present = float(taps[-1] / taps.sum()) if taps.any() else float("nan")
    figures.append(Figure("convolution", "present", present))
    product = c[0][:SHOWN].astype(np.float64) @ b[0][:SHOWN].T
    return Measured(tuple(figures), {"state": product})


def _expected(site: Site, shapes: Shapes) -> Expected:
    width, columns = shapes["in_projection"][0], site.facts["shared"] // site.facts["groups"]
    taps, channels = shapes["conv_kernel"]
    kinds = {
        ("state", "correlation", True): (0.0, 1 / math.sqrt(width * columns)),
        ("state", "diagonal", True): expected_diagonal(width, columns),
        ("convolution", "present", False): expected_part(channels, taps * channels),
    }
    return {kind: pair for kind, pair in kinds.items() if pair}


def _alike(site: Site) -> Hashable:
    return site.facts["shared"], site.facts["groups"]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    # Rounding must not give what `initialize` refuses.
    return float(np.clip((a * b).sum() / norms, -1, 1)) if norms else float("nan")


def _read(readings: Sequence[Reading]) -> dict[str, Any]:
    names = (("decay", "a_log"), ("decay", "step"), ("state", "correlation"))
    a_log, step, correlation = (
        median(x for reading in readings for x in reading.values[name]) for name in names
    )
    if a_log is None or not step:
        return {}
    beyond_half = median(
        # Half of the way from where no tap stands out. A single tap says nothing.
        present - (1 + 1 / taps) / 2
        for reading in readings
        for present in reading.values["convolution", "present"]
        if (taps := reading.site.weights["conv_kernel"].shape[0]) > 1
    )
    return {
        "a_log": a_log,
        "step": step,
        "correlation": correlation,
        "convolution": "identity" if (beyond_half or 0.0) > 0 else None,
    }


STATE_SPACE = Structure(
    settings={
        "a_log": state_space.A_LOG,
        "step": state_space.STEP,
        "correlation": state_space.CORRELATION,
        "convolution": None,
    },
    check=_check,
    find=sites.find,
    named=_named,
    draw=_draw,
    control=_control,
    describe=_describe,
    measure=_measure,
    expected=_expected,
    alike=_alike,
    legend=(
        "logarithm of the decay, step, and places after which 1/e of the state is left, mean over "
        "heads [range]; correlation of the weights of c with those of b, and the diagonal of "
        "their product in deviations of the entries off it, by group; energy of the convolutions' "
        "last taps"
    ),
    columns=(
        Column("log decay", "decay", "a_log", "+.2f", by_head=True),
        Column("step", "decay", "step", ".3g", by_head=True),
        Column("memory", "decay", "memory", ".3g", by_head=True),
        Column("correlation", "state", "correlation", "+.2f", by_head=True),
        Column("diagonal", "state", "diagonal", "+.2f", by_head=True),
        Column("present", "convolution", "present", ".2f"),
    ),
    panels=(
        Panel("memory of the state (dots: heads)", "places", "decay", "memory", by_head=True),
        Panel("correlation of c with b (dots: groups)", "", "state", "correlation", by_head=True),
        Panel("energy of convolutions' last taps", "part", "convolution", "present"),
    ),
    images={"state": "products of c's and b's weights, first group, first 64 channels"},
    read=_read,
)
