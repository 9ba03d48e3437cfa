"""What each layer and operation does."""

import keras

from keras_mimetic._graph.graph import walk_back
from keras_mimetic._graph.symbol import Foreign, Function, Nested, Operation, Value

ATTENTIONS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
# Normalizations that may subtract means.
CENTERING = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)

# What operations do, by class name, since `keras.ops` does not export its classes. One that
# does several things is in several lines.
_TABLE = {
    # Returns its input at inference.
    "copy": """Identity Cast ConvertToTensor StopGradient Copy ActivityRegularization Dropout
        SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout
        GaussianNoise""",
    # Elementwise sums and products.
    "add": "Add Subtract",
    "product": "Multiply",
    "scale": "Multiply Divide TrueDivide Negative Rescaling Masking",
    # Takes entries of several tensors.
    "join": "Concatenate Stack Average Where",
    "normalize": """LayerNormalization BatchNormalization GroupNormalization RMSNormalization
        UnitNormalization LayerNorm RMSNorm""",
    # Makes up a normalization or a pooling.
    "reduce": "Mean Sum Square Sqrt Rsqrt Norm Var Reciprocal Average Max Min Std",
    "activate": """Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink Silu LogSigmoid
        LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold
        Squareplus SparsePlus Tanh Erf Exp Log Log1p Expm1 Maximum Minimum Abs Absolute Power Clip
        Sin Cos Where ReLU LeakyReLU PReLU ELU""",
    # Activates both sides of zero equally.
    "odd": "Tanh Softsign HardTanh TanhShrink SoftShrink HardShrink",
    # Moves or repeats entries.
    "move": """Reshape Transpose Permute Swapaxes Moveaxis Squeeze ExpandDims Roll Flip Flatten
        Ravel Rearrange BroadcastTo Repeat RepeatVector Tile""",
    "slice": "GetItem Split ArraySplit Slice Unstack Take TakeAlongAxis",
    "pad": "Pad ZeroPadding1D ZeroPadding2D Cropping1D Cropping2D",
    # Averages, selects or interpolates positions.
    "pool": """Mean AveragePool MaxPool AdaptiveAveragePool AveragePooling1D AveragePooling2D
        MaxPooling1D MaxPooling2D GlobalAveragePooling1D GlobalAveragePooling2D UpSampling2D
        Resize""",
    # Takes the shape of a tensor alone.
    "fill": "ZerosLike OnesLike FullLike",
    "softmax": "Softmax",
    # Multiplies one half of its units by the other.
    "gate": "Glu",
    "contract": "Matmul Einsum Dot",
    "compare": "Greater GreaterEqual Less LessEqual",
}
_KINDS: dict[str, set[str]] = {}
for _kind, _names in _TABLE.items():
    for _name in _names.split():
        _KINDS.setdefault(_name, set()).add(_kind)

POINTWISE = ("copy", "add", "scale", "normalize", "reduce", "activate")
# Activation functions that combine units.
_COMBINING = {
    keras.activations.softmax: "softmax",
    keras.activations.log_softmax: "log_softmax",
    keras.activations.glu: "gate",
}


def name_of(operation: Operation) -> str:
    """Return the name of an operation: its class or its backend function."""
    return operation.name if isinstance(operation, Foreign) else type(operation).__name__


def does(operation: Operation, *kinds: str) -> bool:
    """Return whether an operation is of one of these kinds."""
    if isinstance(operation, keras.layers.Activation):
        function = operation.activation
        kind = "copy" if function is keras.activations.linear else "activate"
        return _COMBINING.get(function, kind) in kinds
    return not _KINDS.get(name_of(operation), frozenset()).isdisjoint(kinds)


def is_projection(operation: Operation) -> bool:
    """Return whether a layer multiplies channels by a matrix, as a `Dense` or a 1x1 convolution."""
    if isinstance(operation, keras.layers.Dense):
        return True
    if isinstance(operation, CONVOLUTIONS):
        ones = all(size == 1 for size in (*operation.kernel_size, *operation.strides))
        return ones and operation.groups == 1
    return is_matrix_on_last_axis(getattr(operation, "equation", ""))


def channel_axis(operation: Operation, rank: int) -> int:
    """Return the channel axis of the input of a layer, for inputs of a rank."""
    first = getattr(operation, "data_format", "channels_last") == "channels_first"
    return 1 if first else rank - 1


def own_activation(layer: keras.Layer) -> Function | None:
    """Return the activation function of a layer, or `None` if it is linear."""
    return None if layer.activation is keras.activations.linear else layer.activation


def is_pointwise_function(function: Function | None) -> bool:
    """Return whether a function is a nonlinear activation that acts elementwise."""
    return function not in (None, keras.activations.linear, *_COMBINING)


def activates(operation: Operation) -> bool:
    """Return whether an operation is an activation, or a layer that ends with one."""
    if is_projection(operation) or is_depthwise(operation):
        return is_pointwise_function(own_activation(operation))
    return does(operation, "activate")


def strip_copies(value: Nested) -> Nested:
    """Return the value before operations that copy it (dropout, identity, cast)."""
    if not isinstance(value, Value):
        return value
    *_, first = walk_back(value, lambda call: call.inputs[: does(call.operation, "copy")])
    return first


def is_depthwise(operation: Operation) -> bool:
    """Return whether a layer is a convolution whose filters each see one channel."""
    if isinstance(operation, (*DEPTHWISE, *SEPARABLE)):
        return True
    if not isinstance(operation, CONVOLUTIONS) or not operation.built:
        return False
    return operation.groups > 1 and operation.kernel.shape[-2] == 1


def is_matrix_on_last_axis(equation: str) -> bool:
    """Return whether the second factor of an equation is a matrix (inputs, outputs)."""
    inputs, _, output = equation.replace(" ", "").partition("->")
    inputs, _, kernel = inputs.partition(",")
    return (
        len(kernel) == 2
        and inputs[-1:] == kernel[0]
        and output[-1:] == kernel[1]
        and inputs[:-1] == output[:-1]
    )


def einsum_axes(equation: str, ranks: list[int]) -> list[str] | None:
    """Return a letter for each axis of the factors and of the product, also of an ellipsis."""
    left, _, out = equation.replace(" ", "").partition("->")
    terms = [*left.split(","), out]
    if not out or len(terms) != len(ranks) + 1:
        return None
    # An ellipsis is the first axes of the longest term. Use letters that no equation has.
    counts = [rank - len(x) + 3 for x, rank in zip(terms, ranks, strict=False) if "..." in x]
    dots = "".join(chr(0x1000 + n) for n in range(max(counts, default=0)))
    own = [dots[len(dots) - rank + len(x) - 3 :] for x, rank in zip(terms, ranks, strict=False)]
    return [x.replace("...", more) for x, more in zip(terms, [*own, dots], strict=True)]
