"""Re-initialize a built model with the structures of trained ones."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_mimetic._assign import assign_all
from keras_mimetic._changes import Changes
from keras_mimetic._checks import check_flag, did_you_mean, warn
from keras_mimetic._find import check_model, check_names, check_not_traced, find_sites, path_of
from keras_mimetic._numerics.random import check_seed
from keras_mimetic._patterns.mlp import MLPSite
from keras_mimetic._patterns.site import Site
from keras_mimetic._report import Report, WeightChange
from keras_mimetic._structures import STRUCTURES, Rules, Structures, layers_for
from keras_mimetic._trained import check_no_lora, why_trained
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
    nested, and changes the weights of these layers. `keras_mimetic.structures` has a class for
    each, which documents its settings:

    - `"mlp"`: a `Dense` layer or 1x1 convolution, an activation, and another one, where the
      hidden layer is at least as wide as input and output. Shifts the first kernel to a
      nonzero mean and, after a LayerNormalization or BatchNormalization, sets the hidden bias
      below zero. Skipped unless the settings are numbers: MLPs after a normalized activation,
      as in ConvMixer; the gates of gated MLPs; activations like tanh, without a flat side; and
      heads, the MLPs that give the model's output after convolutions, attention or recurrent
      layers. 1x1 convolutions must have a residual connection around them, or be a head.
    - `"attention"`: `keras.layers.MultiHeadAttention` and its subclasses, and attention built
      from `keras.layers.Attention` or from operations. Samples query and key kernels, and
      value and output kernels, in pairs. Unless the settings are numbers, query and key
      kernels are kept in causal attention, under a mask that cannot be traced, and in models of
      12 or more attention layers, and all kernels in grouped-query attention. Cross-attention
      is skipped.
    - `"depthwise"`: depthwise convolutions, including those of `SeparableConv*D` and `Conv*D`
      with one group per channel. Samples smooth, centered filters that widen with depth.
      Causal convolutions are skipped.
    - `"state_space"`: `MimeticStateSpace` layers. Samples decays, step sizes and the input
      projection.
    - `"position"`: learned tables of positions, added to the patches of an image. They start as
      sines and cosines. Tables of other sequences are skipped unless `rms` is a number.

    All other weights keep their values, and so do layers with `trainable=False`. The report
    names each layer that was skipped and why, and norms that changed by more than a factor of 2.

    Each weight has its own random stream, derived from `seed` and its layer path, the
    attributes and containers that lead to the layer. Equal models therefore get equal samples
    on every backend, and a change to one attribute of a subclassed model does not affect
    the streams of the others. (A new depthwise layer shifts their sigma, though.) The kernels
    of MLPs are shifted, not sampled, so they also depend on the values that Keras gave them.
    This package's layers do not know their layer path and sample different weights for the same
    seed.

    Examples:

    >>> # A built model, such as a Vision Transformer:
    >>> print(keras_mimetic.initialize(model, seed=0))

    >>> # Some structures only, with settings:
    >>> settings = {"mlp": {"hidden_bias": -1}, "depthwise": {}}
    >>> report = keras_mimetic.initialize(model, structures=settings)

    >>> # Exceptions; a dry run prints the paths.
    >>> rules = {r"^dense/": None}
    >>> print(keras_mimetic.initialize(model, rules=rules, dry_run=True))

    >>> # A subclassed model with two arguments:
    >>> report = keras_mimetic.initialize(translator, inputs=(source_tokens, target_tokens))

    Args:
        model: A Keras model or layer, built unless `inputs` are given.
        structures: A name, names, or a dict from names to settings, such as
            `{"mlp": {"mean": -0.5}, "attention": {}}`; no others are written. `{}` stands for a
            structure's default settings, and `structures=None` for all that are on by default.
        seed: Integer >= 0. `None` takes one from Python's `random`, which
            `keras.utils.set_random_seed` controls.
        rules: Dict from regular expressions to the name of a structure, a Keras initializer or
            `None`, to correct or extend what is found. A layer with a weight whose
            `variable.path` matches gets that structure, or is skipped for `None`. With an
            initializer or its name, such as `"orthogonal"`, the weights that match are
            redrawn, and the MLP, attention or other layer that has them is skipped. Expressions
            match anywhere in the path, as in Keras's `LayoutMap`. A layer whose context is unknown
            is taken for self-attention, or for an MLP without a normalization before it.
        control: If `True`, write a norm-matched baseline: random weights without structure,
            with the norms of the structured ones. The mean of an MLP kernel gets a random sign
            for each weight, and its hidden bias for each unit. Decays and step sizes become
            those of Mamba-2.
        dry_run: If `True`, report what would be written and leave the model unchanged.
        force: If `True`, overwrite parts of a trained model. For a new start, call `reset`
            instead: after trained normalizations, MLPs get other weights than in a new model. A
            model counts as trained if its optimizer has taken steps, or if the values of a bias,
            normalization or moving statistic differ in size where its initializer makes them equal.
        inputs: Example inputs; only their shapes and dtypes are used. Required for a
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
    settings = _check_structures(structures)
    for name, flag in (("control", control), ("dry_run", dry_run), ("force", force)):
        check_flag(name, flag)
    seed = check_seed(resolve_seed(None) if seed is None else seed)
    check_model(model, inputs)
    check_not_traced("initialize")
    check_no_lora(model)
    refusal = "" if force else why_trained(model)
    if refusal and not dry_run:
        raise ValueError(refusal)
    found = find_sites(model, settings, rules, inputs)
    changes = Changes(settings, seed, control, dry_run)
    # A weight has one row.
    redrawn = {(redraw.layer_path, redraw.variable.path) for redraw in found.redraws}
    for site in found.sites:
        changes.add_site(site, redrawn)
    for redraw in found.redraws:
        changes.add_redraw(redraw)
    for layer, layer_path, why in found.opaque:
        reason = f"could not be traced: {why}"
        changes.rows.append(WeightChange.of_layer(path_of(layer), layer_path, "", reason))
    rows = tuple(changes.rows)
    if not any(row.written for row in rows):
        _warn_of_nothing(settings, rows, dry_run)
    for structure, pattern in found.emptied.items():
        warn(f"the rule {pattern!r} skips all layers of {structure!r}")
    assign_all(changes.new)
    notes = (
        *([f"without `dry_run` this call raises an error: {refusal}"] if refusal else []),
        *(() if structures is None else _missing(settings, rows)),
        *found.notes,
        *_after_trained_norms(found.sites),
    )
    return Report(rows, seed=seed, control=control, dry_run=dry_run, rules=found.rules, notes=notes)


def _check_structures(structures: Any) -> dict[str, dict[str, Any]]:
    """Return all settings of each structure that an argument asks for."""
    names = check_names(structures)
    given = structures if isinstance(structures, Mapping) else {name: {} for name in names}
    return {name: _check_settings(name, given[name]) for name in names}


def _check_settings(name: str, settings: Any) -> dict[str, Any]:
    """Return all settings of a structure."""
    entry = STRUCTURES[name]
    known = ", ".join(map(repr, entry.defaults))
    if not isinstance(settings, Mapping):
        raise TypeError(
            f"Settings of the structure {name!r} must be a dict of {known}, and {{}} for the "
            f"defaults. To leave the structure out, leave out its name. Received: {settings!r}"
        )
    unknown = [key for key in settings if key not in entry.defaults]
    if unknown:
        raise ValueError(
            f"Settings of the structure {name!r} must be among {known}. "
            f"Received: {', '.join(map(repr, unknown))}"
            f"{did_you_mean(unknown[0], entry.defaults)}"
        )
    return entry.check({**entry.defaults, **settings})


def _missing(asked: Iterable[str], rows: Sequence[WeightChange]) -> tuple[str, ...]:
    """Return a note on structures that were asked for and have no layers."""
    missing = [repr(name) for name in asked if all(row.structure != name for row in rows)]
    return (f"no layers found for {', '.join(missing)}",) if missing and rows else ()


def _after_trained_norms(sites: list[Site]) -> tuple[str, ...]:
    """Return a note on MLPs whose weights are not those that a new model would get."""
    count = sum(
        isinstance(site, MLPSite) and site.norm is not None and site.before == "other"
        for site in sites
    )
    if not count:
        return ()
    return (
        f"{count} MLP{'' if count == 1 else 's'} after a trained LayerNormalization: no hidden "
        "bias, and the mean for any input. To initialize the model as a new one, call "
        "`keras_mimetic.reset(model)` first",
    )


def _warn_of_nothing(names: Iterable[str], rows: Sequence[WeightChange], dry_run: bool) -> None:
    skipped = len({row.layer_path for row in rows if row.structure})
    found = "none were found"
    if skipped:
        found = f"{skipped} layer{'' if skipped == 1 else 's'} found and skipped"
    if untraced := [row.path for row in rows if not row.structure]:
        more = f" and {len(untraced) - 3} more" if len(untraced) > 3 else ""
        found += f", and {', '.join(untraced[:3])}{more} could not be traced"
    why = "; print the report for the reasons" if rows else ""
    verb = "would write" if dry_run else "wrote"
    warn(f"initialize {verb} no weight. It looked for {layers_for(names)}: {found}{why}.")
