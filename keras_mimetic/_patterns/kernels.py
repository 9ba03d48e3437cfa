"""Projections as matrices, and parts of kernels as separate weights."""

import dataclasses
import math
from typing import TypeAlias

import keras
import numpy as np

from keras_mimetic._graph.graph import Call
from keras_mimetic._graph.operations import CONVOLUTIONS, channel_axis, einsum_axes


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A kernel as a matrix (inputs, outputs), and its axes in the layer's tensors.

    Attributes:
        order: Axes of the kernel, input axes before output axes.
        inputs: Number of input axes.
        shape: Shape of the kernel in that order.
        in_axes: Axes of the layer's input that are contracted, in that order.
        out_axes: Axes of the layer's output that come from the kernel, in that order.
    """

    order: tuple[int, ...]
    inputs: int
    shape: tuple[int, ...]
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]

    @property
    def fan_in(self) -> int:
        return math.prod(self.shape[: self.inputs])

    @property
    def fan_out(self) -> int:
        return math.prod(self.shape[self.inputs :])


def matrix_of(call: Call) -> Matrix | None:
    """Return the matrix by which a projection multiplies each position, or `None`."""
    layer, rank_in, rank_out = call.operation, len(call.inputs[0].shape), len(call.outputs[0].shape)
    if isinstance(layer, keras.layers.Dense):
        shape = tuple(layer.kernel.shape)
        return Matrix((0, 1), 1, shape, (rank_in - 1,), (rank_out - 1,))
    if isinstance(layer, CONVOLUTIONS):
        if layer.groups > 1 or any(size != 1 for size in layer.kernel_size):
            return None
        shape = tuple(layer.kernel.shape)
        axis = channel_axis(layer, rank_in)
        return Matrix(tuple(range(len(shape))), len(shape) - 1, shape, (axis,), (axis,))
    ranks = [rank_in, len(layer.kernel.shape)]
    terms = einsum_axes(layer.equation, ranks)
    if terms is None or [len(set(term)) for term in terms] != [*ranks, rank_out]:
        return None
    given, kernel, output = terms
    ins = [letter for letter in given if letter in kernel and letter not in output]
    outs = [letter for letter in output if letter in kernel and letter not in given]
    if len(ins) + len(outs) != len(kernel):
        return None  # one matrix per position, or a sum over weights
    order = tuple(kernel.index(letter) for letter in (*ins, *outs))
    return Matrix(
        order,
        len(ins),
        tuple(layer.kernel.shape[axis] for axis in order),
        tuple(given.index(letter) for letter in ins),
        tuple(output.index(letter) for letter in outs),
    )


class Part:
    """Some columns or rows of a kernel, as a weight with its own shape.

    It has the attributes of a variable that this package uses. `take` and `put` convert
    between the values of the whole variable and those of the part.
    """

    def __init__(
        self, variable: keras.Variable, matrix: Matrix, index: np.ndarray, axis: int
    ) -> None:
        self.variable, self._matrix, self.index, self.axis = variable, matrix, index, axis
        self.path, self.dtype = variable.path, variable.dtype
        rest = matrix.fan_in if axis == 1 else matrix.fan_out
        self.shape = (rest, *index.shape) if axis == 1 else (*index.shape, rest)

    @property
    def trainable(self) -> bool:
        return self.variable.trainable

    @property
    def is_whole(self) -> bool:
        """Whether the part is the whole variable."""
        return math.prod(self.shape) == math.prod(self.variable.shape)

    def take(self, values: np.ndarray) -> np.ndarray:
        """Return the values of the part, from those of the variable."""
        return np.take(self._as_matrix(values), self.index, axis=self.axis)

    def put(self, values: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Return the values of the variable with this part replaced."""
        matrix = self._as_matrix(values).copy()
        flat = self.index.ravel()
        if self.axis == 1:
            matrix[:, flat] = part.reshape(len(matrix), -1)
        else:
            matrix[flat] = part.reshape(-1, matrix.shape[1])
        kernel = matrix.reshape(self._matrix.shape)
        return kernel.transpose(np.argsort(self._matrix.order))

    def _as_matrix(self, values: np.ndarray) -> np.ndarray:
        return values.transpose(self._matrix.order).reshape(
            self._matrix.fan_in, self._matrix.fan_out
        )


# A weight of a site: a whole variable, or a part of one.
Weight: TypeAlias = keras.Variable | Part


def overlap(a: Weight, b: Weight) -> bool:
    """Return whether two weights, or parts, have entries of one variable in common."""
    if not isinstance(a, Part) or not isinstance(b, Part) or a.axis != b.axis:
        return getattr(a, "variable", a) is getattr(b, "variable", b)
    return a.variable is b.variable and bool(np.isin(a.index, b.index).any())


def values_of(variable: Weight, dtype: str = "float32") -> np.ndarray:
    """Return the values of a variable, a `Part` or a tensor as an array, float32 by default."""
    if isinstance(variable, Part):
        return variable.take(values_of(variable.variable, dtype))
    x = keras.ops.cast(variable, dtype)
    # Not by NumPy's `__array__`, for which torch gives a DeprecationWarning.
    return x.detach().cpu().numpy().copy() if hasattr(x, "detach") else np.array(x)


def rounded_to(dtype: str, values: np.ndarray) -> np.ndarray:
    """Return float32 values as a variable of this dtype holds them."""
    if dtype == values.dtype.name:
        return values
    return values_of(keras.ops.cast(keras.ops.convert_to_tensor(values), dtype))
