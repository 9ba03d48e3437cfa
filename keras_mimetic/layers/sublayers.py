"""Quantization and LoRA of sublayers, which the config of a layer must include."""

from collections.abc import Mapping
from typing import Any

import keras

# A tensor of the backend, or a symbolic one.
Tensor = Any
# Unknown sizes are `None`, or tensors in a graph of TensorFlow.
Shape = tuple[Any, ...]

# Entries of the config, each a dict by the names of sublayers: their quantized dtype policies, the
# configs of their quantizers, and the arguments of `enable_lora`.
_QUANTIZED, _QUANTIZERS, _LORA = _CHANGES = ("quantized", "quantizers", "lora")


class Composite(keras.layers.Layer):
    """Layer whose sublayers may have been quantized, or given LoRA, after it was built.

    Neither is an argument of the layer. Its config includes both, and a layer that is created from
    the config creates its sublayers with them.
    """

    # Names of the attributes that hold the sublayers.
    _sublayers: tuple[str, ...]
    _changes: Mapping[str, Mapping[str, Any]] = {entry: {} for entry in _CHANGES}

    def _arguments_of(self, name: str) -> dict[str, Any]:
        """Return the dtype policy and the quantizers, as arguments for the class of a sublayer."""
        arguments = {"dtype": self._changes[_QUANTIZED].get(name, self.dtype_policy)}
        # Older versions of Keras do not have the argument, and save no quantizers.
        if name in self._changes[_QUANTIZERS]:
            config = self._changes[_QUANTIZERS][name]
            arguments["quantization_config"] = keras.saving.deserialize_keras_object(config)
        return arguments

    def _restore_lora(self, name: str, sublayer: keras.layers.Layer) -> None:
        """Enable LoRA on a sublayer that has just been built, if the config says so."""
        if name in self._changes[_LORA]:
            # Not by an argument of `Dense`, which ignores `lora_alpha`.
            sublayer.enable_lora(**self._changes[_LORA][name])

    def _dense(
        self, name: str, units: int, input_shape: Shape, **arguments: Any
    ) -> keras.layers.Dense:
        """Return a sublayer, built, with the changes of the config."""
        layer = keras.layers.Dense(units, name=name, **arguments, **self._arguments_of(name))
        layer.build(input_shape)
        self._restore_lora(name, layer)
        return layer

    def get_config(self) -> dict[str, Any]:
        changes = self._changes
        if self.built:
            changes = _changes_of({name: getattr(self, name) for name in self._sublayers})
        changes = {entry: by_name for entry, by_name in changes.items() if by_name}
        return {**super().get_config(), **changes}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        arguments = {key: value for key, value in config.items() if key not in _CHANGES}
        layer = super().from_config(arguments)
        layer._changes = {entry: config.get(entry, {}) for entry in _CHANGES}
        return layer


def _changes_of(sublayers: Mapping[str, keras.layers.Layer]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {entry: {} for entry in _CHANGES}
    for name, sublayer in sublayers.items():
        if sublayer.dtype_policy.quantization_mode is not None:
            policy = keras.dtype_policies.serialize(sublayer.dtype_policy)
            changes[_QUANTIZED][name] = policy
        # Older versions of Keras do not have the attribute.
        if getattr(sublayer, "quantization_config", None) is not None:
            config = keras.saving.serialize_keras_object(sublayer.quantization_config)
            changes[_QUANTIZERS][name] = config
        if sublayer.lora_enabled:
            lora = {"rank": sublayer.lora_rank, "lora_alpha": sublayer.lora_alpha}
            changes[_LORA][name] = lora
    return changes


def check_float_policy(layer: keras.layers.Layer) -> None:
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
