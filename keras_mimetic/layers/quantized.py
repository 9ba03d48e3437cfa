"""Dtype policies of layers that are made of `Dense` layers, which may be quantized one by one."""

from collections.abc import Iterable
from typing import Any

import keras

_KEY = "quantized"


def check_float_policy(layer: Any) -> None:
    """Raises unless a layer was made with a policy that computes in a floating type."""
    policy = layer.dtype_policy
    if not keras.backend.is_float_dtype(policy.compute_dtype):
        raise ValueError(
            "Argument `dtype` must be a floating type or a policy that computes in one. "
            f"Received: dtype={policy.name!r}"
        )
    if policy.quantization_mode is not None:
        raise ValueError(
            "Argument `dtype` must not be a quantized policy: build the layer in a floating "
            "type and quantize its layers, as `Model.quantize` does. "
            f"Received: dtype={policy.name!r}"
        )


def policies_of(layer: Any, names: Iterable[str]) -> dict[str, Any]:
    """What a layer's config must say of those of its sublayers that were quantized.

    A sublayer that was quantized has a policy of its own, which is no argument of the
    layer's but must be there when it is built again.
    """
    policies = layer._policies
    if layer.built:
        policies = {name: getattr(layer, name).dtype_policy for name in names}
    quantized = {
        name: keras.dtype_policies.serialize(policy)
        for name, policy in policies.items()
        if policy.quantization_mode is not None
    }
    return {_KEY: quantized} if quantized else {}


def without_policies(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config without that part, and the policies in it."""
    policies = {
        name: keras.dtype_policies.get(policy) for name, policy in config.get(_KEY, {}).items()
    }
    return {name: value for name, value in config.items() if name != _KEY}, policies
