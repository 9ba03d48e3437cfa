"""Where depthwise convolutions are."""

from typing import Any

from keras_mimetic.sites.graph import Graph, in_call_order
from keras_mimetic.sites.operations import SEPARABLE, is_depthwise
from keras_mimetic.sites.site import Site


def find(graph: Graph, layers: list[Any], places: dict[int, str]) -> list[Site]:
    """One site for each depthwise convolution, in the order of the network.

    Its fact `depth` is its place among them: 0 for the first, 1 for the last
    (and 0 for the only one). Those in parts
    that could not be followed come last.
    """
    found = [layer for layer in layers if is_depthwise(layer) and layer.built]
    found = in_call_order(found, graph)
    last = max(1, len(found) - 1)
    return [site(layer, places[id(layer)], n / last) for n, layer in enumerate(found)]


def site(layer: Any, place: str, depth: float) -> Site:
    """The site of a built depthwise convolution."""
    kernel = layer.depthwise_kernel if isinstance(layer, SEPARABLE) else layer.kernel
    left = "" if max(kernel.shape[:-2]) > 1 else "a filter of one pixel has no structure"
    return Site("depthwise", place, layer, {"kernel": kernel}, {"depth": depth}, left)
