"""Where depthwise convolutions are."""

from typing import Any

import keras

from keras_mimetic._patterns.depth import depths
from keras_mimetic._patterns.site import Site
from keras_mimetic._tracing.graph import Call, Graph, in_call_order
from keras_mimetic._tracing.operations import SEPARABLE, is_depthwise, name_of

CAUSAL = "causal: the structure is that of filters centered on their own place"


def find(graph: Graph, layers: list[Any], layer_paths: dict[int, str]) -> list[Site]:
    """One site for each depthwise convolution, in the order of the network.

    Its fact `depth` is its place among them: 0 for the first, 1 for the last
    (and 0 for the only one), by the longest path; see `keras_mimetic._patterns.depth`.
    Filters that see nothing of what comes after their place are left.
    """
    found = [layer for layer in layers if is_depthwise(layer) and layer.built]
    depth = depths(found, graph)
    causal = {id(call.operation) for call in graph.calls if _is_causal(call)}
    return [
        site(layer, layer_paths[id(layer)], depth[id(layer)], causal=id(layer) in causal)
        for layer in in_call_order(found, graph)
    ]


def site(layer: Any, layer_path: str, depth: float, *, causal: bool = False) -> Site:
    """The site of a built depthwise convolution."""
    kernel = layer.depthwise_kernel if isinstance(layer, SEPARABLE) else layer.kernel
    skip_reason = "" if max(kernel.shape[:-2]) > 1 else "a filter of one pixel has no structure"
    if not skip_reason and (causal or layer.padding == "causal"):
        skip_reason = CAUSAL
    return Site("depthwise", layer_path, layer, {"kernel": kernel}, {"depth": depth}, skip_reason)


def initializer_of(layer: Any) -> Any:
    """The initializer of a depthwise convolution's filters."""
    return getattr(layer, "depthwise_initializer", None) or getattr(
        layer, "kernel_initializer", None
    )


def _is_causal(call: Call) -> bool:
    """Whether zeros stand before the places of a valid convolution, and none behind."""
    layer = call.operation
    if not is_depthwise(layer) or not call.seen or layer.padding != "valid":
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
        # A state of earlier places, joined in front of what is new.
        joined = [value.shape for value in padding.inputs]
        own = call.inputs[0].shape
        return len(own) == 3 and len(joined) <= 2 and _first_is_shorter(padding, own)
    return False


def _first_is_shorter(padding: Call, own: Any) -> bool:
    first = padding.args[0][0] if padding.args else None
    lengths = [getattr(first, "shape", (None, None))[1], own[1]]
    return None not in lengths and 0 < lengths[0] < lengths[1] / 2
