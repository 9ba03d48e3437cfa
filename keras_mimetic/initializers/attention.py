"""One projection of a pair whose product has structure."""

from typing import Any

import keras
import numpy as np

from keras_mimetic._checks import check_number, check_shape, is_auto
from keras_mimetic._numerics.attention import query_key, value_output
from keras_mimetic._numerics.noise_plus_identity import LARGEST, SMALLEST, in_range
from keras_mimetic._numerics.random import check_seed
from keras_mimetic.initializers.base import as_tensor, check_float_dtype


@keras.saving.register_keras_serializable(package="keras_mimetic")
class AttentionProjection(keras.initializers.Initializer):
    """Draws one of two projections that are factors of one product.

    `MimeticMultiHeadAttention` gives one to each of its projections. Both of a
    pair factor the product that their seed gives, and each keeps its part, so
    neither needs the other's weight.

    Args:
        role: `"query"`, `"key"`, `"value"` or `"output"`.
        partner_dim: Channels of the partner's input (for `"value"` those of
            the output, for `"output"` those of the values' input).
        noise: See `keras_mimetic._numerics.attention.query_key`.
        identity: The same.
        seed: Integer >= 0, the same for both partners.
    """

    def __init__(
        self, role: str, partner_dim: int, noise: float, identity: float, seed: int
    ) -> None:
        self.role = role
        self.partner_dim = partner_dim
        self.noise = noise
        self.identity = identity
        self.seed = check_seed(seed)
        # Where the first of a pair leaves the other's part, if they share it.
        self._shared: dict[str, np.ndarray] | None = None

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        dtype = check_float_dtype(dtype)
        shape = check_shape(shape)
        values = self._shared.pop(self.role, None) if self._shared is not None else None
        if values is None:
            pair = self._pair(shape)
            values = pair.pop(self.role)
            if self._shared is not None:
                self._shared.update(pair)
        name = "query_key" if self.role in ("query", "key") else "value_output"
        return as_tensor(values.reshape(shape), dtype, {name: (self.noise, self.identity)})

    def _pair(self, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        if self.role == "output":
            heads, head_dim = shape[:2]
            dim = int(np.prod(shape[2:]))
        else:
            dim, heads, head_dim = shape
        dims = (dim, self.partner_dim)
        if self.role in ("key", "output"):
            dims = dims[::-1]
        draw, names = (
            (query_key, ("query", "key"))
            if self.role in ("query", "key")
            else (value_output, ("value", "output"))
        )
        first, second = draw(
            *dims, heads, head_dim, noise=self.noise, identity=self.identity, seed=self.seed
        )
        return {names[0]: first, names[1]: second}

    def get_config(self) -> dict[str, Any]:
        names = ("role", "partner_dim", "noise", "identity", "seed")
        return {name: getattr(self, name) for name in names}


def share_factors(first: AttentionProjection, second: AttentionProjection) -> None:
    """Lets the partners of one layer factor their product once instead of twice."""
    first._shared = second._shared = {}


def check_strengths(name: str, strengths: Any) -> tuple[float, float] | str | None:
    """Return strengths of a pair as `(noise, identity)`, `"auto"` or `None`, or raise."""
    if strengths is None or is_auto(strengths):
        return strengths
    allowed = (
        "'auto', None or a pair (noise, identity) of finite numbers, noise >= 0, not both 0, and "
        f"the larger between {SMALLEST:g} and {LARGEST:g} in size"
    )
    if not isinstance(strengths, (tuple, list)):
        raise TypeError(f"Argument `{name}` must be {allowed}. Received: {name}={strengths!r}")
    wrong = ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={strengths!r}")
    if len(strengths) != 2:
        raise wrong
    noise, identity = (check_number(name, value) for value in strengths)
    if noise < 0 or not in_range(noise, identity):
        raise wrong
    return noise, identity


def drop_identity_if_undefined(
    name: str, strengths: tuple[float, float], has_identity: bool, where: str
) -> tuple[float, float]:
    """`strengths`, without the identity where it has no meaning."""
    noise, identity = strengths
    if has_identity:
        return noise, identity
    if noise == 0:
        raise ValueError(
            f"Argument `{name}` must have noise > 0 where there is no identity: in "
            "cross-attention, or between inputs and outputs of different widths. "
            f"Received: {name}={strengths} at {where!r}"
        )
    return noise, 0.0
