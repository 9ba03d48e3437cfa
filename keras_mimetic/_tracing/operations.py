"""What a layer or operation does, as far as the finders must know."""

from typing import Any

import keras

from keras_mimetic._tracing.symbol import Foreign

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)

# By class name, since `keras.ops` does not export its classes. Element by element,
# or a reduction that such a normalization is made of.
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
    """The name of what an operation does: its class, or the backend's own function."""
    return operation.name if isinstance(operation, Foreign) else type(operation).__name__


def is_projection(operation: Any) -> bool:
    """A matrix on the channels: `Dense`, a 1x1 convolution, an `EinsumDense` like it."""
    if isinstance(operation, keras.layers.Dense):
        return True
    if isinstance(operation, CONVOLUTIONS):
        ones = all(size == 1 for size in (*operation.kernel_size, *operation.strides))
        return ones and operation.groups == 1
    if isinstance(operation, keras.layers.EinsumDense):
        return _is_matrix_on_last_axis(operation.equation)
    return False


def channel_axis(operation: Any, rank: int) -> int:
    """The axis of the input that a projection contracts, counted from the front."""
    first = getattr(operation, "data_format", "channels_last") == "channels_first"
    return 1 if first else rank - 1


# What an activation function does to each unit by itself, or not.
_NOT_POINTWISE = (
    keras.activations.softmax,
    keras.activations.log_softmax,
    keras.activations.glu,
)


def own_activation(layer: Any) -> Any:
    """The function of a projection with an activation of its own, or `None`."""
    return None if layer.activation is keras.activations.linear else layer.activation


def is_activation(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return is_pointwise_function(operation.activation)
    return name_of(operation) in _ACTIVATIONS


def is_pointwise_function(function: Any) -> bool:
    """Whether it is an activation function that treats each unit by itself."""
    return function not in (None, keras.activations.linear, *_NOT_POINTWISE)


def is_gate(operation: Any) -> bool:
    """An activation that multiplies one half of its units with the other."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.glu
    return name_of(operation) == "Glu"


def is_pointwise(operation: Any) -> bool:
    """Mixes no places and no channels, or only as a normalization does."""
    name = name_of(operation)
    if isinstance(operation, keras.layers.Activation):
        return operation.activation not in _NOT_POINTWISE
    return name in _LINEAR or name in _NORMALIZING or name in _ACTIVATIONS


def is_normalization(operation: Any) -> bool:
    """A normalization, or a reduction that one is made of."""
    return type(operation).__name__ in _NORMALIZING


def is_product(operation: Any) -> bool:
    return name_of(operation) == "Multiply"


def is_slicing(operation: Any) -> bool:
    return name_of(operation) in _SLICING


def is_passthrough(operation: Any) -> bool:
    """Hands its one input on as it is, outside of training."""
    name = name_of(operation)
    is_dropout = "Dropout" in name and name in _LINEAR
    return is_dropout or name in _COPIES


def strip_passthrough(value: Any) -> Any:
    """The value that another is, seen through operations that hand it on."""
    while getattr(value, "producer", None) is not None and is_passthrough(value.producer.operation):
        value = value.producer.inputs[0]
    return value


def is_depthwise(operation: Any) -> bool:
    """A convolution whose every filter sees one channel."""
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
