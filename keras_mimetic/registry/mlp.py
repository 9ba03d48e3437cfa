"""MLP: the hidden units start below zero, by their bias or the mean of the first matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mimetic._checks import check_number
from keras_mimetic.measures.mean import effective_bias, energy_of_ones, mean_in_deviations
from keras_mimetic.measures.middle import mean_and_deviation, median
from keras_mimetic.registry.structure import (
    Column,
    Figure,
    Measured,
    Panel,
    Reading,
    Settings,
    Structure,
    Weights,
    normal_draws,
    of_same_norms,
)
from keras_mimetic.sites import mlp as sites
from keras_mimetic.sites.operations import is_projection
from keras_mimetic.sites.site import Site, values_of
from keras_mimetic.structures.hidden_units import AUTO, auto_strengths, bias_start, is_auto
from keras_mimetic.structures.mean_shift import mean_shifted
from keras_mimetic.structures.variance_scaling import scaled_std


def _strengths(site: Site, settings: Settings) -> tuple[float, float | None]:
    return auto_strengths(
        settings["mean"],
        settings["hidden_bias"],
        before=site.facts["before"],
        has_bias="bias" in site.around,
    )


def _draw(site: Site, settings: Settings, seed: int) -> Weights:
    shape = tuple(site.weights["kernel"].shape)
    mean, hidden_bias = _strengths(site, settings)
    weights = {}
    if mean or not is_auto(settings["mean"]):
        weights["kernel"] = _kernel(shape, mean, seed)
        std = scaled_std(shape[-2], shape[-1], scale=1.0, mode="fan_avg")
    else:
        # The matrix has nothing to gain, and keeps its own scale (and mean).
        values = values_of(site.weights["kernel"])
        centred = site.facts["before"] == "layer_norm"
        std = float(values.std() if centred else np.sqrt(np.mean(values**2)))
    if hidden_bias is not None and "bias" in site.around:
        # Behind a LayerNorm the mean moves nothing.
        moving = 0.0 if site.facts["before"] == "layer_norm" else mean
        start = bias_start(hidden_bias, std, shape[-2], moving)
        weights["bias"] = np.full(tuple(site.around["bias"].shape), start, np.float32)
    return weights


def _kernel(shape: Any, mean: float, seed: int) -> np.ndarray:
    return mean_shifted(
        tuple(shape), mean=mean, scale=1.0, mode="fan_avg", distribution="uniform", seed=seed
    )


def _control(weights: Weights, seed: int) -> Weights:
    controls = {}
    if "kernel" in weights:
        controls["kernel"] = _kernel(weights["kernel"].shape, 0.0, seed)
    if "bias" in weights:
        controls |= normal_draws({"bias": weights["bias"].shape}, seed)
    return of_same_norms(controls, weights)


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    mean, hidden_bias = settings["mean"], settings["hidden_bias"]
    if not is_auto(mean):
        mean = check_number("mean", mean, "'auto' or a finite number")
    if hidden_bias is not None and not is_auto(hidden_bias):
        hidden_bias = check_number("hidden_bias", hidden_bias, "'auto', None or a finite number")
    return {"mean": mean, "hidden_bias": hidden_bias}


def _named(layer: Any, place: str) -> Site | None:
    return sites.site(layer, place, "other") if is_projection(layer) else None


def _describe(site: Site, role: str, settings: Settings) -> str:
    mean, hidden_bias = _strengths(site, settings)
    names = {
        "layer_norm": "after LayerNorm",
        "batch_norm": "after BatchNorm",
        "other": "not directly after a fresh LayerNorm or a BatchNorm",
    }
    before = names[site.facts["before"]]
    if not role:
        return f"{before}: name a `mean` or `hidden_bias` if it shall have one"
    if role == "bias":
        return f"hidden bias {hidden_bias:+g} ({before})"
    note = f"mean {mean:+g} ({before})"
    if hidden_bias is not None and "bias" not in site.around:
        note += f"; no bias that could start at {hidden_bias:+g}"
    return note


def _measure(site: Site, weights: Weights) -> Measured:
    figures = []
    for part, role in (("first", "kernel"), ("second", "second")):
        if role not in weights:
            continue
        matrix = _matrix(weights[role])
        mean, z = mean_in_deviations(matrix)
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
            centred=isinstance(site.facts["norm"], keras.layers.LayerNormalization),
        )
        # A dead unit has none.
        mean, deviation = mean_and_deviation(biases)
        figures += [
            Figure("hidden_bias", "mean", mean),
            Figure("hidden_bias", "deviation", deviation),
        ]
    return Measured(tuple(figures), {})


def _matrix(kernel: np.ndarray) -> np.ndarray:
    """Of a 1x1 convolution, too."""
    return kernel.reshape(kernel.shape[-2:])


def _fresh(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Weights:
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
    legend=(
        "of the first and second matrix the mean in standard deviations and its z; energy of the "
        "first that is alike for all inputs and for all hidden units, in multiples of chance; "
        "effective hidden bias in pre-activation deviations, mean over units"
    ),
    columns=(
        Column("mean 1st", "first", "mean"),
        Column("z", "first", "z", "+.1f"),
        Column("alike for inputs", "first", "energy_over_inputs", ".2f"),
        Column("for hidden units", "first", "energy_over_outputs", ".2f"),
        Column("mean 2nd", "second", "mean"),
        Column("z", "second", "z", "+.1f"),
        Column("hidden bias", "hidden_bias", "mean", "+.2f"),
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
