"""Quantization and LoRA of sublayers, which the config of a layer must include."""

from typing import Any

import keras

_QUANTIZED, _QUANTIZERS, _LORA = "quantized", "quantizers", "lora"


def check_float_policy(layer: Any) -> None:
    """Raise a `ValueError` unless the dtype policy of a layer computes in a floating type."""
    policy = layer.dtype_policy
    if not keras.backend.is_float_dtype(policy.compute_dtype):
        raise ValueError(
            "Argument `dtype` must be a floating type or a policy that computes in one. "
            f"Received: dtype={policy.name!r}"
        )
    if policy.quantization_mode is not None:
        raise ValueError(
            "Argument `dtype` must not be a quantized policy. Build the layer in a floating "
            "type and quantize its sublayers, as `Model.quantize` does. "
            f"Received: dtype={policy.name!r}"
        )


class Changes:
    """Changes to the sublayers of a layer that are not arguments of the layer.

    A quantized sublayer has its own dtype policy and quantizers, and a sublayer with LoRA has a
    rank. A layer that is created from a config must restore them.

    Args:
        names: Names of the attributes that hold the sublayers.

    Attributes:
        policies: Dtype policies of quantized sublayers, by name.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.policies: dict[str, Any] = {}
        self._quantizers: dict[str, Any] = {}
        self._lora: dict[str, dict[str, Any]] = {}

    @staticmethod
    def split(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split a config into the arguments of the layer and the entries that `config` added."""
        changes = {key: config[key] for key in (_QUANTIZED, _QUANTIZERS, _LORA) if key in config}
        return {key: value for key, value in config.items() if key not in changes}, changes

    def update(self, changes: dict[str, Any]) -> None:
        """Store the changes that `split` returned."""
        for name, policy in changes.get(_QUANTIZED, {}).items():
            self.policies[name] = keras.dtype_policies.get(policy)
        self._quantizers.update(changes.get(_QUANTIZERS, {}))
        self._lora.update(changes.get(_LORA, {}))

    def build(self, name: str, sublayer: Any, input_shape: Any) -> None:
        """Build a sublayer, with the quantizers and LoRA of the config."""
        if name in self._quantizers:
            known = keras.saving.deserialize_keras_object(self._quantizers[name])
            sublayer.quantization_config = known
        sublayer.build(input_shape)
        self.restore_lora(name, sublayer)

    def restore_lora(self, name: str, sublayer: Any) -> None:
        """Enable LoRA on a sublayer that has just been built, if the config says so."""
        if name in self._lora:
            arguments = dict(self._lora[name])
            sublayer.enable_lora(arguments.pop("rank"), **arguments)

    def config(self, layer: Any, quantized: bool = True) -> dict[str, Any]:
        """Return the entries of the layer's config about its sublayers, `{}` if unchanged.

        Args:
            layer: The layer that holds the sublayers.
            quantized: Whether to include the policies and quantizers of quantized sublayers.
        """
        policies, quantizers, lora = self.policies, self._quantizers, self._lora
        if layer.built:
            sublayers = {name: getattr(layer, name) for name in self.names}
            policies = {name: sublayer.dtype_policy for name, sublayer in sublayers.items()}
            quantizers = {
                name: keras.saving.serialize_keras_object(sublayer.quantization_config)
                for name, sublayer in sublayers.items()
                # Absent in older versions of Keras.
                if getattr(sublayer, "quantization_config", None) is not None
            }
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
        changes = {_LORA: lora}
        if quantized:
            changes |= {_QUANTIZED: serialized, _QUANTIZERS: quantizers}
        return {key: value for key, value in changes.items() if value}


def _lora_arguments(sublayer: Any) -> dict[str, Any]:
    arguments = {"rank": sublayer.lora_rank}
    # Absent in older versions of Keras.
    if hasattr(sublayer, "lora_alpha"):
        arguments["lora_alpha"] = sublayer.lora_alpha
    return arguments
