"""Where state-space layers are."""

from typing import Any

from keras_mimetic._patterns.site import Site
from keras_mimetic._tracing.graph import Graph, in_call_order
from keras_mimetic.layers.state_space import MimeticStateSpace


def find(graph: Graph, layers: list[Any], layer_paths: dict[int, str]) -> list[Site]:
    """One site for each `MimeticStateSpace`, in the order of the network."""
    found = [layer for layer in layers if isinstance(layer, MimeticStateSpace) and layer.built]
    return [site(layer, layer_paths[id(layer)]) for layer in in_call_order(found, graph)]


def site(layer: Any, layer_path: str) -> Site:
    """The site of a built `MimeticStateSpace`."""
    weights = {
        "in_projection": layer.in_projection.kernel,
        "a_log": layer.a_log,
        "step_bias": layer.step_bias,
        "conv_kernel": layer.conv_kernel,
        "conv_bias": layer.conv_bias,
    }
    facts = {"groups": layer.num_groups, "shared": layer.num_groups * layer.state_dim}
    return Site("state_space", layer_path, layer, weights, facts)
