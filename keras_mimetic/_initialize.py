"""Re-initialize a built model with the structures of trained ones."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_mimetic._assign import assign_all
from keras_mimetic._cache import clear_caches
from keras_mimetic._checks import check_flag, did_you_mean, warn
from keras_mimetic._find import check_model, check_names, check_not_traced, find_sites, path_of
from keras_mimetic._numerics.large_arrays import array_norm
from keras_mimetic._numerics.random import check_seed, fold_in
from keras_mimetic._patterns.kernels import rounded_to, values_of
from keras_mimetic._patterns.mlp import MLPSite
from keras_mimetic._patterns.site import Site
from keras_mimetic._report import Report, WeightChange
from keras_mimetic._rules import Redraw
from keras_mimetic._structures import STRUCTURES, Rules, Structures
from keras_mimetic._structures.base import NewWeights, Skip
from keras_mimetic._trained import check_untrained
from keras_mimetic.initializers.seeds import resolve_seed


def initialize(
    model: keras.layers.Layer,
    structures: Structures = None,
    seed: int | None = None,
    rules: Rules = None,
    control: bool = False,
    dry_run: bool = False,
    force: bool = False,
    inputs: Any = None,
) -> Report:
    """Re-initialize a built model in place with the structures of trained ones.

    Follows the data through the model, whether functional, sequential, subclassed or
    nested, and changes the weights of these layers:

    - `"mlp"`: a `Dense` layer or 1x1 convolution, an activation, and another one, where the
      hidden layer is at least as wide as input and output. Shifts the first kernel to a
      nonzero mean. After a LayerNormalization or BatchNormalization, also sets the hidden
      bias below zero. A normalization directly before the activation gets a beta below zero
      instead. These are skipped unless the settings are numbers: MLPs after a normalized
      activation, as in ConvMixer; the gates of gated MLPs; MLPs with an activation like tanh,
      without a flat side; and heads, the MLPs that give the model's output after
      convolutions, attention or recurrent layers. 1x1 convolutions must have a residual
      connection around them, or be a head.
    - `"attention"`: `keras.layers.MultiHeadAttention` and its subclasses, and attention built
      from `keras.layers.Attention` or from operations: projections (also fused in one
      kernel), a product, a softmax, a product, a projection. Samples query and key kernels,
      and value and output kernels, in pairs. Causal attention keeps its query and key
      kernels unless the settings are numbers, as attention with a mask that cannot be traced
      does; grouped-query attention keeps all of them.
      Cross-attention is skipped.
    - `"depthwise"`: depthwise convolutions, including those of `SeparableConv*D` and `Conv*D`
      with one group per channel. Samples smooth, centered filters that widen with depth.
      Causal convolutions are skipped.
    - `"state_space"`: `MimeticStateSpace` layers. Samples decays, step sizes and the input
      projection.

    - `"position"`: learned tables of positions, added to the patches of an image. They start as
      sines and cosines in two dimensions, beside which class tokens keep their rows. Tables of
      other sequences are skipped unless `rms` is a number.

    All other weights keep their values, and so do layers with `trainable=False`.

    The report names each layer that was skipped and why. Examples are MLPs whose hidden layer
    is narrower than the input, inverted residuals, linear and additive attention, filters of one
    pixel, and layers that cannot be followed. It also notes norms that changed by more than a
    factor of 2.

    Each weight has its own random stream, derived from `seed` and its layer path, the
    attributes and containers that lead to the layer. Equal models therefore get equal samples
    on every backend, and a change to one attribute of a subclassed model does not affect
    the samples of the others. MLPs are the exception: their kernels are shifted, not
    sampled, so they also depend on the values that Keras gave them. This package's layers do
    not know their layer path and sample different weights for the same seed.

    Examples:

    >>> model = keras.applications.ConvNeXtTiny(weights=None)
    >>> print(keras_mimetic.initialize(model, seed=0))

    >>> # Some structures only, with settings:
    >>> settings = {"mlp": {"hidden_bias": -1}, "depthwise": None}
    >>> report = keras_mimetic.initialize(model, structures=settings)

    >>> # Exceptions; a dry run prints the paths.
    >>> rules = {r"stage_3_.*pointwise": None}
    >>> print(keras_mimetic.initialize(model, rules=rules, dry_run=True))

    >>> # A subclassed model with two arguments:
    >>> report = keras_mimetic.initialize(translator, inputs=(source_tokens, target_tokens))

    Args:
        model: A Keras model or layer, built unless `inputs` are given.
        structures: Names of structures, or a dict from names to their settings, such as
            `{"mlp": {"mean": -0.5}, "attention": None}`. `None` stands for all structures that
            are on by default, or for the default settings of one. The documentation has a page
            of all settings, and so have the classes in `keras_mimetic.structures`.
        seed: Integer >= 0. `None` takes one from Python's `random`, which
            `keras.utils.set_random_seed` controls.
        rules: Dict from regular expressions to the name of a structure, a Keras initializer or
            `None`, to correct or extend what is found. A layer with a weight whose
            `variable.path` matches gets that structure, or is skipped for `None`. With an
            initializer or its name, such as `"orthogonal"`, the weights that match are
            redrawn, and no structure is written to them. Expressions match anywhere in the path,
            as in Keras's `LayoutMap`. A layer whose context is unknown is taken for
            self-attention, or for an MLP without a normalization before it.
        control: If `True`, write a norm-matched baseline: random weights without structure,
            with the norms of the structured ones. The mean of an MLP kernel gets a random sign
            for each weight, and its hidden bias for each unit. Decays and step sizes become
            those of Mamba-2.
        dry_run: If `True`, report what would be written and leave the model unchanged.
        force: If `True`, overwrite parts of a trained model. For a new start, call `reset`
            instead: after trained normalizations, MLPs get other weights than in a new model. A
            model counts as trained if its optimizer has taken steps, or if the sizes of the values
            of a bias, normalization or moving statistic differ where its initializer makes them
            equal. Loaded weights without any of these cannot be told from untrained ones.
        inputs: Example inputs, of which only shapes and dtypes are used. Required for a
            subclassed model that takes several arguments or whose input shape is unknown. A
            model without weights is first called on zeros of these shapes, which builds it. A
            tuple holds several positional arguments, a dict with names of arguments holds these,
            and anything else is the first one.

    Returns:
        A `Report` with one row per weight that was written or skipped.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed; if the model is not built, is quantized, has
            LoRA enabled, or is trained and `force` is `False`. The model is unchanged after
            any error.
        RuntimeError: If a function is being traced, as by `jax.jit`.

    Warns:
        UserWarning: If no weight is written.

    Reference: the papers of the structures, arXiv:2602.07156 (`"mlp"`), arXiv:2305.09828
    (`"attention"`), arXiv:2210.03651 (`"depthwise"`) and arXiv:2410.11135 (`"state_space"`).
    """
    if isinstance(structures, (int, np.integer)) and not isinstance(structures, bool):
        raise TypeError(
            "Argument `structures` must be names of structures or a dict of settings. "
            f"Received: structures={structures!r}. Did you mean seed={structures!r}?"
        )
    settings = _check_structures(structures)
    for name, flag in (("control", control), ("dry_run", dry_run), ("force", force)):
        check_flag(name, flag)
    seed = resolve_seed(None if seed is None else check_seed(seed))
    check_model("model", model, inputs)
    check_not_traced("initialize")
    check_untrained(model, force or dry_run)
    found = find_sites(model, settings, rules, inputs)
    # A dry run keeps no values: a large model would need its memory twice.
    new: list[tuple[Any, np.ndarray]] | None = None if dry_run else []
    rows = [row for site in found.sites for row in _changes(site, settings, seed, control, new)]
    clear_caches()
    redrawn = [_redrawn(redraw, seed, new) for redraw in found.redraws]
    # A weight has one row.
    paths = {(row.layer_path, row.path) for row in redrawn}
    rows = [row for row in rows if (row.layer_path, row.path) not in paths] + redrawn
    for layer, layer_path, why in found.opaque:
        reason = f"could not be traced: {why}"
        rows.append(WeightChange.of_layer(path_of(layer), layer_path, "", reason))
    if not any(row.written for row in rows):
        _warn_of_nothing(settings, rows, dry_run)
    for structure, pattern in found.emptied.items():
        warn(f"the rule {pattern!r} skips all layers of {structure!r}")
    assign_all(new or ())
    return Report(
        tuple(rows),
        seed=seed,
        control=control,
        dry_run=dry_run,
        rules=found.rules,
        notes=(
            (() if structures is None else _missing(settings, rows))
            + found.notes
            + _after_trained_norms(found.sites)
            + (_refusal(model) if dry_run and not force else ())
        ),
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
                f"Settings of the structure {name!r} must be None or a dict of "
                f"{', '.join(map(repr, entry.defaults))}. Received: {settings!r}"
            )
        unknown = [key for key in settings if key not in entry.defaults]
        if unknown:
            known = ", ".join(repr(key) for key in entry.defaults)
            raise ValueError(
                f"Settings of the structure {name!r} must be among {known}. "
                f"Received: {', '.join(repr(key) for key in unknown)}"
                f"{did_you_mean(unknown[0], entry.defaults)}"
            )
        checked[name] = entry.check({**entry.defaults, **settings})
    return checked


def _missing(asked: Iterable[str], rows: list[WeightChange]) -> tuple[str, ...]:
    """Return a note on structures that were asked for and have no layers."""
    missing = [repr(name) for name in asked if all(row.structure != name for row in rows)]
    return (f"no layers found for {', '.join(missing)}",) if missing and rows else ()


def _after_trained_norms(sites: list[Site]) -> tuple[str, ...]:
    """Return a note on MLPs whose weights are not those that a new model would get."""
    trained = [
        site
        for site in sites
        if isinstance(site, MLPSite) and site.norm is not None and site.before == "other"
    ]
    if not trained:
        return ()
    return (
        f"{len(trained)} MLP{'' if len(trained) == 1 else 's'} after a trained LayerNormalization: "
        "no hidden bias, and the mean for any input. To initialize the model as a new one, call "
        "`keras_mimetic.reset(model)` first",
    )


def _refusal(model: Any) -> tuple[str, ...]:
    """Return a note on the error that a dry run of a trained model does not raise."""
    try:
        check_untrained(model, force=False)
    except ValueError as error:
        return (f"without `dry_run` this call raises an error: {error}",)
    return ()


def _changes(
    site: Site,
    settings: Mapping[str, Any],
    seed: int,
    control: bool,
    new: list[tuple[Any, np.ndarray]] | None,
) -> list[WeightChange]:
    """Return the rows of a site, and add its variables with their new values to `new`."""
    if site.skip_reason or not site.weights:
        return _skip(site, site.weights.values(), site.skip_reason)
    sampled = _sample(site, settings[site.structure], seed, control)
    if isinstance(sampled, Skip):
        rows = _skip(site, site.weights.values(), sampled.reason)
    else:
        variables = [site.variables[role] for role in sampled.values]
        if not all(variable.trainable for variable in variables):
            return _skip(site, variables, "frozen (trainable=False)")
        rows = []
        for (role, values), variable in zip(sampled.values.items(), variables, strict=True):
            note = f"control of {sampled.notes[role]}" if control else sampled.notes[role]
            rows.append(_with_change(_row(site, variable, values, note)))
            if new is not None:
                new.append((variable, values))
    for role, reason in site.partly_skipped.items():
        rows.append(_row(site, site.weights[role], None, reason))
    return rows


def _sample(site: Site, settings: dict[str, Any], seed: int, control: bool) -> NewWeights | Skip:
    """Return new values of a site's variables, by role."""
    structure = STRUCTURES[site.structure]
    # Each layer has a stream of its own.
    stream = fold_in(seed, *f"{site.structure}:{site.layer_path}".encode())
    sampled = structure.sample(site, settings, stream)
    if isinstance(sampled, Skip):
        return sampled
    values = structure.control(site, sampled.values, stream) if control else sampled.values
    rounded = {role: _rounded(value, site.variables[role]) for role, value in values.items()}
    return NewWeights(rounded, sampled.notes)


def _redrawn(redraw: Redraw, seed: int, new: list[tuple[Any, np.ndarray]] | None) -> WeightChange:
    """Return the row of a weight that a rule redraws, and add its new values to `new`."""
    variable, values, note = redraw.variable, None, "frozen (trainable=False)"
    if variable.trainable:
        values = _rounded(redraw.sample(seed), variable)
        initializer = redraw.initializer
        name = initializer if isinstance(initializer, str) else type(initializer).__name__
        note = f"{name}, by the rule {redraw.pattern!r}"
        if new is not None:
            new.append((variable, values))
    return WeightChange(
        path=variable.path,
        layer_path=redraw.layer_path,
        structure="initializer",
        shape=tuple(variable.shape),
        norm_before=array_norm(values_of(variable)),
        norm_after=None if values is None else array_norm(values),
        note=note,
    )


def _rounded(values: np.ndarray, variable: Any) -> np.ndarray:
    """Values as the variable will hold them, or an error if it cannot."""
    if values.shape != tuple(variable.shape):
        raise RuntimeError(
            f"Values of shape {values.shape} were drawn for {variable.path!r}, which has shape "
            f"{tuple(variable.shape)}."
        )
    rounded = rounded_to(variable.dtype, values)
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
        norm_before=array_norm(values_of(variable)),
        norm_after=None if values is None else array_norm(values),
        note=note,
    )


def _with_change(row: WeightChange) -> WeightChange:
    """Add a note to a row if the norm of its weight changes by more than a factor of 2."""
    if not row.norm_before or row.norm_after is None:
        return row
    factor = row.norm_after / row.norm_before
    if 0.5 <= factor <= 2:
        return row
    what = f"norm changes by a factor of {factor:.2g}" if factor < 1000 else "was almost zero"
    return dataclasses.replace(row, note=f"{row.note}; {what}")


def _warn_of_nothing(settings: dict[str, Any], rows: list[WeightChange], dry_run: bool) -> None:
    looked = ", ".join(STRUCTURES[name].looks_for for name in settings)
    skipped = len({row.layer_path for row in rows if row.structure})
    why = [f"{skipped} found and skipped; print the report for the reasons"] if skipped else []
    why += [f"{row.path} {row.note}" for row in rows if not row.structure]
    found = "; ".join(why) or "none were found"
    verb = "would write" if dry_run else "wrote"
    warn(f"initialize {verb} no weight. It looked for {looked}: {found}.")
