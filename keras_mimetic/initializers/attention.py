"""The initializer of a projection that belongs to a pair."""

import functools
import math
from typing import Any, Literal

import keras
import numpy as np

from keras_mimetic._checks import AUTO, LARGEST, check_number, did_you_mean, is_auto
from keras_mimetic._numerics.attention import PAIRS, sample_pair
from keras_mimetic._numerics.random import check_seed
from keras_mimetic.initializers.base import NumPyInitializer

# Noise and identity of the product of a pair; "auto" for the default, `None` for no structure.
Strengths = tuple[float, float] | Literal["auto"] | None


@keras.saving.register_keras_serializable(package="keras_mimetic")
class AttentionProjection(NumPyInitializer):
    """Initializer of one of two projections that are factors of one product.

    Both initializers of a pair factor the product that their common seed determines, and each
    returns its own factor, so neither needs the weight of the other. `partner_dim` is the number of
    channels in the input of the partner; for `"value"`, of the output.
    """

    def __init__(
        self, role: str, partner_dim: int, noise: float, identity: float, seed: int
    ) -> None:
        self.role = role
        self.partner_dim = partner_dim
        self.noise = noise
        self.identity = identity
        super().__init__(check_seed(seed))

    def sample(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        if self.role == "output":
            heads, head_dim = shape[:2]
            dim = math.prod(shape[2:])
        else:
            dim, heads, head_dim = shape
        rows, columns = dim, self.partner_dim
        if self.role in ("key", "output"):
            rows, columns = columns, rows
        last = (
            (columns, heads, head_dim) if self.pair == "query_key" else (heads, head_dim, columns)
        )
        first = (rows, heads, head_dim)
        weights = _sample_pair(
            self.pair, first, last, noise=self.noise, identity=self.identity, seed=seed
        )
        # A copy, since the variable may keep the memory and change it.
        return weights[PAIRS[self.pair].index(self.role)].reshape(shape).copy()

    @property
    def pair(self) -> str:
        """The name of the pair in `PAIRS`."""
        return next(pair for pair, roles in PAIRS.items() if self.role in roles)

    def get_config(self) -> dict[str, Any]:
        names = ("role", "partner_dim", "noise", "identity", "seed")
        return {name: getattr(self, name) for name in names}


# A layer asks for one weight of a pair after the other.
_sample_pair = functools.lru_cache(maxsize=1)(sample_pair)


# What decompositions can tell from zero.
_SMALLEST = 1e-6


def check_strengths(name: str, strengths: Any) -> Strengths:
    """Return the strengths of a pair as `(noise, identity)`, `"auto"` or `None`, or raise."""
    if strengths is None or is_auto(strengths):
        return strengths
    allowed = (
        "'auto', None or a pair (noise, identity) of numbers with noise >= 0, the larger of them "
        f"between {_SMALLEST:g} and {LARGEST:g} in absolute value"
    )
    message = (
        f"Argument `{name}` must be {allowed}. "
        f"Received: {name}={strengths!r}{did_you_mean(strengths, [AUTO])}"
    )
    if not isinstance(strengths, (tuple, list)):
        raise TypeError(message)
    if len(strengths) != 2:
        raise ValueError(message)
    noise, identity = (check_number(name, value) for value in strengths)
    if noise < 0 or max(noise, abs(identity)) < _SMALLEST:
        raise ValueError(message)
    return noise, identity


def drop_identity_if_undefined(
    name: str, strengths: tuple[float, float], has_identity: bool, where: str
) -> tuple[float, float]:
    """Return `strengths`, with identity 0 where it is undefined; raise if noise is 0, too."""
    noise, identity = strengths
    if has_identity:
        return noise, identity
    if noise == 0:
        raise ValueError(
            f"Argument `{name}` must have noise > 0 if the identity is undefined, as in "
            "cross-attention or between inputs and outputs of different widths. "
            f"Received: {name}={strengths} at {where!r}"
        )
    return noise, 0.0
