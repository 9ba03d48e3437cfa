"""The `MimeticStateSpace` layer."""

from typing import Any

import keras

from keras_mimetic._checks import check_choice, check_flag, check_integer, check_number
from keras_mimetic._numerics.random import check_seed
from keras_mimetic._numerics.state_space import A_LOG, CORRELATION, DT, MAX_A_LOG
from keras_mimetic.initializers.seeds import resolve_seed
from keras_mimetic.initializers.state_space import StateSpaceWeight
from keras_mimetic.layers.mamba2 import Mamba2
from keras_mimetic.layers.sublayers import Shape, check_float_policy


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticStateSpace(Mamba2):
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
    what it saw from the first training step. With `None` for `a_log`, `dt`, `correlation`
    and `convolution`, it starts as Mamba-2.

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
        conv_width: Positions that the convolution sees, an integer >= 1.
        a_log: Initial logarithm of the decay rate of all heads, <= 80: with dt = 1 the
            state keeps exp(-exp(a_log)) of itself, 0.9997 for the default -8. This
            default and that of `dt` are from secondary sources. `None` is
            Mamba-2's own: decay rates uniform in (1, 16).
        dt: Initial dt of all heads, > 0. It does not depend on the token at first,
            because its columns of the projection start at zero. `None` is Mamba-2's own:
            logarithms uniform between those of 0.001 and 0.1, and columns like the others.
        correlation: Correlation of the weights of C with those of B, in [-1, 1]. The
            default is ours: secondary sources say only that the product of both is
            near the identity and that they are not equal. It mattered little in our trials
            (`mimetic` and `decay` in `benchmarks/results/recall/table.md`). `None` is
            Mamba-2's own, 0.
        convolution: `"identity"`, or `None` for Mamba-2's own: weights and biases uniform
            between -1/sqrt(conv_width) and 1/sqrt(conv_width). Secondary sources have
            the identity; in our trials it lowered recall (row `recipe`).
        use_bias: Whether the two projections have biases, which start at zero.
        chunk_size: Positions that are computed together, for speed alone.
        go_backwards: Whether to read the sequence from its end. As in
            `keras.layers.RNN`, outputs are in the order of reading: reversed. With a seed,
            both layers of `keras.layers.Bidirectional` start with equal weights.
        seed: An integer >= 0 for all weights; `None` takes one from Python's `random`,
            which `keras.utils.set_random_seed` seeds. A seed gives equal weights on every
            backend, `a_log` and `dt_bias` of Mamba-2 to rounding.
        **kwargs: `name`, `dtype` and so on. In lower precision the recurrence computes in
            float32.

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

    _sublayers = ("in_projection", "out_projection")

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
        self.in_projection: Any = None
        self.out_projection: Any = None
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        width = self._width(input_shape)
        self._inner_dim = self.expand * width
        self.num_heads = self._inner_dim // self.head_dim
        bc_dim = self.num_groups * self.state_dim
        self._conv_dim = self._inner_dim + 2 * bc_dim
        self.in_projection = self._projection(
            "in_projection",
            self._inner_dim + self._conv_dim + self.num_heads,
            input_shape,
            num_heads=self.num_heads,
            bc_dim=bc_dim,
            correlation=self.correlation or 0.0,
            input_dependent_dt=self.initial_dt is None,
        )
        inner_shape = (*input_shape[:-1], self._inner_dim)
        self.out_projection = self._projection("out_projection", width, inner_shape)
        taps, identity = self.conv_width, self.convolution == "identity"
        self.conv_kernel = self._weight("conv_kernel", (taps, self._conv_dim), identity=identity)
        self.conv_bias = self._weight("conv_bias", (self._conv_dim,), taps=taps, identity=identity)
        self.a_log = self._weight("a_log", (self.num_heads,), a_log=self.initial_a_log)
        self.dt_bias = self._weight("dt_bias", (self.num_heads,), dt=self.initial_dt)
        self.skip = self._add("skip", (self.num_heads,), keras.initializers.Ones())
        self.norm_scale = self._add("norm_scale", (self._inner_dim,), keras.initializers.Ones())
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: width})
        self.built = True

    def _projection(
        self, role: str, units: int, input_shape: Shape, **settings: Any
    ) -> keras.layers.Dense:
        initializer = StateSpaceWeight(role, self._root, **settings)
        return self._dense(
            role, units, input_shape, use_bias=self.use_bias, kernel_initializer=initializer
        )

    def _weight(self, role: str, shape: Shape, **settings: Any) -> keras.Variable:
        return self._add(role, shape, StateSpaceWeight(role, self._root, **settings))

    def _add(
        self, name: str, shape: Shape, initializer: keras.initializers.Initializer
    ) -> keras.Variable:
        # `conv_kernel_initializer` and so on, as in Keras's layers.
        setattr(self, f"{name}_initializer", initializer)
        # Cast at each use: logarithms and small dt lose too much in low precision.
        return self.add_weight(shape=shape, initializer=initializer, name=name, autocast=False)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._width(input_shape)
        return tuple(input_shape)

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
        }

    def _width(self, input_shape: Shape) -> int:
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
