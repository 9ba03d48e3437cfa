"""What happens to the sublayers of a built layer, and must be in its config: quantization, LoRA."""

from typing import Any

import keras

_QUANTIZED, _LORA = "quantized", "lora"


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


class Changes:
    """Changes of a layer's sublayers that are no arguments of the layer's.

    A sublayer that was quantized has a policy of its own, one with LoRA a rank; a layer
    that is made from the config has to build them so again.

    Args:
        names: Attributes of the layer that hold the sublayers.

    Attributes:
        policies: Dtype policies of quantized sublayers, by name.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.policies: dict[str, Any] = {}
        self._lora: dict[str, dict[str, Any]] = {}

    @staticmethod
    def split(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A config without what `config` added to it, and that."""
        changes = {key: config[key] for key in (_QUANTIZED, _LORA) if key in config}
        return {key: value for key, value in config.items() if key not in changes}, changes

    def update(self, changes: dict[str, Any]) -> None:
        """Takes over what `split` found."""
        for name, policy in changes.get(_QUANTIZED, {}).items():
            self.policies[name] = keras.dtype_policies.get(policy)
        self._lora.update(changes.get(_LORA, {}))

    def restore_lora(self, name: str, sublayer: Any) -> None:
        """Enables LoRA on a sublayer that was just built, if it had it."""
        if name in self._lora:
            arguments = dict(self._lora[name])
            sublayer.enable_lora(arguments.pop("rank"), **arguments)

    def config(self, layer: Any, quantized: bool = True) -> dict[str, Any]:
        """What the layer's config must say of its sublayers, nothing if nothing changed."""
        policies, lora = self.policies, self._lora
        if layer.built:
            sublayers = {name: getattr(layer, name) for name in self.names}
            policies = {name: sublayer.dtype_policy for name, sublayer in sublayers.items()}
            lora = {
                name: _lora_arguments(sublayer)
                for name, sublayer in sublayers.items()
                if getattr(sublayer, "lora_enabled", False)
            }
        serialized = {
            name: keras.dtype_policies.serialize(policy)
            for name, policy in policies.items()
            if policy.quantization_mode is not None
        }
        changes = {_QUANTIZED: serialized if quantized else {}, _LORA: lora}
        return {key: value for key, value in changes.items() if value}


def _lora_arguments(sublayer: Any) -> dict[str, Any]:
    arguments = {"rank": sublayer.lora_rank}
    # Older versions of Keras have no alpha.
    if hasattr(sublayer, "lora_alpha"):
        arguments["lora_alpha"] = sublayer.lora_alpha
    return arguments
