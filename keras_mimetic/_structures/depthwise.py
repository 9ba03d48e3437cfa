"""The structure of depthwise convolutions: a covariance of filters that widens with depth."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal, TypedDict

import keras
import numpy as np
from keras.layers import Layer

from keras_mimetic._checks import check_number
from keras_mimetic._graph.graph import Call, Graph
from keras_mimetic._graph.operations import SEPARABLE, is_depthwise, name_of
from keras_mimetic._graph.symbol import Value
from keras_mimetic._numerics import depthwise
from keras_mimetic._numerics.fans import fans, scaled_std
from keras_mimetic._numerics.random import TRUNCATED_STD
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import base

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


class Depthwise(base.Structure):
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
    defaults: ClassVar[base.Settings] = {
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
        base.FigureSpec(
            "kernel", "sigma", "sigma", ".2f", panel="sigma of the filters", unit="squared pixels"
        ),
        base.FigureSpec(
            "kernel",
            "explained",
            "explained",
            ".2f",
            panel="covariance explained by its form",
            unit="fraction",
        ),
        base.FigureSpec(
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
            "gain": check_number("gain", settings["gain"], above=0, or_=("keep", *depthwise.GAINS)),
            "sigma_0": check_number("sigma_0", settings["sigma_0"], above=0),
            "velocity": check_number("velocity", settings["velocity"]),
            "acceleration": check_number("acceleration", settings["acceleration"]),
        }

    def find(
        self, graph: Graph, layers: base.Layers, layer_paths: base.Paths
    ) -> list[DepthwiseSite]:
        """Find depthwise convolutions, and skip causal ones."""
        found = [layer for layer in layers if is_depthwise(layer) and layer.built]
        depth = _depths(found, graph)
        causal = {call.operation for call in graph.calls if _is_causal(call)}
        return [
            _site(layer, layer_paths[layer], depth[layer], is_causal=layer in causal)
            for layer in found
        ]

    def site_at(self, layer: Layer, layer_path: str) -> DepthwiseSite | None:
        return _site(layer, layer_path, 0.0) if is_depthwise(layer) else None

    def sample(self, site: DepthwiseSite, settings: base.Settings, seed: int) -> base.Sampled:
        kernel = values_of(site.weights["kernel"])
        shape, gain = kernel.shape, settings["gain"]
        if gain == "keep":
            rms, is_expected = _rms_to_keep(kernel, _initializer(site.layer))
        else:
            rms, is_expected = depthwise.rms_of_gain(shape, gain), True
        if not rms:
            return base.Skip("its filters are zero: set `gain` to write them")
        sigma = _sigma(site, settings)
        filters = depthwise.depthwise_filters(
            shape[:-2], shape[-2] * shape[-1], sigma=sigma, rms=rms, seed=seed
        )
        if not is_expected:
            # The scale of a second call must not depend on the sample.
            filters *= rms / np.sqrt(np.mean(np.square(filters, dtype=np.float64)))
        note = f"sigma {sigma:.3g} at depth {site.depth:.2f}"
        new = {"kernel": filters.reshape(shape)}
        return base.NewWeights(new, {"kernel": note}, {"kernel": kernel})

    def measure(self, site: DepthwiseSite, weights: base.Weights) -> base.Measured:
        *size, count = _filters(weights["kernel"]).shape
        if count < 2 or max(size) < 2:
            return base.Measured()
        if math.prod(size) > _MOST_PIXELS:
            return base.Measured(reason=f"filters of more than {_MOST_PIXELS} pixels take too long")
        return _measured(weights)

    def expected(self, site: DepthwiseSite, shapes: base.Shapes) -> base.Expected:
        return _expected(shapes["kernel"])


def _site(layer: Layer, layer_path: str, depth: float, *, is_causal: bool = False) -> DepthwiseSite:
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


def _sigma(site: DepthwiseSite, settings: base.Settings) -> float:
    names = ("sigma_0", "velocity", "acceleration")
    sigma = depthwise.sigma_at_depth(site.depth, *(settings[name] for name in names))
    if sigma <= 0:
        raise ValueError(
            "Settings `sigma_0`, `velocity` and `acceleration` of 'depthwise' must give a width "
            f"> 0 at every depth. Received: a width of {sigma:g} at depth {site.depth:g}"
        )
    return sigma


def _depths(layers: list[Layer], graph: Graph) -> dict[Layer, float]:
    """Return the depth of each layer among `layers`, from 0 to 1.

    It is proportional to the number of others on the longest path to its first call. Layers
    without a call follow all others.
    """
    ranks: dict[Layer, int] = {}
    reached: dict[Value, int] = {}
    for call in graph.calls:
        rank = max((reached.get(value, 0) for value in call.inputs), default=0)
        if call.operation in layers:
            ranks.setdefault(call.operation, rank)
            rank += 1
        reached |= dict.fromkeys(call.outputs, rank)
    last = max(ranks.values(), default=-1)
    for layer in layers:
        if layer not in ranks:
            last += 1
            ranks[layer] = last
    return {layer: rank / max(1, last) for layer, rank in ranks.items()}


def _rms_to_keep(kernel: np.ndarray, initializer: Any) -> tuple[float, bool]:
    """Return the root mean square that new filters keep, and whether it is the initializer's.

    The initializer's does not depend on samples. If the filters are no samples of it, theirs
    is kept.
    """
    squares = np.square(kernel, dtype=np.float64)
    own = math.sqrt(squares.mean())
    meant = _rms_of(initializer, kernel.shape)
    if not meant or not own:
        return own, False
    samples = squares.reshape(-1, math.prod(kernel.shape[-2:])).mean(axis=0)
    # Of few samples, the error is that of normals that are constant in each.
    error = samples.std() if len(samples) > 15 else math.sqrt(2) * meant**2
    is_meant = abs(own**2 - meant**2) < 6 * error / math.sqrt(len(samples))
    return (meant, True) if is_meant else (own, False)


def _rms_of(initializer: Any, shape: tuple[int, ...]) -> float | None:
    """Return the expected root mean square of an initializer's values, or `None` if unknown."""
    known = keras.initializers
    if isinstance(initializer, known.VarianceScaling):
        return scaled_std(*fans(shape), scale=initializer.scale, mode=initializer.mode)
    if isinstance(initializer, known.TruncatedNormal):
        return math.hypot(initializer.mean, TRUNCATED_STD * initializer.stddev)
    if isinstance(initializer, known.RandomNormal):
        return math.hypot(initializer.mean, initializer.stddev)
    if isinstance(initializer, known.RandomUniform):
        low, high = initializer.minval, initializer.maxval
        return math.sqrt((low * low + low * high + high * high) / 3)
    return None


def _initializer(layer: Layer) -> Any:
    """Return the initializer of the filters of a depthwise convolution."""
    own = getattr(layer, "depthwise_initializer", None)
    return own or getattr(layer, "kernel_initializer", None)


def _measured(weights: base.Weights) -> base.Measured:
    filters = _filters(weights["kernel"])
    size = filters.shape[:-1]
    covariance = depthwise.empirical_covariance(filters)
    sigma, explained = depthwise.fit_sigma(covariance, size)
    _, uncentered = depthwise.fit_sigma(covariance, size, centered=False)
    figures = base.figures(
        "kernel", sigma=sigma, explained=explained, explained_uncentered=uncentered
    )
    images = {"covariance": covariance}
    if len(size) <= 2:
        images["variance"] = covariance.diagonal().reshape(size if len(size) == 2 else (1, -1))
    return base.Measured(tuple(figures), images)


@functools.lru_cache(maxsize=256)
def _expected(shape: tuple[int, ...]) -> base.Expected:
    """Return the figures of untrained filters, which have no closed form."""
    return base.figures_of_normals(lambda weights: _measured(weights).figures, {"kernel": shape})


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
