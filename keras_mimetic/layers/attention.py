"""The `MimeticMultiHeadAttention` layer."""

import math
from typing import Any

import keras

from keras_mimetic._checks import AUTO, check_flag, check_fraction, check_integer, is_auto
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
from keras_mimetic.layers.sublayers import Changes

# What is random in a layer: its projections, and the gate that newer versions of Keras have.
_STREAMS = (*ROLES, "gate")


@keras.saving.register_keras_serializable(package="keras_mimetic")
class MimeticMultiHeadAttention(keras.layers.MultiHeadAttention):
    """Keras's `MultiHeadAttention`, its projections paired as in trained networks.

    In every head the product of query and key weights W_Q W_K^T starts near a
    positive multiple of the identity (a token attends to tokens like it), and
    the product over all heads of value and output weights W_V W_O near a
    negative one. Only the initial weights differ from Keras's layer: arguments,
    sublayers and call are its own, and weights move freely between the two.

    The identity goes only where it has a meaning: where query, key and value
    are one tensor. A layer that is first called otherwise (cross-attention), or
    built for inputs of different widths, gets the noise alone; one that is built
    by `build(...)` with equal shapes counts as self-attention.

    Examples:

    >>> layer = MimeticMultiHeadAttention(num_heads=4, key_dim=16, seed=0)
    >>> x = keras.ops.ones((2, 10, 64))
    >>> layer(x, x).shape
    (2, 10, 64)

    Args:
        num_heads: As in `keras.layers.MultiHeadAttention`, like all that is not
            listed here; what follows `attention_axes` there is by keyword only.
        key_dim: Channels of each head for queries and keys.
        query_key: `(noise, identity)` of each head's product of query and key
            weights, absolute: the product is the matrix of rank `key_dim`
            nearest to `noise Z + identity I`, the entries of Z independent
            normals of variance 1 / width (from a width of 256 on, with the same
            singular values in all heads and layers; see
            `keras_mimetic._numerics.attention.query_key`). `None` leaves both projections to
            `kernel_initializer`. `"auto"` is (0.7, 0.7), the numbers that accounts
            of the paper's recipe give, and `None` with `causal=True`. In our image
            models it decided little (`all_no_qk` in `benchmarks/README.md`).
        value_output: The same for the product of value and output weights, over
            all heads together (of rank `num_heads * value_dim` if that is less
            than the width). `"auto"` is (0.4, -0.4), from the same accounts, which
            has all of the gain in our image models (row `value_output`). Needs an
            `output_shape` of one axis.
        causal: Whether the layer will be called with a causal mask, as in a language
            model. It chooses initial weights alone: a layer is built before it sees a
            mask, and the mask stays an argument of the call (`use_causal_mask=True`).
            With `True`, `"auto"` leaves query and key to `kernel_initializer`, since
            their structure raises the loss of a causal language model (ours; rows `qk`
            and `vo-` of `benchmarks/README.md`, "Language models").
        kernel_initializer: For projections that are not paired: those of a pair
            that is `None`, and a gate's. One without a seed of its own draws
            from `seed`, each projection differently, and equally on every
            backend if it is of Keras's variance-scaling family. Without effect
            where both pairs have structure and there is no gate.
        bias_initializer: For all biases, as in Keras's layer.
        seed: An integer >= 0 for the kernels and the dropout (not for a random
            `bias_initializer`; dropout masks differ between backends); `None`
            takes one from Python's `random`, which `keras.utils.set_random_seed` sets.
            The weights are equal on every backend; between machines they may
            differ by rounding: in the products by about 1e-6 of their size,
            in single factors, where singular values nearly coincide, by more.
        **kwargs: As in Keras's layer.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value that is not allowed, as in Keras's layer, and for
            an `output_shape` of more than one axis with `value_output`.

    Input and output shapes are those of Keras's layer. Grouped-query attention
    is another layer of Keras's, which this one does not replace.

    Reference:

    - Trockman and Kolter, 2023, "Mimetic Initialization of Self-Attention
      Layers" (arXiv:2305.09828).
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: Any = None,
        attention_axes: Any = None,
        *,
        query_key: Strengths = AUTO,
        value_output: Strengths = AUTO,
        causal: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        seed = None if seed is None else check_seed(seed)
        if seed is not None and seed >= 2**31 and dropout:
            raise ValueError(
                "Argument `seed` must be below 2**31 where `dropout` is not 0: Keras's "
                f"generators take no more. Received: seed={seed}"
            )
        num_heads = check_integer("num_heads", num_heads, minimum=1)
        key_dim = check_integer("key_dim", key_dim, minimum=1)
        if value_dim is not None:
            value_dim = check_integer("value_dim", value_dim, minimum=1)
        dropout = check_fraction("dropout", dropout)
        use_bias = check_flag("use_bias", use_bias)
        output_shape = _check_axes("output_shape", output_shape, minimum=1)
        attention_axes = _check_axes("attention_axes", attention_axes, minimum=-64)
        query_key = check_strengths("query_key", query_key)
        value_output = check_strengths("value_output", value_output)
        check_flag("causal", causal)
        self._seeds = split_seed(resolve_seed(seed), _STREAMS)
        # Checks it, before Keras's layer does with another error.
        with_seed("kernel_initializer", kernel_initializer, self._seeds["query"])
        super().__init__(
            num_heads,
            key_dim,
            value_dim=value_dim,
            dropout=dropout,
            use_bias=use_bias,
            output_shape=output_shape,
            attention_axes=attention_axes,
            kernel_initializer=kernel_initializer,
            seed=seed,
            **kwargs,
        )
        self.query_key = query_key
        self.value_output = value_output
        self.causal = causal
        if value_output and self._output_shape and len(self._output_shape) > 1:
            raise ValueError(
                "Argument `output_shape` must have one axis, or `value_output` be None: the "
                "structure is that of a matrix. "
                f"Received: output_shape={self._output_shape}, value_output={value_output}"
            )
        self._is_self_attention = True
        self._projections: Any = None
        self._changes = Changes(tuple(f"{role}_dense" for role in ROLES))

    def __call__(self, query: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.built:
            # `build` sees shapes alone, which do not tell one tensor from two.
            key = args[0] if args else kwargs.get("key")
            self._is_self_attention = query is value and (key is None or key is value)
        return super().__call__(query, value, *args, **kwargs)

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        key_shape = value_shape if key_shape is None else key_shape
        roles = ("query", "key", *(("gate",) if self._has_gate() else ()), "value", "output")
        initializers = self._initializers(query_shape[-1], value_shape[-1], key_shape[-1])
        # Keras's `build` asks for them in this order, one for each projection.
        self._projections = iter([initializers[role] for role in roles])
        super().build(query_shape, value_shape, key_shape)
        self._projections = None
        for role in ROLES:
            if getattr(self, f"{role}_dense").kernel_initializer is not initializers[role]:
                raise RuntimeError(
                    "This version of Keras builds the projections of `MultiHeadAttention` in an "
                    "order that keras_mimetic does not know. Please report it."
                )

        for name in self._changes.names:
            self._changes.restore_lora(name, getattr(self, name))

    def _get_common_kwargs_for_sublayer(self) -> dict[str, Any]:
        arguments = super()._get_common_kwargs_for_sublayer()
        return {**arguments, "kernel_initializer": next(self._projections)}

    def _has_gate(self) -> bool:
        # An argument that older versions of Keras do not have.
        return getattr(self, "_use_gate", False)

    def _initializers(self, query_dim: int, value_dim: int, key_dim: int) -> dict[str, Any]:
        """The kernels' initializers by role."""
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
        # The fans of a kernel of rank 3, which it cannot see.
        axes = ((0, 1), (2,)) if role == "output" else ((0,), (1, 2))
        config = {**initializer.get_config(), "input_axes": axes[0], "output_axes": axes[1]}
        return MimeticMean.from_config(config)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "query_key": _serialize(self.query_key),
            "value_output": _serialize(self.value_output),
            "causal": self.causal,
            # Keras's layer says itself which of its policies are quantized.
            **self._changes.config(self, quantized=False),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MimeticMultiHeadAttention":
        config, changes = Changes.split(config)
        layer = super().from_config(config)
        layer._changes.update(changes)
        return layer


def _serialize(strengths: Any) -> Any:
    return list(strengths) if isinstance(strengths, tuple) else strengths


def _check_axes(name: str, value: Any, minimum: int) -> Any:
    """`value`, if it is `None`, an integer, or some of them."""
    if value is None or isinstance(value, (list, tuple)):
        return value and tuple(check_integer(name, size, minimum) for size in value)
    return check_integer(name, value, minimum)
