"""Gives an existing model the structures of trained ones."""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_mimetic._assign import assign_all
from keras_mimetic._checks import check_flag
from keras_mimetic._dead_units import check_data, dead_units
from keras_mimetic._find import check_model, check_names, find_sites, path_of
from keras_mimetic._numerics.random import check_seed, fold_in
from keras_mimetic._patterns.kernels import Part, values_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._report import Report, WeightChange
from keras_mimetic._structures import STRUCTURES, StructureName, StructureSettings
from keras_mimetic._structures.base import NewWeights, Skip
from keras_mimetic._tracing.keras_internals import sublayers
from keras_mimetic._trained import remember, trained_weight
from keras_mimetic.initializers.seeds import resolve_seed

# A warning names an MLP with more dead units than this.
_MANY_DEAD = 0.5


# Names of structures, or names with their settings; `None` for the defaults.
Structures = StructureName | Iterable[StructureName] | StructureSettings | None


def initialize(
    model: Any,
    structures: Structures = None,
    seed: int | None = None,
    rules: Any = None,
    control: bool = False,
    dry_run: bool = False,
    force: bool = False,
    inputs: Any = None,
    data: Any = None,
) -> Report:
    r"""Give an existing, built model the structures of trained ones, in place.

    It finds where each structure could go by following what flows between the
    model's layers, functional, sequential, subclassed or nested:

    - `"mlp"`: a `Dense` or 1x1 convolution, an activation (and dropout or
      normalization), another one, where the hidden layer is as wide as input and output
      or wider. The kernel of the first is shifted to a nonzero mean: -1 of its standard
      deviations directly after an untrained LayerNormalization over the channels,
      `-0.5 / sqrt(fan_in)` elsewhere (see `MimeticMean`). Its scale and its other
      structure stay. After a LayerNormalization
      or a BatchNormalization the bias of the first starts at -0.5 standard deviations
      of the pre-activation, too. An MLP after a normalized activation, as in ConvMixer,
      is left as it is, unless the settings name numbers.
    - `"attention"`: `keras.layers.MultiHeadAttention`, layers derived from it, and
      attention that is written in operations or in `keras.layers.Attention`: projections
      (apart or fused in one kernel), a product, a softmax, a product, a projection.
      Query and key, value and output kernels are drawn in pairs, as
      `MimeticMultiHeadAttention` does, with products of the scale that the settings
      name. A pair is skipped where it is of two streams, as in cross-attention. In
      causal attention query and key keep their weights, unless the settings name numbers.
    - `"depthwise"`: depthwise convolutions. Filters are drawn as `MimeticDepthwise`
      does, with a sigma that grows over the network (`sigma_at_depth`); also those
      of `SeparableConv*D`, and of `Conv*D` with a group for each input channel. Causal
      ones are skipped.
    - `"state_space"`: `MimeticStateSpace`, drawn as that layer does: decays, steps and
      the input's projection.

    Nothing else is touched: no other bias, no normalization, no frozen layer
    (`trainable=False`).

    Each weight's random stream derives from `seed` and from the place of its layer
    in the model, the path of attributes and containers that leads to it. So the
    same model gets equal draws whenever and under whichever backend it is built
    (kernels of MLPs are shifted and keep the draws that they have, and hidden biases
    follow the scale of these), and a change in one attribute of a subclassed model
    changes nothing in the others (but for the width of depthwise filters, which follows their order
    in the network). In a functional or sequential model a layer's place is its
    class and its number among those of its class. The layers of this package,
    given the same seed, draw other weights: they cannot see their position in a model.

    Reported and skipped are gated MLPs (GLU), MLPs with a normalization or a depthwise
    convolution before the activation, grouped-query, linear and additive attention,
    attention with an output of several axes, filters of one pixel, and what is inside
    layers that cannot be followed: these are followed one by one. The report's last line
    counts the other matrices, such as heads. A change of a norm by more than a factor of
    2 is noted.

    Examples:

    >>> model = keras.applications.ConvNeXtTiny(weights=None)
    >>> print(keras_mimetic.initialize(model, seed=0))

    >>> # What the finder cannot know; a dry run prints the paths.
    >>> keras_mimetic.initialize(
    ...     model, rules={r"pointwise_\d+/": "mlp", r"^head/": None}, dry_run=True
    ... )
    >>> keras_mimetic.initialize(translator, inputs=(source_tokens, target_tokens))

    Args:
        model: A built Keras model or layer.
        structures: Names of structures, or a dict from names to their settings:
            `{"mlp": {"mean": -0.5}, "attention": {}}`. Settings are for "mlp"
            `mean="auto"` (the paper's nonzero mean; its sign and size are ours) and
            `hidden_bias="auto"` (ours), as above. A number for `mean`, in standard
            deviations of the kernel, shifts every first kernel to it; a number for
            `hidden_bias`, in standard deviations of the pre-activation (see
            `MimeticMLPBlock`), is where every hidden bias starts; `None` leaves
            kernels or biases as they are. For "attention" they are `query_key="auto"` and
            `value_output="auto"`, pairs (noise, identity), of which one may be `None` to
            leave that pair. "auto" is (0.7, 0.7), or `None` in causal attention (ours; row
            `qk`), and (0.4, -0.4), from accounts of the paper's recipe (rows `value_output`
            and `all_no_qk`). For "depthwise" they are `gain="keep"` (each
            kernel's own norm; others as in `MimeticDepthwise`) and `sigma_0=0.08`,
            `velocity=0.37`, `acceleration=2.9` (a reconstruction; see `sigma_at_depth`); for
            "state_space" `a_log=-8`, `step=1`
            (from accounts of the paper's recipe), `correlation=0.9` (ours) and
            `convolution=None` (ours, or "identity"; see `MimeticStateSpace`): `None` leaves what
            is a weight of its own, and draws the projection as Mamba-2 does.
        seed: Integer >= 0; `None` takes one from Python's `random`, which
            `keras.utils.set_random_seed` sets.
        rules: A dict from regular expressions to a structure's name or `None`,
            for what cannot be followed or should be otherwise. A layer with a
            weight whose `variable.path` an expression matches (as in Keras's
            `LayoutMap`, anywhere) gets that structure, or is left alone for
            `None` or a structure that is not asked for. What the finder sees
            around the layer still counts; where it sees nothing, attention is
            taken for self-attention and an MLP for one without a norm before it.
        control: Writes weights without structure but with the same norms
            instead, for comparisons. For kernels of "mlp" these are the same draws
            with mean 0, scaled up; for biases independent normals. Decays and steps of
            "state_space" have no such twin and become Mamba-2's own.
        dry_run: Only reports what would be written.
        force: Writes into a trained model, too. Trained is a model whose Keras
            optimizer has taken steps, or with a bias, gamma, beta or moving statistic
            whose values differ from one another where its initializer makes them one
            constant. Loaded weights without any of these cannot be told from fresh ones.
        inputs: What `model` is called with; only shapes and dtypes are used.
            Needed for a subclassed model that takes more than one argument, or
            whose input's shape is not known. A tuple has several positional
            arguments, anything else is the first one; there are no keyword
            arguments.

    Returns:
        A `Report` with a row for each weight that was written or was left for a
        reason. It prints as a table and has `to_dicts()`.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value that is not allowed; for a model that is not
            built, is quantized, has LoRA enabled, or is trained without `force`; for `data`
            that the model does not take. If anything fails, the model is as it was.

    Warns:
        UserWarning: if more than half of the hidden units of an MLP are off for all
            of `data`; if no weight is written.

    Reference: those of the initializers and layers named above.
    """
    settings = _check_structures(structures)
    for name, flag in (("control", control), ("dry_run", dry_run), ("force", force)):
        check_flag(name, flag)
    seed = resolve_seed(None if seed is None else check_seed(seed))
    _check_model(model, force or dry_run)
    if data is not None:
        check_data(model, data)
    found = find_sites(model, settings, rules, inputs)
    rows: list[WeightChange] = []
    # A dry run keeps no values: a large model would need its memory twice.
    writes = not dry_run or data is not None
    new: list[tuple[Any, np.ndarray]] = []
    for site in found.sites:
        if site.skip_reason or not site.weights:
            rows += _skip(site, site.weights.values(), site.skip_reason)
            continue
        sampled = _sample(site, settings[site.structure], seed, control)
        if isinstance(sampled, Skip):
            rows += _skip(site, site.weights.values(), sampled.reason)
        else:
            variables = [site.variables[role] for role in sampled.values]
            if not all(variable.trainable for variable in variables):
                rows += _skip(site, variables, "frozen (trainable=False)")
                continue
            for (role, values), variable in zip(sampled.values.items(), variables, strict=True):
                if writes:
                    new.append((variable, values))
                note = f"control of {sampled.notes[role]}" if control else sampled.notes[role]
                rows.append(_with_change(_row(site, variable, values, note)))
        rows += [
            _row(site, site.weights[role], None, reason)
            for role, reason in site.partly_skipped.items()
        ]
    for name in settings:
        STRUCTURES[name].clear_caches()
    for layer, layer_path, why in found.opaque:
        reason = f"could not be followed: {why}"
        rows.append(WeightChange.of_layer(path_of(layer), layer_path, "", reason))
    if not any(row.written for row in rows):
        _warn_of_nothing(settings, rows)
    dead = _write(model, found.sites, new, data, dry_run)
    return Report(
        tuple(_with_dead_units(row, dead) for row in rows),
        seed=seed,
        control=control,
        dry_run=dry_run,
        notes=found.notes,
        dead_units=dead,
    )


def _check_structures(structures: Any) -> dict[str, dict[str, Any]]:
    """All settings of each structure asked for."""
    if isinstance(structures, Mapping):
        given = {name: structures[name] for name in check_names(structures)}
    else:
        given = dict.fromkeys(check_names(structures))
    checked = {}
    for name, settings in given.items():
        entry = STRUCTURES[name]
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            raise TypeError(
                f"Settings of the structure {name!r} must be a dict. Received: {settings!r}"
            )
        unknown = [key for key in settings if key not in entry.defaults]
        if unknown:
            known = ", ".join(repr(key) for key in entry.defaults)
            raise ValueError(
                f"Settings of the structure {name!r} must be among {known}. "
                f"Received: {', '.join(repr(key) for key in unknown)}"
            )
        checked[name] = entry.check({**entry.defaults, **settings})
    return checked


def _check_model(model: Any, force: bool) -> None:
    check_model("model", model)
    for layer in sublayers(model):
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                "Argument `model` must not have LoRA enabled: its kernels are trained ones. "
                f"Received: a model whose layer {path_of(layer)!r} has"
            )
        iterations = getattr(getattr(layer, "optimizer", None), "iterations", None)
        steps = 0 if iterations is None else int(keras.ops.convert_to_numpy(iterations))
        if steps and not force:
            raise ValueError(
                f"Argument `model` has been trained (the optimizer of {path_of(layer)!r} took "
                f"{steps} steps), and initializing it would lose that. Pass force=True if you "
                "mean it."
            )
    found = None if force else trained_weight(model)
    if found is not None:
        raise ValueError(
            f"Argument `model` has visibly been trained: the values of {found[0].path!r} differ, "
            f"where its initializer makes all of them {found[1]:g}. Initializing the model would "
            "lose that. Pass force=True if you mean it."
        )


def _sample(site: Site, settings: dict[str, Any], seed: int, control: bool) -> NewWeights | Skip:
    """Return new values of a site's variables, by role."""
    structure = STRUCTURES[site.structure]
    # Each layer has a stream of its own.
    stream = fold_in(seed, *f"{site.structure}:{site.layer_path}".encode())
    sampled = structure.sample(site, settings, stream)
    if isinstance(sampled, Skip):
        return sampled
    values = structure.control(sampled.values, stream) if control else sampled.values
    rounded = {role: _rounded(value, site.variables[role]) for role, value in values.items()}
    return NewWeights(rounded, sampled.notes)


def _rounded(values: np.ndarray, variable: Any) -> np.ndarray:
    """Values as the variable will hold them, or an error if it cannot."""
    if values.shape != tuple(variable.shape):
        raise RuntimeError(
            f"Values of shape {values.shape} were drawn for {variable.path!r}, which has shape "
            f"{tuple(variable.shape)}."
        )
    rounded = keras.ops.cast(keras.ops.convert_to_tensor(values), variable.dtype)
    rounded = values_of(rounded)
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"The new values of {variable.path!r} do not fit into its dtype, "
            f"{variable.dtype}: the largest is {np.abs(values).max():.3g}."
        )
    return rounded


def _skip(site: Site, variables: Iterable[Any], why: str) -> list[WeightChange]:
    if not site.weights:
        path = path_of(site.layer)
        return [WeightChange.of_layer(path, site.layer_path, site.structure, why)]
    return [_row(site, variable, None, why) for variable in variables]


def _row(site: Site, variable: Any, values: np.ndarray | None, note: str) -> WeightChange:
    return WeightChange(
        path=variable.path,
        layer_path=site.layer_path,
        structure=site.structure,
        shape=tuple(variable.shape),
        norm_before=_norm(values_of(variable)),
        norm_after=None if values is None else _norm(values),
        note=note,
    )


def _with_change(row: WeightChange) -> WeightChange:
    """The row with a word on its norm, where that changes by more than a factor of 2."""
    if not row.norm_before or row.norm_after is None:
        return row
    factor = row.norm_after / row.norm_before
    if 0.5 <= factor <= 2:
        return row
    return dataclasses.replace(row, note=f"{row.note}; norm changes by a factor of {factor:.2g}")


def _norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))


def _warn_of_nothing(settings: dict[str, Any], rows: list[WeightChange]) -> None:
    looked = ", ".join(STRUCTURES[name].looks_for for name in settings)
    why = (
        f"{len(rows)} were found and skipped; print the report for the reasons"
        if rows
        else ("none were found")
    )
    warnings.warn(f"initialize wrote no weight. It looked for {looked}: {why}.", stacklevel=3)


def _whole(new: list[tuple[Any, np.ndarray]]) -> list[tuple[Any, np.ndarray]]:
    """Values of whole variables, from those of parts of them."""
    whole: dict[int, tuple[Any, np.ndarray]] = {}
    for variable, values in new:
        if isinstance(variable, Part):
            base = variable.variable
            before = whole[id(base)][1] if id(base) in whole else values_of(base)
            whole[id(base)] = base, variable.put(before, values)
        else:
            whole[id(variable)] = variable, values
    return list(whole.values())


def _write(
    model: Any,
    sites: list[Site],
    new: list[tuple[Any, np.ndarray]],
    data: Any,
    dry_run: bool,
) -> dict[str, float]:
    """Write all values or none; return the fraction of dead units by place.

    A dry run with data writes them for as long as the model runs on the data.
    """
    if dry_run and data is None:
        return {}
    old = assign_all(_whole(new))
    done = False
    try:
        dead = {} if data is None else dead_units(model, sites, data)
        done = True
    finally:
        if dry_run or not done:
            assign_all(old)
        else:
            for variable, _ in old:
                if len(variable.shape) == 1:
                    remember(variable)
    for layer_path, fraction in dead.items():
        if fraction > _MANY_DEAD:
            warnings.warn(
                f"{fraction:.0%} of the hidden units of the MLP {layer_path!r} are off for all of "
                "`data` and cannot learn from it. `rules` or `structures` choose other strengths.",
                stacklevel=3,
            )
    return dead


def _with_dead_units(row: WeightChange, dead: Mapping[str, float]) -> WeightChange:
    if row.structure != "mlp" or row.layer_path not in dead:
        return row
    note = f"{row.note}; {dead[row.layer_path]:.1%} of the hidden units are dead"
    return dataclasses.replace(row, note=note)
