"""Variants of the initial weights of a model, by name.

A variant changes initial weights alone (or, where it says so, the schedule). Variants with
equal seeds share the order of the images, their augmentation, and every weight
that neither replaces; means of MLPs and their controls share the samples, too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from common.models import glorot


def _kernel(make, **settings):
    """One of Keras's initializers, whose seeds are below 2**31."""

    def initializer(seed=None):
        return make(seed=None if seed is None else seed % 2**31, **settings)

    return initializer


# Initializers for every kernel: what Keras's users would name, with Keras's fans.
KERNELS = {
    "glorot": glorot,
    "he_normal": _kernel(keras.initializers.HeNormal),
    "truncated_normal": _kernel(keras.initializers.TruncatedNormal, stddev=0.02),
    "orthogonal": _kernel(keras.initializers.Orthogonal),
}


def _mean(mean, hidden_bias=None):
    """Settings of "mlp": the mean in standard deviations; biases are left, or start there."""
    return {"mean": mean, "hidden_bias": hidden_bias}


def _bias(hidden_bias):
    return _mean(None, hidden_bias)


NO_STRUCTURE = _mean(None)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to initialize a model.

    Attributes:
        kernel: Name in `KERNELS`.
        mlp: Settings of "mlp" for `initialize`.
        shift: A mean of the first matrix of each MLP that falls with its number of inputs:
            `shift / sqrt(fan_in)` of its standard deviations.
        attention: Those of "attention", or `None` to leave it.
        depthwise: Those of "depthwise", or `None`.
        control: Whether attention and depthwise get norm-matched noise instead.
        per_input: Spread of a mean for each input channel of an MLP's first matrix,
            of random sign, in standard deviations of the matrix.
        shared_bias: A scalar added to all hidden units, zero at first, that Adam
            moves as fast as it would move them through beta if the first matrix had
            this mean: the function-matched control of a mean after a LayerNorm.
        unit_variance: Whether kernels are scaled by LSUV then.
        schedule: Part of the epochs.
    """

    kernel: str = "glorot"
    mlp: Mapping[str, Any] = dataclasses.field(default_factory=lambda: NO_STRUCTURE)
    shift: float = 0.0
    attention: Mapping[str, Any] | None = None
    depthwise: Mapping[str, Any] | None = None
    control: bool = False
    per_input: float = 0.0
    shared_bias: float = 0.0
    unit_variance: bool = False
    schedule: float = 1.0


SPATIAL = Variant(attention={}, depthwise={})


def _spatial(**changes: Any) -> Variant:
    return dataclasses.replace(SPATIAL, **changes)


BASELINES = {
    "default": Variant(),
    **{name: Variant(kernel=name) for name in KERNELS if name != "glorot"},
    "lsuv": Variant(kernel="orthogonal", unit_variance=True),
    "control": _spatial(control=True),
    "control_fan_in": _spatial(depthwise={"gain": "fan_in"}, control=True),
    "spatial": SPATIAL,
    "spatial_fan_in": _spatial(depthwise={"gain": "fan_in"}),
    "query_key": Variant(attention={"value_output": None}),
    "value_output": Variant(attention={"query_key": None}),
    # The package's defaults.
    "mean": Variant(mlp=_mean("auto")),
    "bias": Variant(mlp=_mean(None, "auto")),
    "mlp": Variant(mlp=_mean("auto", "auto")),
    "all": _spatial(mlp=_mean("auto", "auto")),
    "all_half": _spatial(mlp=_mean("auto", "auto"), schedule=0.5),
    "orthogonal_bias-0.5": Variant(kernel="orthogonal", mlp=_bias(-0.5)),
    "orthogonal_spatial_bias-0.5": _spatial(kernel="orthogonal", mlp=_bias(-0.5)),
    # Their parts: a mean alone, a hidden bias alone.
    **{f"mlp_mean{mean:+g}": Variant(mlp=_mean(mean)) for mean in (-1.0, -0.1)},
    "mlp_bias-0.5": Variant(mlp=_bias(-0.5)),
    "bias-0.5_half": _spatial(mlp=_bias(-0.5), schedule=0.5),
    **{f"mean{mean:+g}_half": _spatial(mlp=_mean(mean), schedule=0.5) for mean in (-1.0, -0.1)},
}
# On the spatial structures, where the paper says that it adds.
MLP = {
    **{
        f"mean{mean:+g}": _spatial(mlp=_mean(mean))
        for mean in (-4.0, -1.0, -0.25, -0.1, 0.1, 0.25, 1.0, 4.0)
    },
    **{f"bias{bias:+g}": _spatial(mlp=_bias(bias)) for bias in (-0.25, -0.5, -1.0, -1.5, 0.5)},
    "mean-1_bias-0.5": _spatial(mlp=_mean(-1.0, hidden_bias=-0.5)),
    **{f"per_input{spread:g}": _spatial(per_input=spread) for spread in (0.15, 0.4)},
    **{f"shared_bias{mean:+g}": _spatial(shared_bias=mean) for mean in (-1.0, -4.0)},
}
# In which unit a mean is best the same for all widths.
UNITS = {f"mean{mean:+g}": _spatial(mlp=_mean(mean)) for mean in (-0.5, -1.0, -2.0, -4.0, -8.0)}
ATTENTION = {
    **{
        f"qk_{noise:g}_{identity:g}": _spatial(attention={"query_key": (noise, identity)})
        for noise, identity in ((0.7, 0.0), (0.7, 0.35), (0.7, 1.4), (0.35, 0.35), (1.4, 1.4))
    },
    # On all that `initialize` does by default: other strengths, or nothing for query and key.
    "all_vo_0.4_-0.8": _spatial(attention={"value_output": (0.4, -0.8)}, mlp=_mean(None, "auto")),
    "all_no_qk": _spatial(attention={"query_key": None}, mlp=_mean(None, "auto")),
    "all_no_qk_vo_0.4_-0.8": _spatial(
        attention={"query_key": None, "value_output": (0.4, -0.8)}, mlp=_mean(None, "auto")
    ),
    "qk_0.7_0_bias-0.5": _spatial(attention={"query_key": (0.7, 0.0)}, mlp=_bias(-0.5)),
    **{
        f"vo_{noise:g}_{identity:g}": _spatial(attention={"value_output": (noise, identity)})
        for noise, identity in (
            (0.4, 0.0),
            (0.4, -0.2),
            (0.4, -0.8),
            (0.2, -0.2),
            (0.8, -0.8),
            (0.4, 0.4),
        )
    },
}
# The mean that falls with the fan-in, in MLPs that no normalization precedes.
SHIFT = {
    **{f"shift{shift:+g}": Variant(shift=shift) for shift in (-1.0, -0.5, 0.5, 1.0)},
    "shift-0.5_bias-0.5": Variant(shift=-0.5, mlp=_bias(-0.5)),
    **{f"shift-0.5_bias{bias:+g}": Variant(shift=-0.5, mlp=_bias(bias)) for bias in (-0.1, -0.25)},
    "spatial_shift-0.5_bias-0.5": _spatial(shift=-0.5, mlp=_bias(-0.5)),
}
DEPTHWISE = {
    **{
        f"sigma{sigma:g}": _spatial(
            depthwise={"sigma_0": sigma, "velocity": 0.0, "acceleration": 0.0}
        )
        for sigma in (0.3, 1.0, 3.0)
    },
    "sigma_wide": _spatial(depthwise={"sigma_0": 0.3, "velocity": 0.5, "acceleration": 4.0}),
    "sigma_narrow": _spatial(depthwise={"velocity": 0.2, "acceleration": 1.4}),
    "sigma_falling": _spatial(depthwise={"sigma_0": 1.9, "velocity": -3.2, "acceleration": 2.8}),
}
GROUPS = {
    "baselines": BASELINES,
    "mlp": MLP,
    "units": UNITS,
    "shift": SHIFT,
    "attention": ATTENTION,
    "depthwise": DEPTHWISE,
}
VARIANTS = {name: variant for group in GROUPS.values() for name, variant in group.items()}
