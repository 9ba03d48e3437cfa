"""The `MimeticMultiHeadAttention` layer."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_mimetic._checks import AUTO, check_flag, check_integer, check_number, is_auto
from keras_mimetic._numerics.attention import PAIRS, ROLES, auto_strengths
from keras_mimetic._numerics.random import check_seed, split_seed
from keras_mimetic.initializers.attention import (
    AttentionProjection,
    Strengths,
    check_strengths,
    drop_identity_if_undefined,
)
from keras_mimetic.initializers.mean import MimeticMean
from keras_mimetic.initializers.seeds import resolve_seed
from keras_mimetic.initializers.with_seed import with_seed
from keras_mimetic.layers.sublayers import Composite, Shape, Tensor

# Random parts of a layer: its projections, and the gate of newer versions of Keras.
_STREAMS = (*ROLES, "gate")
# Keras has no public name for the gate.
_ATTRIBUTES = {role: f"{role}_dense" for role in ROLES} | {"gate": "_gate_dense"}


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticMultiHeadAttention(Composite, keras.layers.MultiHeadAttention):
    """Keras's `MultiHeadAttention` with projections paired as in trained networks.

    In each head, the product of query and key weights W_Q W_K^T starts near a positive multiple
    of the identity: a token attends to tokens similar to itself. Over all heads, the product of
    value and output weights W_V W_O starts near a negative one. Only the initial weights differ
    from Keras's layer: weight files of the two are interchangeable.

    The identity is only written for self-attention. A layer whose first call gets different
    tensors (cross-attention), or that is built for inputs of different widths, gets products of
    noise.

    Examples:

    >>> layer = MimeticMultiHeadAttention(num_heads=4, key_dim=16, seed=0)
    >>> x = keras.ops.ones((2, 10, 64))
    >>> layer(x, x).shape
    (2, 10, 64)

    >>> # In a language model:
    >>> layer = MimeticMultiHeadAttention(num_heads=4, key_dim=16, causal=True)
    >>> outputs = layer(x, x, use_causal_mask=True)

    Args:
        num_heads: As in `keras.layers.MultiHeadAttention`, as are all arguments that are not
            listed here. Those after `attention_axes` are keyword-only.
        query_key: `(noise, identity)` of each head's product of query and key weights: the
            product is the matrix of rank `key_dim` closest to `noise Z + identity I`, where the
            entries of Z are independent normals of variance 1 / width. (From a width of 256 on, all
            heads and layers have the same singular values.) `None` leaves both projections to
            `kernel_initializer`. `"auto"` is (0.7, 0.7), from secondary sources, and
            `None` with `causal=True`. The pair adds to `value_output` in our ViT of 4 blocks
            (`spatial` in `benchmarks/results/query-key/over-value-output.md`). In ViTs of 12
            blocks it loses in short training (`spatial` in
            `benchmarks/results/depth/over-value-output.md`) and gains in longer training, with
            learned positions (`pos0.5_all` in `benchmarks/results/depth-20-epochs/table.md`).
        value_output: `(noise, identity)` of the product of value and output weights over all
            heads (of rank `num_heads * value_dim`, if that is less than the width). `"auto"` is
            (0.4, -0.4), from the same sources. In our ViT it accounts for most of the gain from
            attention, half of it from its scale (`value_output` and `control` in
            `benchmarks/results/confirm-attention/over-default.md`). Requires an `output_shape` of
            one axis.
        causal: Whether the layer will be called with a causal mask, as in a language model. It
            only affects `query_key="auto"`, because that structure raised the loss of our causal
            language model (`qk` and `both` in `benchmarks/results/language-500/table.md`). Still
            pass `use_causal_mask=True` to the call.
        kernel_initializer: For the projections of a pair that is `None`, and for a gate. One
            without a seed of its own samples from `seed`, differently for each projection, and
            equally on every backend if it belongs to Keras's variance-scaling family.
        seed: An integer >= 0 for the kernels and the dropout, but not for a random
            `bias_initializer`. `None` takes a seed from Python's `random`, which
            `keras.utils.set_random_seed` controls. Weights are equal on every backend, dropout
            masks are not. Between machines, products of weights may differ by rounding, about
            1e-6 of their size, and factors with nearly equal singular values by more.

    Input and output shapes: as in Keras's layer.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed, as in Keras's layer, or if `output_shape` has more
            than one axis and `value_output` is not `None`.

    Reference:

    - Trockman and Kolter, 2023, "Mimetic Initialization of Self-Attention Layers"
      (arXiv:2305.09828).
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: int | Sequence[int] | None = None,
        *,
        query_key: Strengths = AUTO,
        value_output: Strengths = AUTO,
        causal: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        seed = _check_seed(seed, dropout)
        self._seeds = split_seed(resolve_seed(seed), _STREAMS)
        # Check the initializer before Keras's layer does, for a clearer error.
        with_seed("kernel_initializer", kernel_initializer, self._seeds["query"])
        if value_dim is not None:
            value_dim = check_integer("value_dim", value_dim, minimum=1)
        super().__init__(
            check_integer("num_heads", num_heads, minimum=1),
            check_integer("key_dim", key_dim, minimum=1),
            value_dim=value_dim,
            dropout=check_number("dropout", dropout, low=0, below=1),
            use_bias=check_flag("use_bias", use_bias),
            output_shape=_check_axes("output_shape", output_shape, minimum=1),
            attention_axes=_check_axes("attention_axes", attention_axes, minimum=-64),
            kernel_initializer=kernel_initializer,
            seed=seed,
            **kwargs,
        )
        self.query_key = check_strengths("query_key", query_key)
        self.value_output = check_strengths("value_output", value_output)
        self.causal = check_flag("causal", causal)
        if self.value_output and self._output_shape and len(self._output_shape) > 1:
            raise ValueError(
                "Argument `output_shape` must have one axis unless `value_output` is None: the "
                "structure is for matrices. Received: "
                f"output_shape={self._output_shape}, value_output={self.value_output}"
            )
        # In the order in which Keras's `build` creates them. Older versions of Keras have no gate.
        gate = ("gate",) if getattr(self, "_use_gate", False) else ()
        self._roles = ("query", "key", *gate, "value", "output")
        self._sublayers = tuple(_ATTRIBUTES[role] for role in self._roles)
        self._is_self_attention = True
        self._projections: Any = None

    def __call__(self, query: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.built:
            # `build` gets only shapes, which do not show whether the tensors are the same.
            key = args[0] if args else kwargs.get("key")
            self._is_self_attention = query is value and (key is None or key is value)
        return super().__call__(query, value, *args, **kwargs)

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        key_shape = value_shape if key_shape is None else key_shape
        initializers = self._initializers(query_shape[-1], value_shape[-1], key_shape[-1])
        self._projections = iter(
            [
                {"kernel_initializer": initializers[role], **self._arguments_of(_ATTRIBUTES[role])}
                for role in self._roles
            ]
        )
        super().build(query_shape, value_shape, key_shape)
        self._projections = None
        for role in self._roles:
            projection = getattr(self, _ATTRIBUTES[role])
            if projection.kernel_initializer is not initializers[role]:
                raise RuntimeError(
                    "This version of Keras builds the projections of `MultiHeadAttention` in an "
                    "order that keras_mimetic does not support. Please report it."
                )
            self._restore_lora(_ATTRIBUTES[role], projection)

    def _get_common_kwargs_for_sublayer(self) -> dict[str, Any]:
        return {**super()._get_common_kwargs_for_sublayer(), **next(self._projections)}

    def _initializers(self, query_dim: int, value_dim: int, key_dim: int) -> dict[str, Any]:
        """Return the initializers of the kernels by role."""
        output_dim = math.prod(self._output_shape) if self._output_shape else query_dim
        is_self = self._is_self_attention and query_dim == value_dim == key_dim
        initializers = {role: self._unpaired(role, seed) for role, seed in self._seeds.items()}
        dims = {"query": query_dim, "key": key_dim, "value": value_dim, "output": output_dim}
        for name, (first, second) in PAIRS.items():
            strengths = getattr(self, name)
            if is_auto(strengths):
                strengths = auto_strengths(name, is_causal=self.causal)
            if strengths is None:
                continue
            has_identity = is_self and dims[first] == dims[second]
            noise, identity = drop_identity_if_undefined(name, strengths, has_identity, self.name)
            seed = self._seeds[first]
            for role, partner in ((first, second), (second, first)):
                initializers[role] = AttentionProjection(role, dims[partner], noise, identity, seed)
        return initializers

    def _unpaired(self, role: str, seed: int) -> Any:
        initializer = with_seed("kernel_initializer", self._kernel_initializer, seed)
        if not isinstance(initializer, MimeticMean) or initializer.input_axes is not None:
            return initializer
        # The initializer cannot infer the fans of a kernel of rank 3.
        axes = ((0, 1), (2,)) if role == "output" else ((0,), (1, 2))
        config = {**initializer.get_config(), "input_axes": axes[0], "output_axes": axes[1]}
        return MimeticMean.from_config(config)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "query_key": _serialize(self.query_key),
            "value_output": _serialize(self.value_output),
            "causal": self.causal,
        }


def _check_seed(seed: int | None, dropout: float) -> int | None:
    """Return the seed if it is `None` or allowed with this dropout; otherwise raise."""
    seed = None if seed is None else check_seed(seed)
    if seed is not None and seed >= 2**31 and dropout:
        raise ValueError(
            "Argument `seed` must be below 2**31 if `dropout` is not 0: the limit of "
            f"Keras's generators. Received: seed={seed}"
        )
    return seed


def _serialize(strengths: Strengths) -> list[float] | str | None:
    return list(strengths) if isinstance(strengths, tuple) else strengths


def _check_axes(name: str, value: Any, minimum: int) -> Any:
    """Return `value` if it is `None`, an integer or a sequence of integers; otherwise raise."""
    if value is None or isinstance(value, (list, tuple)):
        return value and tuple(check_integer(name, size, minimum) for size in value)
    return check_integer(name, value, minimum)
