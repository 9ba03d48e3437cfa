"""The structure of depthwise convolutions: a covariance of filters that widens with depth."""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal, TypedDict

import keras
import numpy as np

from keras_mimetic._checks import check_number
from keras_mimetic._numerics import depthwise
from keras_mimetic._numerics.depthwise import empirical_covariance, fit_sigma
from keras_mimetic._patterns.depth import depths
from keras_mimetic._patterns.scale import rms_to_keep
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures.base import (
    Figure,
    FigureSpec,
    Measured,
    NewWeights,
    Settings,
    Skip,
    Structure,
    Weights,
)
from keras_mimetic._tracing.graph import Call, Graph, in_call_order
from keras_mimetic._tracing.operations import SEPARABLE, is_depthwise, name_of
from keras_mimetic.initializers.depthwise import check_gain

# Of the largest filters to measure, whose closed forms take seconds.
_MOST_PIXELS = 625
CAUSAL = "a causal convolution: the structure is for filters centered on their position"


class DepthwiseSettings(TypedDict, total=False):
    """Settings of the structure `"depthwise"`; see `Depthwise`."""

    gain: float | Literal["keep", "keras", "fan_in"]
    sigma_0: float
    velocity: float
    acceleration: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DepthwiseSite(Site):
    """A depthwise convolution; its weight is `kernel`.

    Attributes:
        depth: Depth among the depthwise convolutions, by the longest path: 0 for the first
            or only one, 1 for the last.
    """

    structure: ClassVar[str] = "depthwise"

    depth: float = 0.0


class Depthwise(Structure):
    """Filters from a covariance over pixels whose width grows with depth.

    Settings:
        gain: Scale of the filters. `"keep"` is the nominal scale of the layer's
            initializer, or the scale of the kernel if the initializer did not make it. For
            `"keras"`, `"fan_in"` and numbers, see `MimeticDepthwise`.
        sigma_0: Width sigma at the first layer, in squared pixels (see `sigma_at_depth`).
        velocity: Slope of sigma over depth at the first layer.
        acceleration: Curvature of sigma over depth. The three defaults are a reconstruction
            (`spatial` in `benchmarks/results/compare-cifar10/table.md`).

    Reference:

    - Trockman, Willmott and Kolter, 2023, "Understanding the Covariance Structure of
      Convolutional Filters" (arXiv:2210.03651).
    """

    name = "depthwise"
    looks_for = "depthwise convolutions of more than one pixel"
    defaults: ClassVar[Settings] = {
        "gain": "keep",
        "sigma_0": depthwise.SIGMA_0,
        "velocity": depthwise.VELOCITY,
        "acceleration": depthwise.ACCELERATION,
    }
    legend = (
        "sigma in squared pixels of the closed form nearest to the filters' covariance, the "
        "fraction that this form explains, and the fraction that a form without a center explains"
    )
    figures = (
        FigureSpec(
            "kernel", "sigma", "sigma", ".2f", panel="sigma of the filters", unit="squared pixels"
        ),
        FigureSpec(
            "kernel",
            "explained",
            "explained",
            ".2f",
            panel="covariance explained by its form",
            unit="fraction",
        ),
        FigureSpec(
            "kernel",
            "explained_uncentered",
            "without a center",
            ".2f",
            panel="explained without a center",
            unit="fraction",
        ),
    )
    images: ClassVar[dict[str, str]] = {
        "variance": "variance of depthwise filters by pixel",
        "covariance": "covariance of their pixels, one row per pixel",
    }

    def check(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {
            "gain": check_gain("gain", settings["gain"], more=("keep",)),
            "sigma_0": check_number("sigma_0", settings["sigma_0"], above=0),
            "velocity": check_number("velocity", settings["velocity"]),
            "acceleration": check_number("acceleration", settings["acceleration"]),
        }

    def find(
        self, graph: Graph, layers: list[Any], layer_paths: dict[Any, str]
    ) -> Sequence[DepthwiseSite]:
        """Find depthwise convolutions, and skip causal ones."""
        found = [layer for layer in layers if is_depthwise(layer) and layer.built]
        depth = depths(found, graph)
        causal = {call.operation for call in graph.calls if _is_causal(call)}
        return [
            _site(layer, layer_paths[layer], depth[layer], is_causal=layer in causal)
            for layer in in_call_order(found, graph)
        ]

    def site_at(self, layer: Any, layer_path: str) -> DepthwiseSite | None:
        return _site(layer, layer_path, 0.0) if is_depthwise(layer) else None

    def sample(self, site: DepthwiseSite, settings: Settings, seed: int) -> NewWeights | Skip:
        kernel = site.weights["kernel"]
        shape = tuple(kernel.shape)
        rms, is_expected = _rms(site, settings["gain"])
        if not rms:
            return Skip("its filters are zero: set `gain` to write them")
        sigma = _sigma(site, settings)
        filters = depthwise.depthwise_filters(
            shape[:-2], shape[-2] * shape[-1], sigma=sigma, rms=rms, seed=seed
        )
        if not is_expected:
            # The scale of a second call must not depend on the sample.
            filters *= rms / np.sqrt(np.mean(np.square(filters, dtype=np.float64)))
        note = f"sigma {sigma:.3g} at depth {site.depth:.2f}"
        return NewWeights({"kernel": filters.reshape(shape)}, {"kernel": note})

    def measure(self, site: DepthwiseSite, weights: Weights) -> Measured:
        filters = _filters(weights["kernel"])
        if filters.shape[-1] < 2 or max(filters.shape[:-1]) < 2:
            return Measured()
        if math.prod(filters.shape[:-1]) > _MOST_PIXELS:
            return Measured(reason=f"filters of more than {_MOST_PIXELS} pixels take too long")
        measured = empirical_covariance(filters)
        size = filters.shape[:-1]
        sigma, explained = fit_sigma(measured, size)
        _, uncentered = fit_sigma(measured, size, centered=False)
        figures = (
            Figure("kernel", "sigma", sigma),
            Figure("kernel", "explained", explained),
            Figure("kernel", "explained_uncentered", uncentered),
        )
        images = {"covariance": measured}
        if len(size) <= 2:
            images["variance"] = measured.diagonal().reshape(size if len(size) == 2 else (1, -1))
        return Measured(figures, images)

    def untrained_key(self, site: DepthwiseSite) -> Hashable:
        return ()


def _site(layer: Any, layer_path: str, depth: float, *, is_causal: bool = False) -> DepthwiseSite:
    kernel = layer.depthwise_kernel if isinstance(layer, SEPARABLE) else layer.kernel
    skip_reason = "" if max(kernel.shape[:-2]) > 1 else "filters of one pixel have no structure"
    if not skip_reason and (is_causal or layer.padding == "causal"):
        skip_reason = CAUSAL
    return DepthwiseSite(
        layer_path=layer_path,
        layer=layer,
        weights={"kernel": kernel},
        depth=depth,
        skip_reason=skip_reason,
    )


def _sigma(site: DepthwiseSite, settings: Settings) -> float:
    names = ("sigma_0", "velocity", "acceleration")
    sigma = depthwise.sigma_at_depth(site.depth, *(settings[name] for name in names))
    if sigma <= 0:
        raise ValueError(
            "Settings `sigma_0`, `velocity` and `acceleration` of 'depthwise' must give a width "
            f"> 0 at every depth. Received: a width of {sigma:g} at depth {site.depth:g}"
        )
    return sigma


def _rms(site: DepthwiseSite, gain: float | str) -> tuple[float, bool]:
    """Return the root mean square entry of new filters, and whether it is their expectation."""
    kernel = site.weights["kernel"]
    if gain == "keep":
        return rms_to_keep(kernel, _initializer(site.layer), axes=2)
    return depthwise.rms_of_gain(tuple(kernel.shape), gain), True


def _initializer(layer: Any) -> Any:
    """Return the initializer of the filters of a depthwise convolution."""
    own = getattr(layer, "depthwise_initializer", None)
    return own or getattr(layer, "kernel_initializer", None)


def _filters(kernel: np.ndarray) -> np.ndarray:
    """Return the filters along one last axis, for either layout of the kernel."""
    return kernel.reshape(*kernel.shape[:-2], -1)


def _is_causal(call: Call) -> bool:
    """Return whether the input of a valid convolution is padded at its start alone."""
    layer = call.operation
    if not is_depthwise(layer) or layer.padding != "valid":
        return False
    padding = call.inputs[0].producer if call.inputs else None
    if padding is None:
        return False
    operation = padding.operation
    if isinstance(operation, keras.layers.ZeroPadding1D):
        before, after = operation.padding
        return before > 0 and after == 0
    if name_of(operation) == "Pad":
        widths = getattr(operation, "pad_width", ())
        padded = [tuple(pair) for pair in widths if isinstance(pair, (list, tuple)) and any(pair)]
        return len(padded) == 1 and padded[0][0] > 0 and padded[0][1] == 0
    if name_of(operation) == "Concatenate":
        # A state of earlier positions, concatenated before the new ones.
        joined = [value.shape for value in padding.inputs]
        own = call.inputs[0].shape
        return len(own) == 3 and len(joined) <= 2 and _first_is_shorter(padding, own)
    return False


def _first_is_shorter(padding: Call, own: Any) -> bool:
    first = padding.args[0][0] if padding.args else None
    lengths = [getattr(first, "shape", (None, None))[1], own[1]]
    return None not in lengths and 0 < lengths[0] < lengths[1] / 2
