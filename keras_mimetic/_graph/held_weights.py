"""Projections that are weights of a layer: `matmul(x, weight)`."""

import dataclasses
from collections.abc import Mapping

import keras

from keras_mimetic._graph.graph import Graph
from keras_mimetic._graph.operations import (
    does,
    is_matrix_on_last_axis,
    name_of,
    own_activation,
)
from keras_mimetic._graph.symbol import Args, Foreign, Operation, Value


@dataclasses.dataclass(eq=False)
class HeldProjection:
    """A matrix that a layer multiplies with, in the form of a projection layer.

    Attributes:
        kernel: The weight.
        owner: The layer that it belongs to.
        equation: The equation of the product, as of an `EinsumDense`.
        bias: The weight that is added directly after each of its calls, or `None`.
    """

    kernel: keras.Variable
    owner: keras.Layer
    equation: str
    bias: keras.Variable | None = None
    activation: None = None
    weights: tuple[()] = ()
    built: bool = True

    @property
    def path(self) -> str:
        return self.kernel.path


# The layer that owns each weight, and the projection that each is, by the `id` of the weight.
Owners = Mapping[int, keras.Layer]
Held = dict[int, HeldProjection]


def held_projection(
    operation: Operation, args: Args, owners: Owners, held: Held
) -> keras.Layer | HeldProjection | None:
    """Return the projection, perhaps a linear `Dense`, whose weight a value is multiplied by."""
    if isinstance(operation, Foreign) or not does(operation, "contract"):
        return None
    operands = [x for x in keras.tree.flatten(args) if hasattr(x, "shape")]
    if len(operands) != 2 or not isinstance(operands[0], Value):
        return None
    weight = operands[1]
    owner = owners.get(id(weight))
    if owner is None or len(weight.shape) < 2:
        return None
    if name_of(operation) == "Einsum":
        equation = getattr(operation, "subscripts", "")
    else:
        equation = "...x,xy->...y" if len(weight.shape) == 2 else ""
    if isinstance(owner, keras.layers.Dense) and owner.kernel is weight:
        fits = is_matrix_on_last_axis(equation) and own_activation(owner) is None
        return owner if fits else None
    if not equation:
        return None
    return held.setdefault(id(weight), HeldProjection(weight, owner, equation))


def set_biases(graph: Graph, owners: Owners) -> None:
    """Set the bias of each projection that is a weight of a layer."""
    added: dict[Value, list[keras.Variable | None]] = {}
    for call in graph.calls:
        is_add = name_of(call.operation) == "Add" and len(call.inputs) == 1
        given = keras.tree.flatten(call.args) if is_add else []
        weight = next((x for x in given if id(x) in owners), None)
        for value in call.inputs:
            added.setdefault(value, []).append(weight)
    biases: dict[HeldProjection, list[keras.Variable | None]] = {}
    for call in graph.calls:
        if isinstance(call.operation, HeldProjection):
            biases.setdefault(call.operation, []).extend(added.get(call.outputs[0], [None]))
    for held, (bias, *others) in biases.items():
        if bias is None or any(other is not bias for other in others):
            continue
        if tuple(bias.shape) == tuple(held.kernel.shape[-1:]):
            held.bias = bias
