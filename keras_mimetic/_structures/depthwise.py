"""Depthwise convolution: filters from a covariance that widens with depth."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mimetic._checks import check_number, check_positive
from keras_mimetic._numerics import depthwise
from keras_mimetic._numerics.depthwise import (
    clear_forms,
    empirical_covariance,
    fit_over_depth,
    fit_sigma,
)
from keras_mimetic._numerics.stats import mean_and_std
from keras_mimetic._patterns import depthwise as sites
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.scale import rms_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures.base import (
    Column,
    Figure,
    Measured,
    Panel,
    Reading,
    Settings,
    Structure,
    Weights,
)
from keras_mimetic._tracing.operations import is_depthwise
from keras_mimetic.initializers.depthwise import GAINS, check_gain, depthwise_rms


def _sigma(site: Site, settings: Settings) -> float:
    names = ("sigma_0", "velocity", "acceleration")
    sigma = depthwise.sigma_at_depth(site.facts["depth"], *(settings[name] for name in names))
    if sigma <= 0:
        raise ValueError(
            "Settings `sigma_0`, `velocity` and `acceleration` of 'depthwise' must give a width "
            f"> 0 at every depth. At depth {site.facts['depth']:g} they give {sigma:g}."
        )
    return sigma


def _draw(site: Site, settings: Settings, seed: int) -> Weights:
    shape = tuple(site.weights["kernel"].shape)
    if not _rms(site, settings["gain"]):
        return {}
    filters = depthwise.depthwise_filters(
        shape[:-2],
        shape[-2] * shape[-1],
        sigma=_sigma(site, settings),
        rms=_rms(site, settings["gain"]),
        seed=seed,
    )
    return {"kernel": filters.reshape(shape)}


def _rms(site: Site, gain: float | str) -> float:
    """The root mean square entry of new filters.

    `"keep"` is the scale that the layer's own initializer means, so that it does not
    depend on its draws, or where the kernel is no draw of it, the kernel's own.
    """
    kernel = site.weights["kernel"]
    if gain != "keep":
        return depthwise_rms(tuple(kernel.shape), gain)
    own = float(np.sqrt(np.mean(np.square(values_of(kernel), dtype=np.float64))))
    meant = rms_of(sites.initializer_of(site.layer), tuple(kernel.shape))
    if meant is None:
        return own
    # Five standard errors of the root mean square of normals.
    return meant if abs(own / meant - 1) < 5 / np.sqrt(2 * math.prod(kernel.shape)) else own


def _control(weights: Weights, seed: int) -> Weights:
    kernel = weights["kernel"]
    return {"kernel": depthwise.same_norm(_filters(kernel), seed).reshape(kernel.shape)}


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "gain": _check_gain(settings["gain"]),
        "sigma_0": check_positive("sigma_0", settings["sigma_0"]),
        "velocity": check_number("velocity", settings["velocity"]),
        "acceleration": check_number("acceleration", settings["acceleration"]),
    }


def _check_gain(gain: Any) -> float | str:
    if isinstance(gain, str) and gain not in ("keep", *GAINS):
        raise ValueError(
            "Argument `gain` must be 'keep', 'keras', 'fan_in' or a finite number > 0. "
            f"Received: gain={gain!r}"
        )
    return gain if gain == "keep" else check_gain("gain", gain)


def _named(layer: Any, layer_path: str) -> Site | None:
    return sites.site(layer, layer_path, 0.0) if is_depthwise(layer) else None


def _describe(site: Site, role: str, settings: Settings) -> str:
    if not role:
        return "its filters are zero: name a `gain`"
    return f"sigma {_sigma(site, settings):.3g} at depth {site.facts['depth']:.2f}"


def _filters(kernel: np.ndarray) -> np.ndarray:
    """The filters along one last axis, in either layout of the kernel."""
    return kernel.reshape(*kernel.shape[:-2], -1)


def _measure(site: Site, weights: Weights) -> Measured:
    filters = _filters(weights["kernel"])
    if filters.shape[-1] < 2 or max(filters.shape[:-1]) < 2:
        return Measured((), {})
    measured = empirical_covariance(filters)
    size = filters.shape[:-1]
    sigma, quality = fit_sigma(measured, size)
    _, smooth = fit_sigma(measured, size, centered=False)
    figures = (
        Figure("kernel", "sigma", sigma),
        Figure("kernel", "explained", quality),
        Figure("kernel", "explained_uncentered", smooth),
    )
    images = {"covariance": measured}
    if len(size) <= 2:
        images["variance"] = measured.diagonal().reshape(size if len(size) == 2 else (1, -1))
    return Measured(figures, images)


def _highest(fresh: list[float]) -> float:
    """What fresh weights do not reach, in a network of many layers either."""
    mean, deviation = mean_and_std(fresh)
    return max(mean + 4 * deviation, *fresh)


def _read(readings: Sequence[Reading]) -> dict[str, Any]:
    """From the layers that the closed form fits better than it would any fresh weights."""
    found = [
        (reading.site.facts["depth"], reading.values["kernel", "sigma"][0])
        for reading in readings
        if reading.values["kernel", "explained"][0] > _highest(reading.fresh["kernel", "explained"])
    ]
    return fit_over_depth(*map(list, zip(*found, strict=True))) if found else {}


DEPTHWISE = Structure(
    settings={
        "gain": "keep",
        "sigma_0": depthwise.SIGMA_0,
        "velocity": depthwise.VELOCITY,
        "acceleration": depthwise.ACCELERATION,
    },
    check=_check,
    find=sites.find,
    named=_named,
    draw=_draw,
    control=_control,
    describe=_describe,
    measure=_measure,
    legend=(
        "sigma in squared pixels of the closed form nearest to the filters' covariance, the part "
        "of it that this explains, and the part that smoothness without a center does"
    ),
    columns=(
        Column("sigma", "kernel", "sigma", ".2f"),
        Column("explained", "kernel", "explained", ".2f"),
        Column("without a center", "kernel", "explained_uncentered", ".2f"),
    ),
    panels=(
        Panel("sigma of the filters", "squared pixels", "kernel", "sigma"),
        Panel("covariance explained by its form", "part", "kernel", "explained"),
        Panel("explained without a center", "part", "kernel", "explained_uncentered"),
    ),
    images={
        "variance": "variance of depthwise filters by pixel",
        "covariance": "covariance of their pixels, one row a pixel",
    },
    read=_read,
    forget=clear_forms,
)
