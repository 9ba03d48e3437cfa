"""The `MimeticMLPBlock` layer."""

from typing import Any, Literal

import keras

from keras_mimetic._checks import AUTO, check_choice, check_flag, check_integer, check_number
from keras_mimetic._numerics.fans import scaled_std
from keras_mimetic._numerics.mlp import HIDDEN_BIAS, MEAN_AFTER_LAYER_NORM, bias_start, safe_mean
from keras_mimetic._numerics.random import check_seed, split_seed
from keras_mimetic.initializers.mean import MimeticMean
from keras_mimetic.initializers.seeds import resolve_seed
from keras_mimetic.initializers.with_seed import keras_seed, with_seed
from keras_mimetic.layers.arguments import constant_of, get, serialize_initializer
from keras_mimetic.layers.sublayers import Composite, Shape, Tensor, check_float_policy

# As in Vision Transformers. Keras's default, 1e-3, is large for them.
_NORM_EPSILON = 1e-6
# Random parts of a block, each with its own seed.
_STREAMS = ("fc1_kernel", "fc2_kernel", "dropout1", "dropout2", "fc1_bias", "fc2_bias")


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticMLPBlock(Composite):
    """The MLP of Transformers and ConvNeXts with mimetic initial weights.

    Computes `fc2(activation(fc1(x)))` on the last axis of `x`, and with `norm` and `residual`:

        x + fc2(activation(fc1(norm(x))))

    The kernel of `fc1` has a nonzero mean. After a LayerNormalization, the bias of `fc1` starts
    below zero. The sublayers are plain Keras layers with the public names `norm`, `fc1` and `fc2`.

    Examples:

    >>> block = MimeticMLPBlock(256, norm="layer_norm", residual=True, seed=0)
    >>> block(keras.ops.ones((2, 10, 64))).shape
    (2, 10, 64)

    Args:
        hidden_dim: Number of hidden units, an integer >= 1.
        output_dim: Number of output channels; `None` is that of the input.
        activation: Name of an activation, or a callable that keeps the number of units; `None`
            is linear.
        mean: Mean of `fc1`'s kernel in units of its standard deviation (see `MimeticMean`).
            `"auto"` is -1 after a LayerNormalization (see `norm`) and `-0.5 / sqrt(fan_in)`
            elsewhere.
        hidden_bias: Initial bias of `fc1`, in standard deviations of the pre-activation for inputs
            of unit variance. The bias is `hidden_bias * s * sqrt(fan_in)`, where `s` is the
            standard deviation of `fc1`'s kernel, times `sqrt(1 + mean**2)` without a
            LayerNormalization. `"auto"` is -0.5 after a LayerNormalization, where trained networks
            have negative hidden biases, too (`bias-0.5` in
            `benchmarks/results/defaults/over-spatial.md`), and 0 elsewhere: on raw inputs, -0.5
            costs 0.5 to 1.9 points of accuracy (`shift-0.5_bias-0.5` in
            `benchmarks/results/plain-mlp/table.md`). In token mixing, -0.5 gains 1.0 [0.4, 1.6]
            points (`shift-0.5_bias-0.5` in `benchmarks/results/safe-mean/table.md`). `"auto"` is
            also 0 if `use_bias=False` or `bias_initializer` is not zeros. The hidden bias is our
            addition. With `mean=0, hidden_bias=0`, weights are those of Keras's layers.
        norm: Normalization of the input over the channels: `"layer_norm"` for a
            `LayerNormalization` (epsilon 1e-6) inside the block, `"before"` for one directly before
            the block, which the block cannot see, or `None`.
        residual: Whether to add the input to the output.
        dropout: Fraction of the units dropped after the activation and after `fc2`, in [0, 1).
        use_bias: Whether `fc1` and `fc2` have biases.
        fc2_initializer: For the kernel of `fc2`: a name, an initializer or a callable. One
            without a seed of its own samples from `seed`.
        bias_initializer: For both biases, likewise. Must be `"zeros"` if `hidden_bias` is a
            nonzero number.
        kernel_regularizer: For both kernels.
        bias_regularizer: For both biases.
        kernel_constraint: For both kernels.
        seed: An integer >= 0 for all weights and the dropout. `None` takes a seed from Python's
            `random`, which `keras.utils.set_random_seed` controls. Weights are equal on every
            backend, bit for bit, unless they come from one of Keras's other initializers, such as
            `"orthogonal"`. Dropout masks differ between backends.
        **kwargs: `name`, `dtype` and so on, as for every Keras layer. The dtype policy must not be
            a quantized one; `Model.quantize` quantizes the sublayers of a built block.

    Input shape:
        `(batch, ..., channels)`, of rank 2 or higher, with known channels.

    Output shape:
        `(batch, ..., output_dim)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed; when built, if the input has rank below 2 or an
            unknown number of channels, or if `residual` requires equal numbers of input and
            output channels.

    Reference:

    - Trockman and Kolter, 2026, "Mimetic Initialization of MLPs" (arXiv:2602.07156).
    """

    _sublayers = ("fc1", "fc2")

    def __init__(
        self,
        hidden_dim: int,
        output_dim: int | None = None,
        activation: Any = "gelu",
        mean: float | Literal["auto"] = AUTO,
        hidden_bias: float | Literal["auto"] = AUTO,
        norm: Literal["layer_norm", "before"] | None = None,
        residual: bool = False,
        dropout: float = 0.0,
        use_bias: bool = True,
        fc2_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = check_integer("hidden_dim", hidden_dim, minimum=1)
        self.output_dim = (
            None if output_dim is None else check_integer("output_dim", output_dim, minimum=1)
        )
        self.activation = get("activation", activation)
        self.mean = check_number("mean", mean, or_=(AUTO,))
        self.hidden_bias = check_number("hidden_bias", hidden_bias, or_=(AUTO,))
        self._norm_name = check_choice("norm", norm, (None, "layer_norm", "before"))
        self.residual = check_flag("residual", residual)
        self.dropout = check_number("dropout", dropout, low=0, below=1)
        self.use_bias = check_flag("use_bias", use_bias)
        self.fc2_initializer = fc2_initializer
        self.bias_initializer = bias_initializer
        self.kernel_regularizer = get("kernel_regularizer", kernel_regularizer)
        self.bias_regularizer = get("bias_regularizer", bias_regularizer)
        self.kernel_constraint = get("kernel_constraint", kernel_constraint)
        self.seed = None if seed is None else check_seed(seed)
        check_float_policy(self)

        seeds = self._seeds = split_seed(resolve_seed(self.seed), _STREAMS)
        self._fc2_initializer = with_seed("fc2_initializer", fc2_initializer, seeds["fc2_kernel"])
        self._fc1_bias_initializer, self._fc2_bias_initializer = (
            with_seed("bias_initializer", bias_initializer, seeds[name])
            for name in ("fc1_bias", "fc2_bias")
        )
        self._check_hidden_bias()
        self.norm: Any = None
        self.fc1: Any = None
        self.fc2: Any = None
        self.supports_masking = True

    def _check_hidden_bias(self) -> None:
        if self.hidden_bias in (0, AUTO):
            return
        if not self.use_bias:
            raise ValueError(
                "Argument `hidden_bias` must be 0 if `use_bias` is False, since there is no "
                f"bias. Received: hidden_bias={self.hidden_bias}"
            )
        if constant_of(self._fc1_bias_initializer) != 0:
            raise ValueError(
                "Argument `bias_initializer` must be 'zeros' if `hidden_bias` is not 0, since "
                "both set the initial bias of fc1. "
                f"Received: hidden_bias={self.hidden_bias}, "
                f"bias_initializer={self.bias_initializer!r}"
            )

    def build(self, input_shape: Shape) -> None:
        input_dim, output_dim = self._dims(input_shape)
        shared = {
            "use_bias": self.use_bias,
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
            "kernel_constraint": self.kernel_constraint,
        }
        if self._norm_name == "layer_norm":
            self.norm = keras.layers.LayerNormalization(
                epsilon=_NORM_EPSILON, dtype=self.dtype_policy, name="norm"
            )
            self.norm.build(input_shape)
        kernel_initializer, bias_initializer = self._fc1_initializers(input_dim)
        self.fc1 = self._dense(
            "fc1",
            self.hidden_dim,
            input_shape,
            activation=self.activation,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            **shared,
        )
        self.fc2 = self._dense(
            "fc2",
            output_dim,
            (*input_shape[:-1], self.hidden_dim),
            kernel_initializer=self._fc2_initializer,
            bias_initializer=self._fc2_bias_initializer,
            **shared,
        )
        if self.dropout:
            self._dropout1, self._dropout2 = (
                keras.layers.Dropout(
                    self.dropout,
                    seed=keras_seed(self._seeds[name]),
                    dtype=self.dtype_policy,
                    name=name,
                )
                for name in ("dropout1", "dropout2")
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_dim})
        self.built = True

    def _fc1_initializers(
        self, input_dim: int
    ) -> tuple[MimeticMean, keras.initializers.Initializer]:
        """Return the initializers of the kernel and the bias of fc1."""
        is_normalized = self._norm_name is not None
        mean, hidden_bias = self.mean, self.hidden_bias
        if isinstance(mean, str):
            mean = MEAN_AFTER_LAYER_NORM if is_normalized else safe_mean(input_dim)
        if isinstance(hidden_bias, str):
            is_free = self.use_bias and constant_of(self._fc1_bias_initializer) == 0
            hidden_bias = HIDDEN_BIAS if is_free and is_normalized else 0.0
        kernel = MimeticMean(mean, seed=self._seeds["fc1_kernel"])
        if not hidden_bias:
            return kernel, self._fc1_bias_initializer
        std = scaled_std(input_dim, self.hidden_dim, scale=1.0, mode="fan_avg")
        # After a LayerNorm, the mean has no effect on the pre-activation.
        start = bias_start(hidden_bias, std, input_dim, 0.0 if is_normalized else mean)
        return kernel, keras.initializers.Constant(start)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        x = inputs if self.norm is None else _layer_normalization(self.norm, inputs)
        x = self.fc1(x)
        if self.dropout:
            x = self._dropout1(x, training=training)
        x = self.fc2(x)
        if self.dropout:
            x = self._dropout2(x, training=training)
        if self.residual:
            x = keras.ops.add(inputs, x)
        return x

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        _, output_dim = self._dims(input_shape)
        return (*input_shape[:-1], output_dim)

    def get_config(self) -> dict[str, Any]:
        numbers = ("hidden_dim", "output_dim", "mean", "hidden_bias", "dropout", "seed")
        flags = ("residual", "use_bias")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in (*numbers, *flags)},
            "activation": keras.activations.serialize(self.activation),
            "norm": self._norm_name,
            "fc2_initializer": serialize_initializer(self.fc2_initializer),
            "bias_initializer": serialize_initializer(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }

    def _dims(self, input_shape: Shape) -> tuple[int, int]:
        """Return the widths of input and output, or raise for an unsuitable shape."""
        shape = tuple(input_shape)
        if len(shape) < 2:
            raise ValueError(
                f"Layer '{self.name}' takes inputs of shape (batch, ..., channels), "
                f"of rank 2 or higher. Received: input_shape={shape}"
            )
        input_dim = shape[-1]
        if input_dim is None:
            raise ValueError(
                f"Layer '{self.name}' takes inputs with a known number of channels (last axis). "
                f"Received: input_shape={shape}"
            )
        output_dim = input_dim if self.output_dim is None else self.output_dim
        if self.residual and output_dim != input_dim:
            raise ValueError(
                "Argument `output_dim` must be None or the width of the input if `residual` "
                f"is True. Received: output_dim={output_dim}, input_shape={shape}"
            )
        return input_dim, output_dim


def _layer_normalization(norm: keras.layers.LayerNormalization, x: Tensor) -> Tensor:
    """Call a LayerNormalization; in an ONNX export on torch, by operations that ONNX has."""
    if keras.backend.backend() != "torch":
        return norm(x)
    import torch

    if not torch.onnx.is_in_onnx_export():
        return norm(x)
    dtype = x.dtype
    x = keras.ops.cast(x, keras.backend.result_type(dtype, "float32"))
    x = x - keras.ops.mean(x, axis=-1, keepdims=True)
    square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
    gamma, beta = (keras.ops.cast(w, x.dtype) for w in (norm.gamma, norm.beta))
    return keras.ops.cast(x * keras.ops.rsqrt(square + norm.epsilon) * gamma + beta, dtype)
