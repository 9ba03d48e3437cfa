"""The computation of Mamba-2, all positions at once or one by one."""

from typing import Any

import keras
from keras import ops

from keras_mimetic._checks import check_flag, check_integer
from keras_mimetic.layers.selective_scan import chunk_scan, reshape, selective_state_update
from keras_mimetic.layers.sublayers import Composite, Shape, Tensor

State = tuple[Tensor, Tensor]

# As in the reference implementation.
_NORM_EPSILON = 1e-5


class Mamba2(Composite):
    """Layer that computes Mamba-2 with what `build` of a subclass creates.

    Attributes:
        _inner_dim: Channels of x, `num_heads * head_dim`.
        _conv_dim: Channels of x, B and C, which are convolved.
        in_projection: `Dense` to the gate (_inner_dim), x, B and C (_conv_dim) and dt (num_heads).
        out_projection: `Dense` from _inner_dim channels to the output.
        conv_kernel, conv_bias: Of shapes (conv_width, _conv_dim) and (_conv_dim,).
        a_log, dt_bias, skip: Of shape (num_heads,).
        norm_scale: Of shape (_inner_dim,).
    """

    # Attributes that `keras.layers.Bidirectional` reads, besides `go_backwards`.
    return_sequences, return_state, stateful = True, False, False

    def call(
        self,
        inputs: Tensor,
        initial_state: State | None = None,
        return_state: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, State]:
        check_flag("return_state", return_state)
        conv_state, ssm_state = self._state(initial_state, ops.shape(inputs)[0])
        if mask is None:
            # Keras passes the mask to `call` only if `inputs` is the sole tensor argument.
            mask = getattr(inputs, "_keras_mask", None)
        if mask is not None:
            mask = _check_mask(mask, inputs)
            # Before the weights, so that NaN in padding does not reach their gradients.
            inputs = ops.where(mask[..., None], inputs, ops.zeros_like(inputs))
        if self.go_backwards:
            inputs, mask = (None if z is None else ops.flip(z, axis=1) for z in (inputs, mask))
        gate, xbc, dt = self._project(inputs)
        if mask is not None:
            xbc = ops.where(mask[..., None], xbc, 0.0)
        xbc = ops.concatenate((conv_state, xbc), axis=1)
        if return_state:
            conv_state = _conv_state_after(xbc, self.conv_width, mask)
        xbc = _causal_conv(xbc, ops.cast(self.conv_kernel, xbc.dtype))
        x, b, c, dt = self._scan_inputs(xbc, dt)
        if mask is not None:
            dt = ops.where(mask[..., None], dt, 0.0)
        y, ssm_state = chunk_scan(x, dt, self._a(), b, c, ssm_state, self.chunk_size)
        outputs = self._outputs(y, x, gate)
        return (outputs, (conv_state, ssm_state)) if return_state else outputs

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute the next position, as `call` does after all positions before.

        Args:
            inputs: Of shape `(batch, width)`.
            state: The one returned by the last step or call, or `get_initial_state(batch)`.

        Returns:
            Outputs `(batch, width)`, and the state after this position.
        """
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' has no weights yet: call it, or `build` it, before `step`."
            )
        inputs = ops.cast(ops.convert_to_tensor(inputs), self.compute_dtype)
        width = self._inner_dim // self.expand
        if not _shapes_agree(tuple(inputs.shape), (None, width)):
            raise ValueError(
                f"`step` of layer '{self.name}' takes inputs of shape (batch, {width}). "
                f"Received: shape {tuple(inputs.shape)}"
            )
        conv_state, ssm_state = self._state(state, ops.shape(inputs)[0])
        gate, xbc, dt = self._project(inputs)
        seen = ops.concatenate((conv_state, xbc[:, None]), axis=1)
        kernel = ops.cast(self.conv_kernel, seen.dtype)
        x, b, c, dt = self._scan_inputs(ops.sum(kernel * seen, axis=1), dt)
        y, ssm_state = selective_state_update(x, dt, self._a(), b, c, ssm_state)
        return self._outputs(y, x, gate), (seen[:, 1:], ssm_state)

    def get_initial_state(self, batch_size: int | Tensor) -> State:
        """Return the state of a built layer before the first position, zeros.

        Returns:
            `conv_state`, the last inputs of the convolution, (batch, conv_width - 1,
            channels); and `ssm_state`, H, (batch, num_heads, head_dim, state_dim), in
            float32 or higher.

        Raises:
            TypeError: Unless `batch_size` is an integer or a scalar tensor.
            ValueError: If it is negative, or the layer is not built.
        """
        if isinstance(batch_size, (int, float, str, list, tuple, dict)):
            check_integer("batch_size", batch_size, minimum=0)
        conv_shape, ssm_shape = self._state_shapes(batch_size)
        conv_state = ops.zeros(conv_shape, dtype=self.compute_dtype)
        return conv_state, ops.zeros(ssm_shape, dtype=self._scan_dtype)

    def compute_output_spec(
        self,
        inputs: Tensor,
        initial_state: State | None = None,
        return_state: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, State]:
        outputs = keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)
        if not return_state:
            return outputs
        conv_shape, ssm_shape = self._state_shapes(inputs.shape[0])
        return outputs, (
            keras.KerasTensor(conv_shape, self.compute_dtype),
            keras.KerasTensor(ssm_shape, self._scan_dtype),
        )

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        if previous_mask is None or not self.go_backwards:
            return previous_mask
        return ops.flip(previous_mask, axis=1)

    @property
    def _scan_dtype(self) -> str:
        return "float64" if self.compute_dtype == "float64" else "float32"

    def _project(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gate; x, B and C before the convolution; and dt before its bias."""
        return _split(self.in_projection(inputs), self._inner_dim, self._inner_dim + self._conv_dim)

    def _scan_inputs(self, xbc: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x by heads, dt, and B and C by groups, for the recurrence."""
        xbc = ops.silu(xbc + ops.cast(self.conv_bias, xbc.dtype))
        xbc, dt = (ops.cast(z, self._scan_dtype) for z in (xbc, dt))
        bc_dim = self.num_groups * self.state_dim
        x, b, c = _split(xbc, self._inner_dim, self._inner_dim + bc_dim)
        leading = ops.shape(xbc)[:-1]
        x = reshape(x, (*leading, self.num_heads, self.head_dim))
        b, c = (reshape(z, (*leading, self.num_groups, self.state_dim)) for z in (b, c))
        return x, b, c, ops.softplus(dt + ops.cast(self.dt_bias, dt.dtype))

    def _a(self) -> Tensor:
        return -ops.exp(ops.cast(self.a_log, self._scan_dtype))

    def _outputs(self, y: Tensor, x: Tensor, gate: Tensor) -> Tensor:
        """Add the skip connection to y, gate, normalize and project."""
        y = y + x * ops.cast(self.skip, y.dtype)[:, None]
        leading = ops.shape(gate)[:-1]
        y = reshape(y, ops.shape(gate)) * ops.silu(ops.cast(gate, y.dtype))
        by_group = reshape(y, (*leading, self.num_groups, self._inner_dim // self.num_groups))
        # Not `ops.rms_normalization`, which cannot be exported to ONNX on torch.
        square = ops.mean(ops.square(by_group), axis=-1, keepdims=True)
        y = by_group * ops.rsqrt(square + _NORM_EPSILON)
        y = reshape(y, ops.shape(gate)) * ops.cast(self.norm_scale, y.dtype)
        return self.out_projection(ops.cast(y, self.compute_dtype))

    def _state_shapes(self, batch: int | Tensor | None) -> tuple[Shape, Shape]:
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' has no weights yet, and its state no shape: call it, or "
                "`build` it, first."
            )
        conv_shape = (batch, self.conv_width - 1, self._conv_dim)
        return conv_shape, (batch, self.num_heads, self.head_dim, self.state_dim)

    def _state(self, state: State | None, batch: int | Tensor) -> State:
        if state is None:
            return self.get_initial_state(batch)
        conv_state, ssm_state = _check_state(self.name, state, self._state_shapes(batch))
        return ops.cast(conv_state, self.compute_dtype), ops.cast(ssm_state, self._scan_dtype)


def _causal_conv(inputs: Tensor, kernel: Tensor) -> Tensor:
    """Convolve channels of (batch, taps - 1 + length, channels) with filters (taps, channels).

    The first inputs are those before the sequence, and the last tap is for the current position.
    Filters are short, so they are applied tap by tap: grouped convolutions are slower on CPUs,
    several times so on JAX.
    """
    taps = kernel.shape[0]

    # Count from the end: exporters know that number even where they do not know the length.
    def shifted(tap: int) -> Tensor:
        return inputs[:, tap : (tap - taps + 1) or None]

    outputs = kernel[0] * shifted(0)
    for tap in range(1, taps):
        # In place on torch, without a new array for each tap.
        outputs += kernel[tap] * shifted(tap)
    return outputs


def _conv_state_after(inputs: Tensor, taps: int, mask: Tensor | None) -> Tensor:
    """Return the last inputs of each sequence, (batch, taps - 1, channels), for its next position.

    A sequence ends at its last position where `mask`, (batch, length), is `True`.
    """
    if taps == 1:
        return inputs[:, :0]
    if mask is None:
        return inputs[:, 1 - taps :]
    positions = ops.arange(1, ops.shape(mask)[1] + 1)
    # A leading 0 instead of `initial=0`, which Keras's torch backend creates on the CPU.
    ends = ops.pad(ops.where(mask, positions, 0), [[0, 0], [1, 0]])
    lengths = ops.max(ends, axis=1)
    index = lengths[:, None] + ops.arange(taps - 1)
    return ops.take_along_axis(inputs, index[..., None], axis=1)


def _check_mask(mask: Tensor, inputs: Tensor) -> Tensor:
    """Return the mask of inputs (batch, length, channels) as booleans (batch, length)."""
    mask = ops.cast(ops.convert_to_tensor(mask), "bool")
    shape = tuple(mask.shape)
    if not _shapes_agree(shape, tuple(inputs.shape[:2])):
        raise ValueError(
            f"Argument `mask` must have the shape (batch, length), that of the inputs without "
            f"their channels. Received: a mask of shape {shape}, "
            f"inputs of shape {tuple(inputs.shape)}"
        )
    return mask


def _check_state(layer_name: str, state: Any, shapes: tuple[Shape, Shape]) -> State:
    """Return a state, after checking that it is two tensors of these shapes."""
    parts = state if isinstance(state, (tuple, list)) else ()
    if len(parts) != 2 or not all(hasattr(part, "shape") for part in parts):
        of = f" of {', '.join(type(part).__name__ for part in parts)}" if parts else ""
        raise ValueError(
            f"The state of layer '{layer_name}' must be a pair of tensors, as "
            f"`get_initial_state` returns. Received: {type(state).__name__}{of}"
        )
    for part, shape in zip(parts, shapes, strict=True):
        given = tuple(part.shape)
        if not _shapes_agree(given, shape):
            raise ValueError(
                f"The state of layer '{layer_name}' must have the shapes {shapes[0]} and "
                f"{shapes[1]}. Received: {given}"
            )
    return parts[0], parts[1]


def _shapes_agree(shape: Shape, other: Shape) -> bool:
    """Return whether two shapes are equal, as far as both are known."""
    return len(shape) == len(other) and all(
        # Check types first: TensorFlow cannot compare sizes that are unknown in a graph.
        not (isinstance(a, int) and isinstance(b, int)) or a == b
        for a, b in zip(shape, other, strict=True)
    )


def _split(values: Tensor, first: int, second: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split the last axis in three. Exporters refuse `ops.split`, which reads sizes of tensors."""
    return values[..., :first], values[..., first:second], values[..., second:]
