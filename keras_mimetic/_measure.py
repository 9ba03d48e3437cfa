"""Sees the structures of mimetic initialization in any model's weights."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_mimetic._cache import BoundedCache
from keras_mimetic._dead_units import check_data, dead_units
from keras_mimetic._find import check_model, check_names, find_sites, path_of
from keras_mimetic._measurements import Measurement, Measurements, Skipped
from keras_mimetic._numerics.random import fold_in
from keras_mimetic._numerics.stats import mean_and_std
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import STRUCTURES, StructureName
from keras_mimetic._structures.base import Figure, Kind, Measured, Reading, Shapes

# Fresh weights to compare with, always the same: so many draws, fewer of large ones.
_DRAWS = (10, 100)
_VALUES = 2**24
_FRESH_SEED = 0


@dataclasses.dataclass(frozen=True)
class _Untrained:
    """A kind of figure in fresh weights; `values` of all draws, if there are any."""

    mean: float
    std: float
    values: tuple[float, ...] = ()


def measure(
    model: Any,
    structures: StructureName | Iterable[StructureName] | None = None,
    rules: Any = None,
    inputs: Any = None,
    data: Any = None,
) -> Measurements:
    r"""Measures the structures of mimetic initialization in a model's weights.

    It looks at the places that `initialize` finds (and at gated MLPs, too), and
    compares every figure with what fresh weights of the same shapes give: mean
    and standard deviation for independent normals (Keras's uniform ones give the same),
    in closed form or, for depthwise filters and small matrices, over 10 to 100 draws,
    which are kept for the next call. All figures but dead units are of the weights alone and
    need no data, and the model is left as it is. They are these; all but `noise`,
    `identity`, sigma, decays and steps do not depend on the scale of the weights.

    `"mlp"`, for each of its two matrices (parts `"first"`, `"second"`):

    - `mean`: in standard deviations of the matrix's entries, as in `MimeticMean`;
    - `z`: the mean in its standard errors, with the means of input channels for
      independent draws: in trained networks the weights of one channel are not
      independent, and a z of all weights would overstate;
    - `energy_over_inputs`, `energy_over_outputs` (of the first matrix these are
      the hidden units): the part of the squared Frobenius norm that is alike for
      all of them, in multiples of that of a random direction, so that fresh
      weights have 1; at most the number of inputs, or outputs;

    and directly behind a LayerNorm or BatchNorm (part `"hidden_bias"`):

    - `mean`, `deviation`: over hidden units, of the effective bias b + W^T beta
      in standard deviations of the unit's pre-activation. The normalized
      channels are taken for independent, which they are but roughly.

    and with `data` (part `"hidden_units"`):

    - `dead`: fraction of the hidden units that are off for all of the data. A unit is
      off where its activation is less than 1 % of its pre-activation in size. It is
      there for MLPs whose activation is seen by itself, without a normalization before
      the second matrix.

    `"attention"`, of W_Q W_K^T in every head (part `"query_key"`), and of W_V W_O
    in every head and, with head `None`, summed over the heads (`"value_output"`):

    - `diagonal`: mean of the diagonal, in standard deviations of the entries off
      it. For products of equal noise and identity it grows with the square
      root of the width;
    - `noise`, `identity`: the two numbers with which `MimeticMultiHeadAttention`
      would draw products of the same trace and norm; absolute. Not of single
      heads' W_V W_O.

    `"depthwise"`, of the covariance of the layer's filters about their mean (part
    `"kernel"`):

    - `sigma`: of the closed form nearest to it, in squared pixels (see
      `MimeticDepthwise`);
    - `explained`: the part of its squared Frobenius norm that this form explains,
      at most 1. Where it is no higher than that of fresh weights, sigma says
      nothing; filters of 3x3 pixels have 0.6 by chance;
    - `explained_uncentered`: the part that exp(-|i - j|^2 / (2 sigma)) explains at its
      best sigma, for noise (sigma near 0) or filters that are smooth and no more.
      Where it is higher than `explained`, they are not centered as the closed form is.

    `"state_space"`, of every head (part `"decay"`):

    - `a_log`, `step`: logarithm of the decay, and the step where the projection adds
      nothing; absolute, and not compared with fresh weights;
    - `memory`: the number of places after which 1/e of the state is left, with them;

    of every group of heads (part `"state"`, the group's number as `head`):

    - `correlation`: of the weights of c with those of b (their cosine);
    - `diagonal`: of W_c W_b^T, as for "attention";

    and of the convolution (part `"convolution"`):

    - `present`: the part of the filters' energy that is in their last taps.

    Figures are NaN where they are not defined, as the mean of a matrix of zeros.

    Examples:

    >>> measured = keras_mimetic.measure(keras.saving.load_model("trained.keras"))
    >>> print(measured)
    >>> measured.plot().savefig("convnext.png")
    >>> [row.value for row in measured.select(part="first", figure="mean")]
    >>> print(keras_mimetic.measure(model, data=images[:256]))  # with dead units

    Args:
        model: A built Keras model or layer. With LoRA, the merged weights count.
        structures: Names of structures, `"mlp"`, `"attention"`, `"depthwise"`,
            `"state_space"`.
        rules: What the finder cannot know, as for `initialize`.
        inputs: The same.
        data: A batch of inputs, on which the model is run once as in inference, to
            count dead hidden units: an array or what else the model takes as its
            first argument, or a tuple of several arguments. `None` measures the
            weights alone.

    Returns:
        `Measurements`, which print as a table and have `rows`, `to_dicts()`,
        `to_csv()`, `plot()`, and `settings()` to initialize another model like
        this one (see `mimic`). Empty, and saying so, for a model without any of
        these layers.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value that is not allowed; for a model that is not
            built, has no weights or is quantized; for `data` that the model does not
            take.

    Reference: the papers named by `MimeticMean`, `MimeticMultiHeadAttention`,
    `MimeticDepthwise` and `MimeticStateSpace`, which look at trained weights like
    this; the definitions of these figures are ours.
    """
    if isinstance(structures, Mapping):
        raise TypeError(
            "Argument `structures` must be names of structures; measuring takes no settings. "
            f"Received: structures={structures!r}"
        )
    names = check_names(structures)
    check_model("model", model)
    if data is not None:
        check_data(model, data)
    found = find_sites(model, names, rules, inputs)
    dead = {} if data is None else dead_units(model, found.sites, data)
    rows: list[Measurement] = []
    skipped: list[Skipped] = []
    images: dict[tuple[str, str, str], np.ndarray] = {}
    readings: dict[str, list[Reading]] = {name: [] for name in names}
    for site in found.sites:
        measured, why = measure_site(site)
        if why:
            skipped.append(Skipped(path_of(site.layer), site.layer_path, site.structure, why))
            continue
        fresh = _untrained(site, measured.figures)
        figures = [*measured.figures, *dead_figures(site, dead)]
        rows += [_row(site, figure, fresh.get(figure.kind)) for figure in figures]
        images |= {
            (site.structure, site.layer_path, part): x for part, x in measured.images.items()
        }
        if not site.skip_reason:
            values = _by_name(measured.figures)
            drawn: dict[tuple[str, str], list[float]] = {}
            for (part, name, _), known in fresh.items():
                drawn.setdefault((part, name), []).extend(known.values)
            readings[site.structure].append(Reading(site, values, drawn))
    for layer, layer_path, why in found.opaque:
        skipped.append(Skipped(path_of(layer), layer_path, "", f"could not be followed: {why}"))
    for name in names:
        STRUCTURES[name].clear_caches()
    settings = {
        name: STRUCTURES[name].fit_settings(readings[name]) for name in names if readings[name]
    }
    return Measurements(
        rows=tuple(rows),
        skipped=tuple(skipped),
        images=images,
        _settings={name: values for name, values in settings.items() if values},
    )


def dead_figures(site: Site, dead: Mapping[str, float]) -> list[Figure]:
    """The fraction of dead units as a figure of a site, if it was counted."""
    if site.structure != "mlp" or site.layer_path not in dead:
        return []
    return [Figure("hidden_units", "dead", dead[site.layer_path])]


def measure_site(site: Site) -> tuple[Measured, str]:
    """The figures of a site, or why there are none."""
    nothing = Measured()
    if site.by_rule or not site.weights:
        return nothing, site.skip_reason
    weights = {role: values_of(variable) for role, variable in site.variables.items()}
    broken = [role for role, values in weights.items() if not np.isfinite(values).all()]
    if broken:
        return nothing, f"holds values that are not finite ({', '.join(broken)})"
    measured = STRUCTURES[site.structure].measure(site, weights)
    if not measured.figures:
        return nothing, site.skip_reason or "its shapes allow none of the figures"
    return measured, ""


# Figures of all draws by kind, of the sites that were looked at last.
_sampled: BoundedCache[dict[Kind, tuple[float, ...]]] = BoundedCache(limit=256)


def _untrained(site: Site, figures: Iterable[Figure]) -> dict[Kind, _Untrained]:
    """What fresh weights of the shapes of a site give, in closed form or in draws."""
    entry = STRUCTURES[site.structure]
    shapes = {role: tuple(variable.shape) for role, variable in site.variables.items()}
    fresh = {kind: _Untrained(*pair) for kind, pair in entry.expected(site, shapes).items()}
    if not {figure.kind for figure in figures if figure.kind in _compared(site)} - fresh.keys():
        return fresh
    depends_on = entry.untrained_key(site)
    if depends_on is None:
        drawn = _sample_figures(site, shapes)
    else:
        key = site.structure, tuple(shapes.items()), depends_on
        drawn = _sampled.get(key, lambda: _sample_figures(site, shapes))
    by_draws = {kind: _Untrained(*mean_and_std(x), x) for kind, x in drawn.items()}
    return by_draws | fresh


def _sample_figures(site: Site, shapes: Shapes) -> dict[Kind, tuple[float, ...]]:
    """The figures of draws of fresh weights, by kind: heads are alike when they are fresh."""
    entry = STRUCTURES[site.structure]
    size = sum(math.prod(shape) for shape in shapes.values())
    compared = _compared(site)
    values: dict[Kind, list[float]] = {}
    for number in range(min(max(_VALUES // size, _DRAWS[0]), _DRAWS[1])):
        weights = entry.untrained(shapes, fold_in(_FRESH_SEED, number))
        for figure in entry.measure(site, weights).figures:
            if figure.kind in compared:
                values.setdefault(figure.kind, []).append(figure.value)
    return {kind: tuple(found) for kind, found in values.items()}


def _compared(site: Site) -> set[Kind]:
    """Return the kinds of figures that are compared with untrained weights."""
    specs = STRUCTURES[site.structure].figures
    return {spec.kind for spec in specs if spec.compare_to_untrained}


def _by_name(figures: Iterable[Figure]) -> dict[tuple[str, str], list[float]]:
    values: dict[tuple[str, str], list[float]] = {}
    for figure in figures:
        values.setdefault((figure.part, figure.name), []).append(figure.value)
    return values


def _row(site: Site, figure: Figure, untrained: _Untrained | None) -> Measurement:
    return Measurement(
        structure=site.structure,
        path=path_of(site.layer),
        layer_path=site.layer_path,
        part=figure.part,
        head=figure.head,
        figure=figure.name,
        value=figure.value,
        untrained_mean=untrained.mean if untrained else None,
        untrained_std=untrained.std if untrained else None,
        note=site.skip_reason,
    )
