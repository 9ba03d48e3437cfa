"""MLP: the first matrix has a nonzero mean."""

from typing import Any

import numpy as np

from keras_mimetic._checks import check_number
from keras_mimetic.initializers.mimetic_mean import auto_mean
from keras_mimetic.registry.structure import Settings, Structure, Weights
from keras_mimetic.sites import mlp as sites
from keras_mimetic.sites.operations import is_projection
from keras_mimetic.sites.site import Site
from keras_mimetic.structures.mean_shift import mean_shifted


def _mean(site: Site, settings: Settings) -> float:
    if settings["mean"] != "auto":
        return settings["mean"]
    return auto_mean(after_layer_norm=site.facts["before"] == "layer_norm")


def _draw(site: Site, settings: Settings, seed: int) -> Weights:
    return {"kernel": _kernel(site.weights["kernel"].shape, _mean(site, settings), seed)}


def _kernel(shape: Any, mean: float, seed: int) -> np.ndarray:
    return mean_shifted(
        tuple(shape), mean=mean, scale=1.0, mode="fan_avg", distribution="uniform", seed=seed
    )


def _control(weights: Weights, seed: int) -> Weights:
    kernel = weights["kernel"]
    control = _kernel(kernel.shape, 0.0, seed)
    return {"kernel": control * np.float32(np.linalg.norm(kernel) / np.linalg.norm(control))}


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    mean = settings["mean"]
    if not (isinstance(mean, str) and mean == "auto"):
        mean = check_number("mean", mean, "'auto' or a finite number")
    return {"mean": mean}


def _named(layer: Any, place: str) -> Site | None:
    return sites.site(layer, place, "other") if is_projection(layer) else None


def _describe(site: Site, role: str, settings: Settings) -> str:
    before = {"layer_norm": "LayerNorm", "batch_norm": "BatchNorm", "other": "neither norm"}
    return f"mean {_mean(site, settings):+g} (after {before[site.facts['before']]})"


MLP = Structure(
    settings={"mean": "auto"},
    check=_check,
    find=sites.find,
    named=_named,
    draw=_draw,
    control=_control,
    describe=_describe,
)
