"""Classification of layers and operations by what they compute."""

from typing import Any

import keras

from keras_mimetic._tracing.symbol import Foreign

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)

# Operations by class name, since `keras.ops` does not export its classes. Those of
# `_NORMALIZING` are normalizations, or the reductions that make up one.
_LINEAR = {
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Cast", "Identity"),
    *("ConvertToTensor", "StopGradient", "Copy", "Rescaling", "Masking", "ActivityRegularization"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout"),
    *("GaussianDropout", "GaussianNoise"),
}
_NORMALIZING = {
    *("LayerNormalization", "BatchNormalization", "GroupNormalization", "RMSNormalization"),
    *("UnitNormalization", "Mean", "Sum", "Square", "Sqrt", "Rsqrt", "Norm", "Var", "Reciprocal"),
    *("Average", "Max", "Min", "Std", "LayerNorm", "RMSNorm"),
}
_ACTIVATIONS = {
    *("Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Softplus", "Softsign", "SoftShrink", "Silu"),
    *("LogSigmoid", "LeakyRelu", "HardSigmoid", "HardSilu", "Elu", "Selu", "Gelu", "Celu"),
    *("TanhShrink", "HardTanh", "HardShrink", "Threshold", "Squareplus", "SparsePlus", "Tanh"),
    *("Erf", "Exp", "Log", "Log1p", "Expm1", "Maximum", "Minimum", "Abs", "Absolute", "Power"),
    *("Clip", "Sin", "Cos", "Where"),
    *("ReLU", "LeakyReLU", "PReLU", "ELU"),
}
_COPIES = {"Identity", "Cast", "ConvertToTensor", "StopGradient", "GaussianNoise", "Copy"}
_SLICING = {"Split", "GetItem", "Slice", "ArraySplit", "Unstack"}


def name_of(operation: Any) -> str:
    """Return the name of an operation: its class or its backend function."""
    return operation.name if isinstance(operation, Foreign) else type(operation).__name__


def is_projection(operation: Any) -> bool:
    """Return whether a layer multiplies channels by a matrix.

    Such layers are `Dense`, 1x1 convolutions, and `EinsumDense` with an equivalent equation.
    """
    if isinstance(operation, keras.layers.Dense):
        return True
    if isinstance(operation, CONVOLUTIONS):
        ones = all(size == 1 for size in (*operation.kernel_size, *operation.strides))
        return ones and operation.groups == 1
    if isinstance(operation, keras.layers.EinsumDense):
        return _is_matrix_on_last_axis(operation.equation)
    return False


def channel_axis(operation: Any, rank: int) -> int:
    """Return the channel axis of the input of a layer, for inputs of a rank."""
    first = getattr(operation, "data_format", "channels_last") == "channels_first"
    return 1 if first else rank - 1


# Activation functions that combine units.
_NOT_POINTWISE = (
    keras.activations.softmax,
    keras.activations.log_softmax,
    keras.activations.glu,
)


def own_activation(layer: Any) -> Any:
    """Return the activation function of a layer, or `None` if it is linear."""
    return None if layer.activation is keras.activations.linear else layer.activation


def is_activation(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return is_pointwise_function(operation.activation)
    return name_of(operation) in _ACTIVATIONS


def is_pointwise_function(function: Any) -> bool:
    """Return whether a function is a nonlinear activation that acts elementwise."""
    return function not in (None, keras.activations.linear, *_NOT_POINTWISE)


def is_gate(operation: Any) -> bool:
    """Return whether an activation multiplies one half of its units by the other (GLU)."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.glu
    return name_of(operation) == "Glu"


def is_pointwise(operation: Any) -> bool:
    """Return whether an operation mixes neither positions nor channels, or only normalizes."""
    name = name_of(operation)
    if isinstance(operation, keras.layers.Activation):
        return operation.activation not in _NOT_POINTWISE
    return name in _LINEAR or name in _NORMALIZING or name in _ACTIVATIONS


def is_normalization(operation: Any) -> bool:
    """Return whether an operation is a normalization or one of its reductions."""
    return type(operation).__name__ in _NORMALIZING


def is_product(operation: Any) -> bool:
    return name_of(operation) == "Multiply"


def is_slicing(operation: Any) -> bool:
    return name_of(operation) in _SLICING


def is_passthrough(operation: Any) -> bool:
    """Return whether an operation returns its input unchanged at inference."""
    name = name_of(operation)
    is_dropout = "Dropout" in name and name in _LINEAR
    return is_dropout or name in _COPIES


def strip_passthrough(value: Any) -> Any:
    """Return the value before any pass-through operations (dropout, identity, cast)."""
    while getattr(value, "producer", None) is not None and is_passthrough(value.producer.operation):
        value = value.producer.inputs[0]
    return value


def is_depthwise(operation: Any) -> bool:
    """Return whether a layer is a convolution whose filters each see one channel."""
    if isinstance(operation, (*DEPTHWISE, *SEPARABLE)):
        return True
    if not isinstance(operation, CONVOLUTIONS) or not operation.built:
        return False
    return operation.groups > 1 and operation.kernel.shape[-2] == 1


def _is_matrix_on_last_axis(equation: str) -> bool:
    inputs, _, output = equation.replace(" ", "").partition("->")
    inputs, _, kernel = inputs.partition(",")
    return (
        len(kernel) == 2
        and inputs[-1:] == kernel[0]
        and output[-1:] == kernel[1]
        and inputs[:-1] == output[:-1]
    )
