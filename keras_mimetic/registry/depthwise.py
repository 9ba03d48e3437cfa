"""Depthwise convolution: filters from a covariance that widens with depth."""

from typing import Any

from keras_mimetic._checks import check_number, check_positive
from keras_mimetic.initializers.mimetic_depthwise import check_gain, depthwise_rms
from keras_mimetic.registry.structure import Settings, Structure, Weights
from keras_mimetic.sites import depthwise as sites
from keras_mimetic.sites.operations import is_depthwise
from keras_mimetic.sites.site import Site
from keras_mimetic.structures import depthwise


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
    filters = depthwise.depthwise_filters(
        shape[:-2],
        shape[-2] * shape[-1],
        sigma=_sigma(site, settings),
        rms=depthwise_rms(shape, settings["gain"]),
        seed=seed,
    )
    return {"kernel": filters.reshape(shape)}


def _control(weights: Weights, seed: int) -> Weights:
    kernel = weights["kernel"]
    filters = kernel.reshape(*kernel.shape[:-2], -1)
    return {"kernel": depthwise.same_norm(filters, seed).reshape(kernel.shape)}


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "gain": check_gain("gain", settings["gain"]),
        "sigma_0": check_positive("sigma_0", settings["sigma_0"]),
        "velocity": check_number("velocity", settings["velocity"]),
        "acceleration": check_number("acceleration", settings["acceleration"]),
    }


def _named(layer: Any, place: str) -> Site | None:
    return sites.site(layer, place, 0.0) if is_depthwise(layer) else None


def _describe(site: Site, role: str, settings: Settings) -> str:
    return f"sigma {_sigma(site, settings):.3g} at depth {site.facts['depth']:.2f}"


DEPTHWISE = Structure(
    settings={
        "gain": "keras",
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
)
