"""Measure the structures of mimetic initialization in any model's weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mimetic._find import check_model, check_names, find_sites, path_of
from keras_mimetic._measurements import Measurement, Measurements, Skipped
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import STRUCTURES, Rules, StructureName
from keras_mimetic._structures.base import Figure, Measured


def measure(
    model: keras.layers.Layer,
    structures: StructureName | Sequence[StructureName] | None = None,
    rules: Rules = None,
    inputs: Any = None,
) -> Measurements:
    """Measure the structures of mimetic initialization in a model's weights.

    Measures the sites that `initialize` finds, and gated MLPs, without changing the model.
    Every figure that does not depend on the scale of the weights is compared with its mean and
    standard deviation over untrained weights of the same shapes. These are known in closed form
    or, for depthwise filters and position tables, estimated from 10 to 100 samples.

    `"mlp"`, parts `"first"` and `"second"`, the two matrices:

    - `mean`: Mean in standard deviations of the entries.
    - `z`: Mean in its standard errors, computed from the means of input channels, because
      trained weights of one channel are not independent.
    - `energy_over_inputs`, `energy_over_outputs`: Fraction of the squared Frobenius norm that
      is the same for all inputs, or all outputs, in multiples of its expectation for a random
      matrix. 1 for untrained weights, at most the number of inputs, or outputs.

    Part `"hidden_bias"`, directly after a LayerNormalization or BatchNormalization:

    - `mean`, `std`: Mean and standard deviation over hidden units of the effective bias
      b + W^T beta, in standard deviations of the pre-activation (of independent channels).

    `"attention"`, parts `"query_key"` (W_Q W_K^T of each head) and `"value_output"` (W_V W_O of
    each head and, with head `None`, summed over heads):

    - `diagonal`: Mean of the diagonal in standard deviations of the other entries. At equal
      noise and identity it grows with the square root of the width.
    - `noise`, `identity`: The coefficients with which `MimeticMultiHeadAttention` would
      sample products of the same trace and norm. Not defined for W_V W_O of single heads.

    `"depthwise"`, part `"kernel"`, the covariance of a layer's filters about their mean:

    - `sigma`: Width of the nearest closed form (see `MimeticDepthwise`), in squared pixels.
      Filters of more than 625 pixels are not measured: the time grows with their cube.
    - `explained`: Fraction of the squared norm of the covariance that this form explains.
      Where it does not exceed that of untrained weights, `sigma` is not meaningful; filters of
      3x3 pixels reach 0.6 by chance.
    - `explained_uncentered`: Fraction that a stationary covariance exp(-|i - j|^2 / (2 sigma))
      explains at its best sigma: filters that are smooth but not centered, or noise.

    `"state_space"`, part `"decay"`, for each head:

    - `a_log`, `dt`: Logarithm of the decay rate, and the step size where the projection
      contributes nothing.
    - `memory`: Number of positions after which 1/e of the state is left.

    Part `"state"`, for each group (its number is in `head`):

    - `correlation`: Cosine between the weights of C and those of B.
    - `diagonal`: Of W_C W_B^T, as for `"attention"`.

    Part `"convolution"`:

    - `present`: Fraction of the filters' energy in their last taps.

    `"position"`, part `"table"`:

    - `explained`: Fraction of the energy of a position table, less its mean over positions,
      that one sinusoid per channel explains.

    Figures that are not defined, such as the mean of a matrix of zeros, are NaN.

    Examples:

    >>> measured = keras_mimetic.measure(keras.saving.load_model("trained.keras"))
    >>> print(measured)
    >>> means = [row.value for row in measured.select(part="first", figure="mean")]
    >>> measured.plot().savefig("trained.png")

    Args:
        model: A Keras model or layer, built unless `inputs` are given. LoRA weights are merged.
        structures: Names of structures; `None` stands for those that are on by default.
        rules: Corrections to what is found, as for `initialize`.
        inputs: Example inputs, as for `initialize`.

    Returns:
        `Measurements`, which print as a table and have `rows`, `select()`, `to_dicts()`,
        `to_csv()` and `plot()`. They are empty for a model without any of these layers.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed; if the model is not built, has no weights or is
            quantized.

    Reference: the papers named by the classes in `keras_mimetic.structures` look at trained
    weights in this way. The definitions of the figures are ours.
    """
    names = check_measured_names(structures)
    check_model(model, inputs)
    found = find_sites(model, names, rules, inputs)
    rows: list[Measurement] = []
    skipped: list[Skipped] = []
    images: dict[tuple[str, str, str], np.ndarray] = {}
    for site in found.sites:
        measured, why = measure_site(site)
        if why:
            skipped.append(Skipped(path_of(site.layer), site.layer_path, site.structure, why))
            continue
        shapes = {role: tuple(variable.shape) for role, variable in site.variables.items()}
        untrained = STRUCTURES[site.structure].expected(site, shapes)
        rows += [_row(site, figure, untrained.get(figure.kind)) for figure in measured.figures]
        images |= {
            (site.structure, site.layer_path, part): x for part, x in measured.images.items()
        }
    for layer, layer_path, why in found.opaque:
        skipped.append(Skipped(path_of(layer), layer_path, "", f"could not be traced: {why}"))
    return Measurements(rows=tuple(rows), skipped=tuple(skipped), images=images)


def check_measured_names(structures: Any) -> tuple[str, ...]:
    """Return the names of structures to measure, each once; `None` stands for the default."""
    if isinstance(structures, Mapping):
        raise TypeError(
            "Argument `structures` must be names of structures; measuring takes no settings. "
            f"Received: structures={structures!r}"
        )
    return check_names(structures)


def measure_site(site: Site) -> tuple[Measured, str]:
    """Return the figures of a site, and the reason if there are none."""
    nothing = Measured()
    if site.by_rule or not site.weights:
        return nothing, site.skip_reason
    weights = {role: values_of(variable) for role, variable in site.variables.items()}
    broken = [role for role, values in weights.items() if not np.isfinite(values).all()]
    if broken:
        return nothing, f"holds values that are not finite ({', '.join(broken)})"
    measured = STRUCTURES[site.structure].measure(site, weights)
    if not measured.figures:
        return nothing, site.skip_reason or measured.reason
    return measured, ""


def _row(site: Site, figure: Figure, untrained: tuple[float, float] | None) -> Measurement:
    return Measurement(
        structure=site.structure,
        path=path_of(site.layer),
        layer_path=site.layer_path,
        part=figure.part,
        head=figure.head,
        figure=figure.name,
        value=figure.value,
        untrained_mean=untrained[0] if untrained else None,
        untrained_std=untrained[1] if untrained else None,
        note=site.skip_reason or site.default_skip,
    )
