"""Variants of the initial weights of a model, by name. The names form a grammar.

A variant changes initial weights alone (or, where it says so, the schedule). Variants with equal
seeds share the order of the images, their augmentation, and every weight that neither replaces.
Means of MLPs and their controls also share the samples.

A name is a list of words joined by `_`: `bias-0.5`, `mlp_mean-4`, `orthogonal_spatial_bias-0.5`,
`pos0.5_value_output_mlp`. A name that begins with a number of the MLP, the attention or the
depthwise filters (`mean-1`, `vo_0.4_0`, `sigma1`) adds to `spatial`; any other name says all
that is written. This module needs no Keras, so that names are checked before its import.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

# Initializers of all kernels; build_variant.py has them.
KERNELS = ("glorot", "he_normal", "truncated_normal", "orthogonal")
# Models that are compared; build_variant.py makes them.
MODELS = (
    *("convnext", "vit", "convmixer", "mixer", "vit_ti", "vit_deep", "vit_8_blocks"),
    *(
        "vit_learned",
        "vit_learned_deep",
        "vit_learned_norm",
        "vit_learned_class_token",
        "vit_learned_flatten",
    ),
    *("vit_no_stem_norm", "convnext_batch_norm", "convnext_no_norm", "convnext_layer_scale"),
    *("mixer_tokens", "mlp_unit_relu", "mlp_unit_gelu"),
    *("mlp_standardized_relu", "mlp_standardized_gelu"),
    # Of real_models.py.
    *("hub_vit", "hub_swin", "cct", "convnext_stages", "mobilenet", "distilbert"),
)
NO_STRUCTURE = {"mean": None, "hidden_bias": None}
_NUMBER = r"[+-]?\d+(?:\.\d+)?"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to initialize a model.

    Attributes:
        kernel: Name in `KERNELS`.
        mlp: Settings of "mlp" for `initialize`.
        mlp_control: Whether MLPs get norm-matched noise instead.
        shift: A mean of the first matrix of each MLP that falls with its number of inputs:
            `shift / sqrt(fan_in)` of its standard deviations.
        attention: Those of "attention", or `None` to leave it.
        keep_norms: Whether attention weights keep the norms that the model gave them.
        depthwise: Those of "depthwise", or `None`.
        control: Whether attention and depthwise get norm-matched noise instead.
        position: Root mean square entry of learned position tables, which start as sines and
            cosines: a number, or `"tokens"` for that of the tokens that they are added to;
            `None` leaves the tables.
        per_input: Spread of a mean for each input channel of an MLP's first matrix,
            of random sign, in standard deviations of the matrix.
        shared_bias: A scalar added to all hidden units, zero at first, that Adam
            moves as fast as it would move them through beta if the first matrix had
            this mean: the function-matched control of a mean after a LayerNorm.
        second_scale: Factor of the second matrix of each MLP: the control of a hidden bias,
            which makes the branch smaller.
        unit_variance: Whether kernels are scaled by LSUV then.
        whole: Whether one call of `initialize` with its defaults writes all that it finds.
        schedule: Part of the epochs.
    """

    kernel: str = "glorot"
    mlp: Mapping[str, Any] = dataclasses.field(default_factory=lambda: NO_STRUCTURE)
    mlp_control: bool = False
    shift: float = 0.0
    attention: Mapping[str, Any] | None = None
    keep_norms: bool = False
    depthwise: Mapping[str, Any] | None = None
    control: bool = False
    position: float | str | None = None
    per_input: float = 0.0
    shared_bias: float = 0.0
    second_scale: float = 1.0
    unit_variance: bool = False
    whole: bool = False
    schedule: float = 1.0


_QUERY_KEY = (0.7, 0.7)
_SPATIAL = {"attention": {"query_key": _QUERY_KEY}, "depthwise": {}}
_MLP = {"mean": "auto", "hidden_bias": "auto"}
# Words that stand for the same changes wherever they are.
WORDS = {
    "default": {},
    "he_normal": {"kernel": "he_normal"},
    "truncated_normal": {"kernel": "truncated_normal"},
    "orthogonal": {"kernel": "orthogonal"},
    "lsuv": {"kernel": "orthogonal", "unit_variance": True},
    "spatial": _SPATIAL,
    "control": {**_SPATIAL, "control": True},
    "query_key": {"attention": {"query_key": _QUERY_KEY, "value_output": None}},
    "value_output": {"attention": {"query_key": None}},
    "no_qk": {"attention": {"query_key": None}},
    "keep": {"keep_norms": True},
    "fan_in": {"depthwise": {"gain": "fan_in"}},
    "mean": {"mlp": {"mean": "auto"}},
    "bias": {"mlp": {"hidden_bias": "auto"}},
    "mlp_control": {"mlp": _MLP, "mlp_control": True},
    "mlp": {"mlp": _MLP},
    "all": {**_SPATIAL, "mlp": _MLP},
    "initialize": {"whole": True},
    "initialize_control": {"whole": True, "control": True},
    "half": {"schedule": 0.5},
    "postokens": {"position": "tokens"},
    "sigma_wide": {"depthwise": {"sigma_0": 0.3, "velocity": 0.5, "acceleration": 4.0}},
    "sigma_narrow": {"depthwise": {"velocity": 0.2, "acceleration": 1.4}},
    "sigma_falling": {"depthwise": {"sigma_0": 1.9, "velocity": -3.2, "acceleration": 2.8}},
}
# Words with numbers, and the changes that they stand for.
NUMBERED = {
    "mean": lambda x: {"mlp": {"mean": x}},
    "bias": lambda x: {"mlp": {"hidden_bias": x}},
    "shift": lambda x: {"shift": x},
    "per_input": lambda x: {"per_input": x},
    "shared_bias": lambda x: {"shared_bias": x},
    "second": lambda x: {"second_scale": x},
    "pos": lambda x: {"position": x},
    "sigma": lambda x: {"depthwise": {"sigma_0": x, "velocity": 0.0, "acceleration": 0.0}},
    "qk_": lambda noise, identity: {"attention": {"query_key": (noise, identity)}},
    "vo_": lambda noise, identity: {"attention": {"value_output": (noise, identity)}},
}
# A name that begins with one of these adds to `spatial`.
_ON_SPATIAL = ("mean", "bias", "per_input", "shared_bias", "sigma", "qk_", "vo_")
_EXAMPLES = "default, spatial, all, mean-1, mlp_mean-4, mlp_bias-0.25, pos0.5_value_output"


def parse(name):
    """Return the `Variant` of a name.

    Raises:
        ValueError: If the name has a word that is not in the grammar.
    """
    changes: dict[str, Any] = {}
    rest, first = name, True
    while rest:
        word, new, is_numbered = _first_word(rest, name)
        rest = rest[len(word) :].removeprefix("_")
        # `mlp_mean-4` has the mean alone; `mlp` by itself, or at the end, is all of it.
        if word == "mlp" and re.match("mean|bias", rest):
            new = {}
        elif first and is_numbered and word.startswith(_ON_SPATIAL):
            changes = _merged(changes, _SPATIAL)
        if "position" not in new:
            first = False
        changes = _merged(changes, new)
    if name.endswith("_") or (not changes and name != "default"):
        raise ValueError(_unknown(name, name))
    if "mlp" in changes:
        changes["mlp"] = {**NO_STRUCTURE, **changes["mlp"]}
    return Variant(**changes)


def _first_word(rest, name):
    """Return the first word of a name, its changes, and whether it has numbers."""
    for start, changes in NUMBERED.items():
        count = 2 if start.endswith("_") else 1
        if found := re.match(rf"{start}({'_'.join([_NUMBER] * count)})(?=_|$)", rest):
            return found[0], changes(*map(float, found[1].split("_"))), True
    words = [word for word in WORDS if rest == word or rest.startswith(f"{word}_")]
    if not words:
        raise ValueError(_unknown(rest, name))
    word = max(words, key=len)
    return word, WORDS[word], False


def _merged(changes, new):
    merged = dict(changes)
    for key, value in new.items():
        before = merged.get(key)
        merged[key] = {**before, **value} if before and isinstance(value, dict) else value
    return merged


def _unknown(rest, name):
    return (
        f"no variant is called {name!r} (at {rest!r}). Names are words joined by `_`, such as "
        f"{_EXAMPLES}; --help lists the words."
    )


def help_text():
    """Return the grammar as text for --help."""
    words = ", ".join(WORDS)
    numbered = ", ".join(f"{n}N_I" if n.endswith("_") else f"{n}N" for n in NUMBERED)
    return (
        f"words of variants: {words}\n"
        f"with numbers: {numbered}\n"
        "  meanN: a mean of N standard deviations; biasN: a hidden bias of N; with mlp_ alone, "
        "without\n  it on top of spatial. qk_N_I, vo_N_I: pairs with noise N and identity I. "
        "posN: position\n  tables as sines and cosines of root mean square N. "
        "secondN: second matrices times N.\n"
        "groups: " + ", ".join(GROUPS)
    )


_MEANS = (-4, -1, -0.25, -0.1, 0.1, 0.25, 1, 4)
# Names that belong together, for --group.
GROUPS = {
    "baselines": (
        *("default", "he_normal", "truncated_normal", "orthogonal", "lsuv", "control"),
        *("spatial", "query_key", "value_output", "mean", "bias", "mlp", "all", "all_half"),
    ),
    "mlp": (
        *(f"mean{mean:+g}" for mean in _MEANS),
        *(f"bias{bias:+g}" for bias in (-0.25, -0.5, -1, -1.5, 0.5)),
        *("mean-1_bias-0.5", "per_input0.15", "per_input0.4", "shared_bias-1", "shared_bias-4"),
    ),
    "units": tuple(f"mean{mean:+g}" for mean in (-0.5, -1, -2, -4, -8)),
    "shift": (
        *("shift-1", "shift-0.5", "shift+0.5", "shift+1"),
        *("shift-0.5_mlp_bias-0.5", "shift-0.5_mlp_bias-0.25", "shift-0.5_mlp_bias-0.1"),
    ),
    "attention": (
        *("qk_0.7_0", "qk_0.7_0.35", "qk_0.7_1.4", "qk_0.35_0.35", "qk_1.4_1.4"),
        *("vo_0.4_0", "vo_0.4_-0.2", "vo_0.4_-0.8", "vo_0.2_-0.2", "vo_0.8_-0.8", "vo_0.4_0.4"),
    ),
    "depthwise": (
        *("sigma0.3", "sigma1", "sigma3", "sigma_wide", "sigma_narrow", "sigma_falling"),
    ),
    "positions": (
        *("default", "value_output", "spatial", "all", "pos0.5", "pos0.5_value_output"),
        *("pos0.5_spatial", "pos0.5_value_output_mlp", "pos0.5_spatial_bias", "pos0.5_all"),
        *("pos1_all", "postokens_all"),
    ),
}
