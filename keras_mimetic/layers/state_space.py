"""The `MimeticStateSpace` layer."""

from typing import Any

import keras
from keras import ops

from keras_mimetic._checks import check_choice, check_flag, check_integer
from keras_mimetic._numerics.random import check_seed
from keras_mimetic._numerics.state_space import A_LOG, CORRELATION, STEP
from keras_mimetic.initializers.seeds import resolve_seed
from keras_mimetic.initializers.state_space import (
    StateSpaceWeight,
    check_a_log,
    check_correlation,
    check_strength,
)
from keras_mimetic.layers.selective_scan import reshape, scan_in_chunks, scan_one
from keras_mimetic.layers.sublayers import Changes, check_float_policy

# Of the reference implementation.
_NORM_EPSILON = 1e-5
# The convolution is short by design, and computed as an operation for each of its places.
_MAX_CONV_WIDTH = 256


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticStateSpace(keras.layers.Layer):
    """The selective state space of Mamba-2; it starts as linear attention.

    Each head keeps a matrix H of what it has seen, of fixed size, which every place
    t of the sequence moves and reads:

        H_t = a_t H_(t-1) + step_t x_t b_t^T        a_t = exp(-exp(a_log) step_t)
        y_t = H_t c_t + skip x_t

    x, b, c and step are projections of the input (x, b and c behind a causal
    depthwise convolution and SiLU, the step a softplus). Out of the layer comes a
    projection of y, gated and normalized. Time and memory grow linearly with the
    length; `step` makes place after place, at a cost that does not grow.

    Mamba-2 itself starts with a strong decay and small steps, and forgets soon. This
    layer starts with hardly any decay, steps of 1 and c like b, and so remembers what
    it saw from the first step of training. The recipe has a convolution that hands on
    the present besides. Each of these is an argument; with `None` for all four the
    layer starts as Mamba-2.

    Examples:

    >>> layer = MimeticStateSpace(state_dim=16, head_dim=32, seed=0)
    >>> layer(keras.ops.ones((2, 10, 64))).shape
    (2, 10, 64)

    >>> # What comes after, place by place:
    >>> outputs, state = layer(keras.ops.ones((2, 10, 64)), return_state=True)
    >>> for _ in range(5):
    ...     outputs, state = layer.step(keras.ops.ones((2, 64)), state)

    Args:
        state_dim: Channels of b and c, an integer >= 1.
        head_dim: Channels of x in each head. There are `expand * width / head_dim`
            heads, which must be a whole number, for inputs of `width` channels.
        expand: Channels of x, of all heads together, over those of the input.
        num_groups: Groups of heads that share b and c (and the normalization);
            a divisor of the number of heads.
        conv_width: Places that the convolution sees, an integer from 1 to 256.
        a_log: Logarithm of the decay for a step of 1, absolute, <= 80, the same in all heads:
            of the state exp(-exp(a_log)) is left. The default -8 keeps 0.9997. It and
            the default of `step` are those that accounts of the paper's recipe give. `None`
            is Mamba-2's own: decays uniform in (1, 16).
        step: Where all steps start, absolute, > 0; they do not depend on the
            token then, since their columns of the projection are zero. `None` is
            Mamba-2's own: logarithms uniform between those of 0.001 and 0.1, and
            columns like the others.
        correlation: Of the weights of c with those of b, in [-1, 1], without a
            unit. The default is ours: accounts say only that their product is near the
            identity and that they are not equal. It decided little in our trials
            (`mimetic` beside `decay` in `benchmarks/README.md`). `None` is Mamba-2's
            own, 0.
        convolution: `"identity"`, or `None` for Mamba-2's own: weights and
            biases uniform between -1/sqrt(conv_width) and that. Accounts of the recipe
            have the identity; in our trials it did harm (row `recipe`), since a
            layer no longer sees a token with the one before it.
        use_bias: Whether the two projections have biases, which start at zero.
        chunk_size: Places that are computed together. It changes the speed alone,
            and results by rounding.
        go_backwards: Whether to read the sequence from its end. As in
            `keras.layers.RNN`, outputs come in the order of reading then: reversed.
            `keras.layers.Bidirectional` makes one such layer and one forward of any
            `MimeticStateSpace` (with a seed given, both start with equal weights).
        seed: An integer >= 0 for all weights; `None` takes one from Python's
            `random`, which `keras.utils.set_random_seed` sets. Equal weights on every
            backend (those of Mamba-2's decays and steps to rounding).
        **kwargs: `name`, `dtype` and so on, as for every Keras layer. With a lower
            precision the projections and the convolution compute in it, and the
            recurrence in float32.

    Its weights, with Mamba-2's names: `in_projection` (a `Dense` layer, in_proj: gate,
    x, b, c, steps), `conv_kernel` and `conv_bias` (conv1d), `a_log` (A_log),
    `step_bias` (dt_bias), `skip` (D, starts at 1), `norm_scale` (norm) and
    `out_projection` (out_proj). Weight decay is usually not for `a_log`,
    `step_bias`, `skip` and `norm_scale`.

    Call arguments:
        inputs: Of shape `(batch, length, width)`, of any length, 0 included.
        initial_state: A state to go on from (as `get_initial_state(batch)`,
            or what a call or a step returned); by default nothing was seen.
        return_state: Whether to return `(outputs, state)`.
        mask: Booleans `(batch, length)`. Where they are False, the place
            neither moves nor is in the state, and gives the convolution zeros. So
            padding, on either side, changes nothing in the other outputs;
            its own mean nothing. A returned state is that after the last place of each
            sequence that is True, so that one goes on from it whichever side was padded.

    Output shape:
        `(batch, length, width)`.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value that is not allowed; when the layer is built, for an
            input that is not of rank 3, has an unknown width, or one that heads
            and groups do not divide; when it is called, for a state or a mask of another shape.

    References:

    - Dao and Gu, 2024, "Transformers are SSMs" (arXiv:2405.21060): the layer.
    - Trockman et al., 2024, "Mimetic Initialization Helps State Space
      Models Learn to Recall" (arXiv:2410.11135): where it starts.
    """

    # What `keras.layers.Bidirectional` asks of a layer, besides `go_backwards`.
    return_sequences, return_state, stateful = True, False, False

    def __init__(
        self,
        state_dim: int = 128,
        head_dim: int = 64,
        expand: int = 2,
        num_groups: int = 1,
        conv_width: int = 4,
        a_log: float | None = A_LOG,
        step: float | None = STEP,
        correlation: float | None = CORRELATION,
        convolution: str | None = None,
        use_bias: bool = False,
        chunk_size: int = 64,
        go_backwards: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # States that are handed in keep their precision; `in_projection` casts the inputs.
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
        self.initial_a_log = check_a_log("a_log", a_log)
        self.initial_step = check_strength("step", step, positive=True)
        self.correlation = check_correlation("correlation", correlation)
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
        shared = self.num_groups * self.state_dim
        self._sizes = (inner, inner + 2 * shared, self.num_heads)
        # Gate; x, b, c, which are convolved; steps.
        self.in_projection = self._projection(
            "in_projection",
            (*input_shape[:-1], width),
            sum(self._sizes),
            num_heads=self.num_heads,
            shared=shared,
            correlation=self.correlation or 0.0,
            has_steps=self.initial_step is None,
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
        self.step_bias = self._weight("step_bias", (self.num_heads,), step=self.initial_step)
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
        layer.build(input_shape)
        self._changes.restore_lora(role, layer)
        return layer

    def _weight(self, role: str, shape: Any, **settings: Any) -> Any:
        return self._add(role, shape, StateSpaceWeight(role, self._root, **settings))

    def _add(self, name: str, shape: Any, initializer: Any) -> Any:
        # Kept, as Keras's layers keep theirs: `conv_kernel_initializer` and so on.
        setattr(self, f"{name}_initializer", initializer)
        # Cast where they are used: logarithms and small steps lose much in low precision.
        return self.add_weight(shape=shape, initializer=initializer, name=name, autocast=False)

    def call(
        self,
        inputs: Any,
        initial_state: Any = None,
        return_state: bool = False,
        mask: Any = None,
    ) -> Any:
        check_flag("return_state", return_state)
        window, memory = self._state(initial_state, ops.shape(inputs)[0])
        if mask is None:
            # Keras hands it to `call` only where the inputs are the one tensor there.
            mask = getattr(inputs, "_keras_mask", None)
        if mask is not None:
            mask = self._check_mask(mask, inputs)
            # Before the weights, so that padding of NaN does not reach their gradients.
            inputs = ops.where(mask, inputs, ops.zeros_like(inputs))
        if self.go_backwards:
            inputs, mask = (None if z is None else ops.flip(z, axis=1) for z in (inputs, mask))
        gate, convolved, steps = self._project(inputs)
        if mask is not None:
            convolved = ops.where(mask, convolved, 0.0)
        seen = ops.concatenate((window, convolved), axis=1)
        # Counted from the end: exporters know that number where they do not know the length.
        before = self.conv_width - 1
        if not before:
            window = seen[:, :0]
        elif return_state and mask is not None:
            window = self._last_seen(seen, mask)
        else:
            window = seen[:, -before:]
        kernel = ops.cast(self.conv_kernel, seen.dtype)
        convolved = kernel[0] * seen[:, : -before or None]
        for tap in range(1, self.conv_width):
            convolved += kernel[tap] * seen[:, tap : (tap - before) or None]
        x, b, c, steps = self._parts(convolved, steps)
        if mask is not None:
            steps = ops.where(mask, steps, 0.0)
        y, memory = scan_in_chunks(x, steps, self._decay(), b, c, memory, self.chunk_size)
        outputs = self._finish(y, x, gate)
        return (outputs, (window, memory)) if return_state else outputs

    def _last_seen(self, seen: Any, mask: Any) -> Any:
        """What the convolution keeps of each sequence: up to the last place that is not masked."""
        places = ops.arange(1, ops.shape(mask)[1] + 1)
        last = ops.max(ops.where(mask[..., 0], places, 0), axis=1, initial=0)
        index = last[:, None] + ops.arange(self.conv_width - 1)
        return ops.take_along_axis(seen, index[..., None], axis=1)

    def step(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        """The next place: what `call` gives for it after all places before.

        Args:
            inputs: Of shape `(batch, width)`.
            state: What the last step or call returned, or `get_initial_state(batch)`.

        Returns:
            Outputs `(batch, width)`, and the state after this place.
        """
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' has no weights yet: call it, or `build` it, before `step`."
            )
        inputs = ops.cast(ops.convert_to_tensor(inputs), self.compute_dtype)
        if not _may_be(tuple(inputs.shape), (None, self._sizes[0] // self.expand)):
            raise ValueError(
                f"`step` of layer '{self.name}' takes inputs of shape (batch, "
                f"{self._sizes[0] // self.expand}). Received: shape {tuple(inputs.shape)}"
            )
        window, memory = self._state(state, ops.shape(inputs)[0])
        gate, convolved, steps = self._project(inputs)
        seen = ops.concatenate((window, convolved[:, None]), axis=1)
        kernel = ops.cast(self.conv_kernel, seen.dtype)
        x, b, c, steps = self._parts(ops.sum(kernel * seen, axis=1), steps)
        y, memory = scan_one(x, steps, self._decay(), b, c, memory)
        return self._finish(y, x, gate), (seen[:, 1:], memory)

    def get_initial_state(self, batch_size: Any) -> tuple[Any, Any]:
        """The state before anything was seen, zeros, of a built layer.

        Returns:
            The last inputs of the convolution, (batch, conv_width - 1, channels), and H,
            (batch, num_heads, head_dim, state_dim), in float32 or higher.

        Raises:
            TypeError: unless `batch_size` is an integer, or a scalar tensor.
            ValueError: for a negative one, or before the layer is built.
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
        window, memory = self._state_shapes(inputs.shape[0])
        return outputs, (
            keras.KerasTensor(window, self.compute_dtype),
            keras.KerasTensor(memory, self._scan_dtype),
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
            "step": self.initial_step,
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
        return _parted(self.in_projection(inputs), inner, inner + channels)

    def _parts(self, convolved: Any, steps: Any) -> tuple[Any, Any, Any, Any]:
        """x, b and c by heads and groups, and the steps, for the recurrence."""
        convolved = ops.silu(convolved + ops.cast(self.conv_bias, convolved.dtype))
        convolved, steps = (ops.cast(z, self._scan_dtype) for z in (convolved, steps))
        inner, shared = self._sizes[0], self.num_groups * self.state_dim
        x, b, c = _parted(convolved, inner, inner + shared)
        leading = ops.shape(convolved)[:-1]
        x = reshape(x, (*leading, self.num_heads, self.head_dim))
        b, c = (reshape(z, (*leading, self.num_groups, self.state_dim)) for z in (b, c))
        return x, b, c, ops.softplus(steps + ops.cast(self.step_bias, steps.dtype))

    def _decay(self) -> Any:
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
        window = (batch, self.conv_width - 1, self._sizes[1])
        return window, (batch, self.num_heads, self.head_dim, self.state_dim)

    def _state(self, state: Any, batch: Any) -> tuple[Any, Any]:
        if state is None:
            return self.get_initial_state(batch)
        shapes = self._state_shapes(batch)
        parts = state if isinstance(state, (tuple, list)) else ()
        if len(parts) != 2 or not all(hasattr(part, "shape") for part in parts):
            of = f" of {', '.join(type(part).__name__ for part in parts)}" if parts else ""
            raise ValueError(
                f"The state of layer '{self.name}' must be a pair of tensors, as "
                f"`get_initial_state` returns. Received: {type(state).__name__}{of}"
            )
        for part, shape in zip(state, shapes, strict=True):
            given = tuple(part.shape)
            if not _may_be(given, shape):
                raise ValueError(
                    f"The state of layer '{self.name}' must have the shapes {shapes[0]} and "
                    f"{shapes[1]}. Received: {given}"
                )
        window, memory = state
        return ops.cast(window, self.compute_dtype), ops.cast(memory, self._scan_dtype)

    def _check_mask(self, mask: Any, inputs: Any) -> Any:
        """The mask, to be multiplied with what has a last axis."""
        mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        shape = tuple(mask.shape)
        if not _may_be(shape, tuple(inputs.shape[:2])):
            raise ValueError(
                f"Argument `mask` must have the shape (batch, length), that of the inputs without "
                f"their channels. Received: a mask of shape {shape}, "
                f"inputs of shape {tuple(inputs.shape)}"
            )
        return mask[..., None]

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


def _parted(values: Any, first: int, second: int) -> tuple[Any, Any, Any]:
    """Three parts of the last axis. `ops.split` reads sizes off tensors, which exporters refuse."""
    return values[..., :first], values[..., first:second], values[..., second:]


def _may_be(shape: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two shapes are equal, as far as both are known."""
    return len(shape) == len(other) and all(
        # First the types: TensorFlow does not compare what its graphs do not know yet.
        not (isinstance(a, int) and isinstance(b, int)) or a == b
        for a, b in zip(shape, other, strict=True)
    )
