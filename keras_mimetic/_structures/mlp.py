"""MLP: the first matrix gets a nonzero mean, and the hidden bias starts below zero."""

from collections.abc import Hashable, Sequence
from typing import Any

import keras
import numpy as np

from keras_mimetic._checks import AUTO, check_number, is_auto
from keras_mimetic._numerics.mlp import (
    auto_hidden_bias,
    auto_mean,
    bias_start,
    effective_bias,
    energy_of_ones,
    expected_of_normals,
    shifted_to_mean,
    standardized_mean,
)
from keras_mimetic._numerics.stats import mean_and_std, median
from keras_mimetic._patterns import mlp as sites
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures.base import (
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
    normal_draws,
    of_same_norms,
)
from keras_mimetic._tracing.operations import is_projection


def _strengths(site: Site, settings: Settings) -> tuple[float | None, float | None]:
    """Mean and hidden bias for a site; `None` for what is to be left."""
    mean, hidden_bias = settings["mean"], settings["hidden_bias"]
    before = site.facts["before"]
    if is_auto(mean):
        mean = auto_mean(before, site.weights["kernel"].shape[-2])
    if is_auto(hidden_bias):
        hidden_bias = auto_hidden_bias(before)
    return mean, hidden_bias if "bias" in site.context else None


def _draw(site: Site, settings: Settings, seed: int) -> Weights:
    """Shift the kernel that is there, and start the bias by the kernel's scale."""
    mean, hidden_bias = _strengths(site, settings)
    kernel = values_of(site.weights["kernel"])
    weights = {}
    if np.ptp(kernel) == 0:
        return {}
    if mean is not None:
        kernel = weights["kernel"] = shifted_to_mean(kernel, mean)
    if hidden_bias is not None:
        # After a LayerNorm, whose output sums to zero, a mean moves nothing.
        spread = kernel.std() if _sums_to_zero(site) else np.sqrt(np.mean(kernel**2))
        start = bias_start(hidden_bias, float(spread), kernel.shape[-2], mean=0.0)
        weights["bias"] = np.full(tuple(site.context["bias"].shape), start, np.float32)
    return weights


def _sums_to_zero(site: Site) -> bool:
    return site.facts["before"] == "layer_norm"


def _control(weights: Weights, seed: int) -> Weights:
    controls = {}
    if "kernel" in weights:
        controls["kernel"] = shifted_to_mean(weights["kernel"], 0.0)
    if "bias" in weights:
        controls |= normal_draws({"bias": weights["bias"].shape}, seed)
    return of_same_norms(controls, weights)


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        if value is None or is_auto(value)
        else check_number(name, value, "'auto', None or a finite number")
        for name, value in settings.items()
    }


def _named(layer: Any, layer_path: str) -> Site | None:
    return sites.site(layer, layer_path, "other") if is_projection(layer) else None


_BEFORE = {
    "layer_norm": "after LayerNorm",
    "batch_norm": "after BatchNorm",
    "normalized_activation": "after a norm of activations",
    "other": "not directly after a fresh LayerNorm or a BatchNorm",
}


def _describe(site: Site, role: str, settings: Settings) -> str:
    mean, hidden_bias = _strengths(site, settings)
    before = _BEFORE[site.facts["before"]]
    asked = settings["hidden_bias"]
    if role == "bias":
        return f"hidden bias {hidden_bias:+g} ({before})"
    lacks_bias = "bias" not in site.context and asked is not None and not is_auto(asked)
    no_bias = f"no bias that could start at {asked:+g}" if lacks_bias else ""
    if role == "kernel":
        return f"mean {mean:+.3g} ({before})" + (f"; {no_bias}" if no_bias else "")
    if mean is None and hidden_bias is None:
        return no_bias or f"{before}: a mean or hidden bias needs a number in the settings"
    return "all values of the kernel are equal: it has no standard deviation to shift it by"


# Parts of the figures, by role.
_MATRICES = (("first", "kernel"), ("second", "second"))


def _measure(site: Site, weights: Weights) -> Measured:
    figures = []
    for part, role in _MATRICES:
        if role not in weights:
            continue
        matrix = _matrix(weights[role])
        mean, z = standardized_mean(matrix)
        figures += [
            Figure(part, "mean", mean),
            Figure(part, "z", z),
            Figure(part, "energy_over_inputs", energy_of_ones(matrix, axis=0)),
            Figure(part, "energy_over_outputs", energy_of_ones(matrix, axis=1)),
        ]
    if site.facts["norm"] is not None:
        biases = effective_bias(
            _matrix(weights["kernel"]),
            weights.get("bias"),
            weights.get("gamma"),
            weights.get("beta"),
            centered=isinstance(site.facts["norm"], keras.layers.LayerNormalization),
        )
        # A dead unit has none.
        mean, deviation = mean_and_std(biases)
        figures += [
            Figure("hidden_bias", "mean", mean),
            Figure("hidden_bias", "deviation", deviation),
        ]
    return Measured(tuple(figures), {})


def _matrix(kernel: np.ndarray) -> np.ndarray:
    """Of a 1x1 convolution, too."""
    return kernel.reshape(kernel.shape[-2:])


def _expected(site: Site, shapes: Shapes) -> Expected:
    # Without biases and offsets that are not zero.
    kinds: dict[Kind, tuple[float, float]] = {
        ("hidden_bias", "mean", False): (0.0, 0.0),
        ("hidden_bias", "deviation", False): (0.0, 0.0),
    }
    for part, role in _MATRICES:
        if role in shapes:
            figures = expected_of_normals(*shapes[role][-2:])
            kinds |= {(part, name, False): pair for name, pair in figures.items()}
    return kinds


def _alike(site: Site) -> Hashable:
    norm = site.facts["norm"]
    return norm is not None, isinstance(norm, keras.layers.LayerNormalization)


def _fresh(shapes: Shapes, seed: int) -> Weights:
    constants = {"bias": 0.0, "beta": 0.0, "gamma": 1.0}
    return {
        **normal_draws({r: shape for r, shape in shapes.items() if r not in constants}, seed),
        **{
            role: np.full(shapes[role], value, np.float32)
            for role, value in constants.items()
            if role in shapes
        },
    }


def _read(readings: Sequence[Reading]) -> dict[str, Any]:
    means = [reading.values["first", "mean"][0] for reading in readings]
    biases = [reading.values.get(("hidden_bias", "mean"), [np.nan])[0] for reading in readings]
    if median(means) is None:
        return {}
    return {"mean": median(means), "hidden_bias": median(biases)}


MLP = Structure(
    settings={"mean": AUTO, "hidden_bias": AUTO},
    check=_check,
    find=sites.find,
    named=_named,
    draw=_draw,
    control=_control,
    describe=_describe,
    measure=_measure,
    fresh=_fresh,
    expected=_expected,
    alike=_alike,
    legend=(
        "of the first and second matrix the mean in standard deviations and its z; energy of the "
        "first that is alike for all inputs and for all hidden units, in multiples of chance; "
        "effective hidden bias in pre-activation deviations, mean over units; fraction of hidden "
        "units that are off for all of the data, if data were given"
    ),
    columns=(
        Column("mean 1st", "first", "mean"),
        Column("z", "first", "z", "+.1f"),
        Column("alike for inputs", "first", "energy_over_inputs", ".2f"),
        Column("for hidden units", "first", "energy_over_outputs", ".2f"),
        Column("mean 2nd", "second", "mean"),
        Column("z", "second", "z", "+.1f"),
        Column("hidden bias", "hidden_bias", "mean", "+.2f"),
        Column("dead units", "hidden_units", "dead", ".1%"),
    ),
    panels=(
        Panel("mean of the first matrix", "standard deviations", "first", "mean"),
        Panel(
            "its energy alike for all hidden units",
            "multiples of chance",
            "first",
            "energy_over_outputs",
        ),
        Panel(
            "effective hidden bias (bars: over units)",
            "pre-activation deviations",
            "hidden_bias",
            "mean",
            spread="deviation",
        ),
    ),
    images={},
    read=_read,
)
