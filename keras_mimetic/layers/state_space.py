"""The `MimeticStateSpace` layer."""

from typing import Any

import keras
from keras import ops

from keras_mimetic._checks import check_choice, check_flag, check_integer, check_number
from keras_mimetic._numerics.random import check_seed
from keras_mimetic._numerics.state_space import A_LOG, CORRELATION, DT, MAX_A_LOG
from keras_mimetic.initializers.seeds import resolve_seed
from keras_mimetic.initializers.state_space import StateSpaceWeight
from keras_mimetic.layers.causal_conv import causal_conv, conv_state_after
from keras_mimetic.layers.recurrent_inputs import check_mask, check_state, shapes_agree
from keras_mimetic.layers.selective_scan import chunk_scan, reshape, selective_state_update
from keras_mimetic.layers.sublayers import Changes, check_float_policy

# As in the reference implementation.
_NORM_EPSILON = 1e-5
# The convolution is short by design, and computed tap by tap.
_MAX_CONV_WIDTH = 256


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticStateSpace(keras.layers.Layer):
    """The selective state space of Mamba-2, initialized as linear attention.

    Each head keeps a state H of fixed size, a matrix that every position t of the
    sequence updates and reads:

        H_t = exp(A dt_t) H_(t-1) + dt_t x_t B_t^T        A = -exp(a_log)
        y_t = H_t C_t + skip x_t

    x, B, C and dt are projections of the input: x, B and C after a causal depthwise
    convolution and SiLU, dt after a softplus. The output is a projection of y, gated and
    normalized. Time and memory grow linearly with the length; `step` generates one
    position after another at constant cost.

    Mamba-2 itself starts with a strong decay and small dt, so it forgets quickly. This
    layer starts with hardly any decay, dt = 1 and C correlated with B, and so remembers
    what it saw from the first training step. The published recipe also starts the
    convolution as the identity. Each of these is an argument; with `None` for all four,
    the layer starts as Mamba-2.

    Examples:

    >>> layer = MimeticStateSpace(state_dim=16, head_dim=32, seed=0)
    >>> layer(keras.ops.ones((2, 10, 64))).shape
    (2, 10, 64)

    >>> # Continue step by step:
    >>> outputs, state = layer(keras.ops.ones((2, 10, 64)), return_state=True)
    >>> for _ in range(5):
    ...     outputs, state = layer.step(keras.ops.ones((2, 64)), state)

    Args:
        state_dim: Channels of B and C, an integer >= 1.
        head_dim: Channels of x in each head. There are `expand * width / head_dim`
            heads for inputs of `width` channels, which must be a whole number.
        expand: Channels of x, of all heads together, divided by those of the input.
        num_groups: Groups of heads that share B and C (and the normalization); must
            divide the number of heads.
        conv_width: Positions that the convolution sees, an integer from 1 to 256.
        a_log: Initial logarithm of the decay rate of all heads, <= 80: with dt = 1 the
            state keeps exp(-exp(a_log)) of itself, 0.9997 for the default -8. This
            default and that of `dt` are from accounts of the paper's recipe. `None` is
            Mamba-2's own: decay rates uniform in (1, 16).
        dt: Initial dt of all heads, > 0. It does not depend on the token at first,
            because its columns of the projection start at zero. `None` is Mamba-2's own:
            logarithms uniform between those of 0.001 and 0.1, and columns like the others.
        correlation: Correlation of the weights of C with those of B, in [-1, 1]. The
            default is ours: accounts of the recipe say only that the product of both is
            near the identity and that they are not equal. It mattered little in our trials
            (`mimetic` and `decay` in `benchmarks/results/recall/table.md`). `None` is
            Mamba-2's own, 0.
        convolution: `"identity"`, or `None` for Mamba-2's own: weights and biases uniform
            between -1/sqrt(conv_width) and 1/sqrt(conv_width). Accounts of the recipe have
            the identity; in our trials it lowered recall (row `recipe`), because a layer
            then no longer sees a token together with the previous one.
        use_bias: Whether the two projections have biases, which start at zero.
        chunk_size: Positions that are computed together. It affects the speed, and
            results only by rounding.
        go_backwards: Whether to read the sequence from its end. As in
            `keras.layers.RNN`, outputs are in the order of reading: reversed.
            `keras.layers.Bidirectional` makes a forward and a backward layer of any
            `MimeticStateSpace`; with a seed, both start with equal weights.
        seed: An integer >= 0 for all weights; `None` takes one from Python's `random`,
            which `keras.utils.set_random_seed` seeds. A seed gives equal weights on every
            backend, `a_log` and `dt_bias` of Mamba-2 to rounding.
        **kwargs: `name`, `dtype` and so on, as for every Keras layer. With a lower
            precision the projections and the convolution compute in it, and the
            recurrence in float32.

    Its weights, with Mamba-2's names: `in_projection` (a `Dense` layer, in_proj: gate,
    x, B, C, dt), `conv_kernel` and `conv_bias` (conv1d), `a_log` (A_log), `dt_bias`,
    `skip` (D, starts at 1), `norm_scale` (norm) and `out_projection` (out_proj). `a_log`,
    `dt_bias`, `skip` and `norm_scale` are usually excluded from weight decay.

    Call arguments:
        inputs: Of shape `(batch, length, width)`, of any length, including 0.
        initial_state: A state to continue from, as returned by `get_initial_state(batch)`,
            a call or a step; zeros by default.
        return_state: Whether to return `(outputs, state)`.
        mask: Booleans `(batch, length)`. Masked positions neither update the state nor
            contribute to it, and are zeros to the convolution, so padding on either side
            leaves the other outputs unchanged. Outputs at masked positions are undefined.
            A returned state is that after the last unmasked position of each sequence.

    Output shape:
        `(batch, length, width)`.

    Raises:
        TypeError: For an argument of the wrong type.
        ValueError: For a value that is not allowed; when the layer is built, for an input
            that is not of rank 3, has an unknown width, or one that heads and groups do
            not divide; when it is called, for a state or mask of another shape.

    References:

    - Dao and Gu, 2024, "Transformers are SSMs" (arXiv:2405.21060): the layer.
    - Trockman et al., 2024, "Mimetic Initialization Helps State Space
      Models Learn to Recall" (arXiv:2410.11135): its initial weights.
    """

    # Attributes that `keras.layers.Bidirectional` reads, besides `go_backwards`.
    return_sequences, return_state, stateful = True, False, False

    # The projections inside are one structure, not layers of the model.
    _traced_as_one_call = True

    def __init__(
        self,
        state_dim: int = 128,
        head_dim: int = 64,
        expand: int = 2,
        num_groups: int = 1,
        conv_width: int = 4,
        a_log: float | None = A_LOG,
        dt: float | None = DT,
        correlation: float | None = CORRELATION,
        convolution: str | None = None,
        use_bias: bool = False,
        chunk_size: int = 64,
        go_backwards: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # A given state keeps its precision; `in_projection` casts the inputs.
        super().__init__(**{"autocast": False, **kwargs})
        self.state_dim = check_integer("state_dim", state_dim, minimum=1)
        self.head_dim = check_integer("head_dim", head_dim, minimum=1)
        self.expand = check_integer("expand", expand, minimum=1)
        self.num_groups = check_integer("num_groups", num_groups, minimum=1)
        self.conv_width = check_integer("conv_width", conv_width, minimum=1)
        if self.conv_width > _MAX_CONV_WIDTH:
            raise ValueError(
                f"Argument `conv_width` must be an integer from 1 to {_MAX_CONV_WIDTH}. "
                f"Received: conv_width={conv_width}"
            )
        self.initial_a_log = check_number("a_log", a_log, high=MAX_A_LOG, or_=(None,))
        self.initial_dt = check_number("dt", dt, above=0, or_=(None,))
        self.correlation = check_number("correlation", correlation, low=-1, high=1, or_=(None,))
        self.convolution = check_choice("convolution", convolution, ("identity", None))
        self.use_bias = check_flag("use_bias", use_bias)
        self.chunk_size = check_integer("chunk_size", chunk_size, minimum=1)
        self.go_backwards = check_flag("go_backwards", go_backwards)
        self.seed = None if seed is None else check_seed(seed)
        check_float_policy(self)
        self._root = resolve_seed(self.seed)
        self._changes = Changes(("in_projection", "out_projection"))
        self.in_projection: Any = None
        self.out_projection: Any = None
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        width = self._width(input_shape)
        inner = self.expand * width
        self.num_heads = inner // self.head_dim
        bc_dim = self.num_groups * self.state_dim
        self._sizes = (inner, inner + 2 * bc_dim, self.num_heads)
        # Gate; x, B and C, which are convolved; dt.
        self.in_projection = self._projection(
            "in_projection",
            (*input_shape[:-1], width),
            sum(self._sizes),
            num_heads=self.num_heads,
            bc_dim=bc_dim,
            correlation=self.correlation or 0.0,
            input_dependent_dt=self.initial_dt is None,
        )
        self.out_projection = self._projection("out_projection", (*input_shape[:-1], inner), width)
        identity = self.convolution == "identity"
        channels = self._sizes[1]
        self.conv_kernel = self._weight(
            "conv_kernel", (self.conv_width, channels), identity=identity
        )
        self.conv_bias = self._weight(
            "conv_bias", (channels,), taps=self.conv_width, identity=identity
        )
        self.a_log = self._weight("a_log", (self.num_heads,), a_log=self.initial_a_log)
        self.dt_bias = self._weight("dt_bias", (self.num_heads,), dt=self.initial_dt)
        self.skip = self._add("skip", (self.num_heads,), keras.initializers.Ones())
        self.norm_scale = self._add("norm_scale", (inner,), keras.initializers.Ones())
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: width})
        self.built = True

    def _projection(self, role: str, input_shape: Any, units: int, **settings: Any) -> Any:
        layer = keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=StateSpaceWeight(role, self._root, **settings),
            dtype=self._changes.policies.get(role, self.dtype_policy),
            name=role,
        )
        self._changes.build(role, layer, input_shape)
        return layer

    def _weight(self, role: str, shape: Any, **settings: Any) -> Any:
        return self._add(role, shape, StateSpaceWeight(role, self._root, **settings))

    def _add(self, name: str, shape: Any, initializer: Any) -> Any:
        # `conv_kernel_initializer` and so on, as in Keras's layers.
        setattr(self, f"{name}_initializer", initializer)
        # Cast at each use: logarithms and small dt lose too much in low precision.
        return self.add_weight(shape=shape, initializer=initializer, name=name, autocast=False)

    def call(
        self,
        inputs: Any,
        initial_state: Any = None,
        return_state: bool = False,
        mask: Any = None,
    ) -> Any:
        check_flag("return_state", return_state)
        conv_state, ssm_state = self._state(initial_state, ops.shape(inputs)[0])
        if mask is None:
            # Keras passes the mask to `call` only if `inputs` is the sole tensor argument.
            mask = getattr(inputs, "_keras_mask", None)
        if mask is not None:
            mask = check_mask(mask, inputs)
            # Before the weights, so that NaN in padding does not reach their gradients.
            inputs = ops.where(mask[..., None], inputs, ops.zeros_like(inputs))
        if self.go_backwards:
            inputs, mask = (None if z is None else ops.flip(z, axis=1) for z in (inputs, mask))
        gate, xbc, dt = self._project(inputs)
        if mask is not None:
            xbc = ops.where(mask[..., None], xbc, 0.0)
        xbc = ops.concatenate((conv_state, xbc), axis=1)
        if return_state:
            conv_state = conv_state_after(xbc, self.conv_width, mask)
        xbc = causal_conv(xbc, ops.cast(self.conv_kernel, xbc.dtype))
        x, b, c, dt = self._split(xbc, dt)
        if mask is not None:
            dt = ops.where(mask[..., None], dt, 0.0)
        y, ssm_state = chunk_scan(x, dt, self._a(), b, c, ssm_state, self.chunk_size)
        outputs = self._finish(y, x, gate)
        return (outputs, (conv_state, ssm_state)) if return_state else outputs

    def step(self, inputs: Any, state: Any) -> tuple[Any, Any]:
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
        if not shapes_agree(tuple(inputs.shape), (None, self._sizes[0] // self.expand)):
            raise ValueError(
                f"`step` of layer '{self.name}' takes inputs of shape (batch, "
                f"{self._sizes[0] // self.expand}). Received: shape {tuple(inputs.shape)}"
            )
        conv_state, ssm_state = self._state(state, ops.shape(inputs)[0])
        gate, xbc, dt = self._project(inputs)
        seen = ops.concatenate((conv_state, xbc[:, None]), axis=1)
        kernel = ops.cast(self.conv_kernel, seen.dtype)
        x, b, c, dt = self._split(ops.sum(kernel * seen, axis=1), dt)
        y, ssm_state = selective_state_update(x, dt, self._a(), b, c, ssm_state)
        return self._finish(y, x, gate), (seen[:, 1:], ssm_state)

    def get_initial_state(self, batch_size: Any) -> tuple[Any, Any]:
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
        shapes = self._state_shapes(batch_size)
        dtypes = (self.compute_dtype, self._scan_dtype)
        return tuple(
            ops.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        self._width(input_shape)
        return tuple(input_shape)

    def compute_output_spec(
        self,
        inputs: Any,
        initial_state: Any = None,
        return_state: bool = False,
        mask: Any = None,
    ) -> Any:
        outputs = keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)
        if not return_state:
            return outputs
        conv_state, ssm_state = self._state_shapes(inputs.shape[0])
        return outputs, (
            keras.KerasTensor(conv_state, self.compute_dtype),
            keras.KerasTensor(ssm_state, self._scan_dtype),
        )

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        if previous_mask is None or not self.go_backwards:
            return previous_mask
        return ops.flip(previous_mask, axis=1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "state_dim": self.state_dim,
            "head_dim": self.head_dim,
            "expand": self.expand,
            "num_groups": self.num_groups,
            "conv_width": self.conv_width,
            "a_log": self.initial_a_log,
            "dt": self.initial_dt,
            "correlation": self.correlation,
            "convolution": self.convolution,
            "use_bias": self.use_bias,
            "chunk_size": self.chunk_size,
            "go_backwards": self.go_backwards,
            "seed": self.seed,
            **self._changes.config(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MimeticStateSpace":
        config, changes = Changes.split(config)
        layer = super().from_config(config)
        layer._changes.update(changes)
        return layer

    @property
    def _scan_dtype(self) -> str:
        return "float64" if self.compute_dtype == "float64" else "float32"

    def _project(self, inputs: Any) -> Any:
        inner, channels, _ = self._sizes
        return _split(self.in_projection(inputs), inner, inner + channels)

    def _split(self, xbc: Any, dt: Any) -> tuple[Any, Any, Any, Any]:
        """Return x by heads, B and C by groups, and dt, for the recurrence."""
        xbc = ops.silu(xbc + ops.cast(self.conv_bias, xbc.dtype))
        xbc, dt = (ops.cast(z, self._scan_dtype) for z in (xbc, dt))
        inner, bc_dim = self._sizes[0], self.num_groups * self.state_dim
        x, b, c = _split(xbc, inner, inner + bc_dim)
        leading = ops.shape(xbc)[:-1]
        x = reshape(x, (*leading, self.num_heads, self.head_dim))
        b, c = (reshape(z, (*leading, self.num_groups, self.state_dim)) for z in (b, c))
        return x, b, c, ops.softplus(dt + ops.cast(self.dt_bias, dt.dtype))

    def _a(self) -> Any:
        return -ops.exp(ops.cast(self.a_log, self._scan_dtype))

    def _finish(self, y: Any, x: Any, gate: Any) -> Any:
        y = y + x * ops.cast(self.skip, y.dtype)[:, None]
        leading, inner = ops.shape(gate)[:-1], self._sizes[0]
        y = reshape(y, (*leading, inner)) * ops.silu(ops.cast(gate, y.dtype))
        by_group = reshape(y, (*leading, self.num_groups, inner // self.num_groups))
        # Not `ops.rms_normalization`, which cannot be exported to ONNX on torch.
        square = ops.mean(ops.square(by_group), axis=-1, keepdims=True)
        y = by_group * ops.rsqrt(square + _NORM_EPSILON)
        y = reshape(y, (*leading, inner)) * ops.cast(self.norm_scale, y.dtype)
        return self.out_projection(ops.cast(y, self.compute_dtype))

    def _state_shapes(self, batch: Any) -> tuple[Any, Any]:
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' has no weights yet, and its state no shape: call it, or "
                "`build` it, first."
            )
        conv_state = (batch, self.conv_width - 1, self._sizes[1])
        return conv_state, (batch, self.num_heads, self.head_dim, self.state_dim)

    def _state(self, state: Any, batch: Any) -> tuple[Any, Any]:
        if state is None:
            return self.get_initial_state(batch)
        conv_state, ssm_state = check_state(self.name, state, self._state_shapes(batch))
        return ops.cast(conv_state, self.compute_dtype), ops.cast(ssm_state, self._scan_dtype)

    def _width(self, input_shape: Any) -> int:
        shape = tuple(input_shape)
        if len(shape) != 3 or shape[-1] is None:
            raise ValueError(
                f"Layer '{self.name}' takes inputs of shape (batch, length, channels) with a "
                f"known number of channels. Received: input_shape={shape}"
            )
        inner = self.expand * shape[-1]
        if inner % self.head_dim:
            raise ValueError(
                "Argument `head_dim` must divide `expand` times the channels of the input. "
                f"Received: head_dim={self.head_dim}, expand={self.expand}, input_shape={shape}"
            )
        if (inner // self.head_dim) % self.num_groups:
            raise ValueError(
                "Argument `num_groups` must divide the number of heads. Received: "
                f"num_groups={self.num_groups}, with {inner // self.head_dim} heads"
            )
        return shape[-1]


def _split(values: Any, first: int, second: int) -> tuple[Any, Any, Any]:
    """Split the last axis in three. Exporters refuse `ops.split`, which reads sizes of tensors."""
    return values[..., :first], values[..., first:second], values[..., second:]
