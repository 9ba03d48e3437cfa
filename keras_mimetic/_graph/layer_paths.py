"""The path of each layer in a model.

The path of a layer consists of the attributes and containers that lead to it, as in
weight files: `layers/dense_1` for the second `Dense` of a functional or sequential
model, `encoder/attention` for an attribute of an attribute. Unlike names, which Keras
numbers per process, it is the same each time the model is built. There is one
difference from weight files: the list of all layers of a subclassed model is not a
container here, so the path of a layer does not depend on its neighbors.
"""

import functools
import re
from typing import Any

import keras

from keras_mimetic._graph.keras_internals import sublayers

_CONTAINERS = (list, tuple, dict)


def find_layer_paths(model: keras.Layer) -> dict[keras.Layer, str]:
    """Return the path of each layer; "" for `model` itself.

    Of several paths, public attributes come before private ones, each in alphabetical order.
    Layers in a container are named by class and number.
    """
    found: dict[keras.Layer, str] = {}
    _visit(model, "", found)
    hidden = [layer for layer in sublayers(model) if layer not in found]
    for number, layer in enumerate(hidden):
        found[layer] = f"?/{_snake_case(type(layer).__name__)}_{number}"
    return found


def _visit(child: Any, path: str, found: dict[keras.Layer, str]) -> None:
    """Find the paths of a layer and those inside it, or of the layers in a container."""
    if isinstance(child, keras.layers.Layer):
        if child not in found:
            found[child] = path
            for name, inner in _attributes(child):
                _visit(inner, f"{path}/{name}".lstrip("/"), found)
    elif isinstance(child, _CONTAINERS):
        used: dict[str, int] = {}
        for inner in child.values() if isinstance(child, dict) else child:
            if isinstance(inner, keras.layers.Layer):
                _visit(inner, f"{path}/{_unique(_snake_case(type(inner).__name__), used)}", found)
            elif isinstance(inner, _CONTAINERS):
                _visit(inner, f"{path}/{_unique('container', used)}", found)


def _attributes(layer: keras.Layer) -> list[tuple[str, Any]]:
    """Return the attributes that may hold layers, in the order of weight files."""
    # Attributes that every layer has are internals of Keras and its backend.
    skipped = {*_names_of_every_layer(), "_self_unconditional_dependency_names"}
    first = []
    if isinstance(layer, keras.Model):
        skipped |= {"layers", "operations", "_operations", "_functional", "jit_compile"}
        if isinstance(layer, keras.Sequential) or hasattr(layer, "operations"):
            # Layers in the order of the graph. Those of a subclassed model are attributes.
            first = [("layers", layer.layers)]
    names = [
        name
        for name in dir(layer)
        if name not in skipped and not name.startswith("__") and not _is_own_property(layer, name)
    ]
    attributes = []
    for name in sorted(names, key=lambda name: "~" + name if name.startswith("_") else name):
        try:
            attributes.append((name, getattr(layer, name)))
        except Exception:  # a property that does not apply
            continue
    return first + attributes


def _is_own_property(layer: keras.Layer, name: str) -> bool:
    """Return whether an attribute would run code of a user."""
    owner = next((cls for cls in type(layer).__mro__ if name in vars(cls)), None)
    is_property = owner is not None and isinstance(
        vars(owner)[name], (property, functools.cached_property)
    )
    return is_property and not owner.__module__.startswith("keras")


@functools.cache
def _names_of_every_layer() -> tuple[str, ...]:
    return tuple(dir(keras.layers.Layer()))


def _unique(name: str, used: dict[str, int]) -> str:
    if name in used:
        used[name] += 1
        return f"{name}_{used[name]}"
    used[name] = 0
    return name


def _snake_case(name: str) -> str:
    """Convert a class name as Keras does: `Conv2D` becomes `conv2d`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
