"""The structure of MLPs: a first matrix of nonzero mean, and a negative hidden bias."""

import functools
from typing import Any, ClassVar, Literal, TypedDict

import keras
import numpy as np

from keras_mimetic._checks import AUTO, check_number, is_auto
from keras_mimetic._graph.graph import Graph
from keras_mimetic._graph.operations import is_projection
from keras_mimetic._numerics import mlp
from keras_mimetic._numerics.random import fold_in
from keras_mimetic._numerics.stats import mean_and_std
from keras_mimetic._patterns.kernels import Part, rounded_to, values_of
from keras_mimetic._patterns.mlp import MLPSite, find_mlps, mlp_site
from keras_mimetic._patterns.mlp_match import INNER_NORM, WITH_DEPTHWISE
from keras_mimetic._structures import base


class MLPSettings(TypedDict, total=False):
    """Settings of the structure `"mlp"`; see `MLP`."""

    mean: float | Literal["auto"] | None
    hidden_bias: float | Literal["auto"] | None


_BEFORE = {
    "layer_norm": "after LayerNorm",
    "batch_norm": "after BatchNorm",
    "normalized_activation": "after a norm of activations",
    "other": "no LayerNorm or BatchNorm directly before",
}
# Parts of the figures, by role.
_MATRICES = {"first": "kernel", "second": "second"}


class MLP(base.Structure):
    """A nonzero mean of the first matrix of an MLP, and a negative hidden bias.

    Settings:
        mean: Mean of the first kernel, in standard deviations of the kernel. `"auto"` is -1
            directly after an untrained LayerNormalization over the channels,
            `-0.5 / sqrt(fan_in)` elsewhere, and `None` after a normalized activation. A
            number applies to every MLP, and to the gate of a gated one; `None` keeps the
            kernels. The nonzero mean is the
            paper's idea; we chose its sign and size (`mean-1_bias-0.5` in
            `benchmarks/results/defaults/table.md`, `shift-0.5` in
            `benchmarks/results/plain-mlp/table.md`).
        hidden_bias: Initial bias of the first projection, in standard deviations of the
            pre-activation. `"auto"` is -0.5 after a LayerNormalization (`bias-0.5` in
            `benchmarks/results/defaults/over-spatial.md`) or BatchNormalization (`bias-0.5` in
            `benchmarks/results/confirm-mlp/table.md`), and `None` elsewhere
            (`shift-0.5_bias-0.5` in `benchmarks/results/plain-mlp/table.md`). A number applies to
            every MLP, as `mean` does; `None` keeps the biases. The hidden bias is our addition.

    A LayerNormalization or BatchNormalization directly before the activation cancels the mean
    and bias of the first projection. Its beta, in units of its gamma, is then the hidden
    bias, and the kernel is kept.

    Reference:

    - Trockman and Kolter, 2026, "Mimetic Initialization of MLPs" (arXiv:2602.07156).
    """

    name = "mlp"
    looks_for = "MLPs (a projection, an activation, a projection)"
    defaults: ClassVar[base.Settings] = {"mean": AUTO, "hidden_bias": AUTO}
    legend = (
        "mean of the first and second matrix in standard deviations, and its z; energy of the "
        "first that is shared by all inputs and by all hidden units, in multiples of chance; "
        "effective hidden bias in pre-activation standard deviations, mean over units"
    )
    figures = (
        base.FigureSpec(
            "first",
            "mean",
            "mean 1st",
            panel="mean of the first matrix",
            unit="standard deviations",
        ),
        base.FigureSpec("first", "z", "z", "+.1f"),
        base.FigureSpec("first", "energy_over_inputs", "shared, inputs", ".2f"),
        base.FigureSpec(
            "first",
            "energy_over_outputs",
            "shared, hidden units",
            ".2f",
            panel="energy shared by all hidden units",
            unit="multiples of chance",
        ),
        base.FigureSpec("second", "mean", "mean 2nd"),
        base.FigureSpec("second", "z", "z", "+.1f"),
        base.FigureSpec("second", "energy_over_inputs"),
        base.FigureSpec("second", "energy_over_outputs"),
        base.FigureSpec(
            "hidden_bias",
            "mean",
            "hidden bias",
            "+.2f",
            panel="effective hidden bias (bars: over units)",
            unit="pre-activation standard deviations",
            error_bars="std",
        ),
        base.FigureSpec("hidden_bias", "std"),
    )

    def check(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {name: check_number(name, x, or_=(AUTO, None)) for name, x in settings.items()}

    def find(self, graph: Graph, layers: base.Layers, layer_paths: base.Paths) -> list[MLPSite]:
        return find_mlps(graph, layer_paths)

    def site_at(self, layer: keras.layers.Layer, layer_path: str) -> MLPSite | None:
        return mlp_site(layer, layer_path) if is_projection(layer) else None

    def sample(self, site: MLPSite, settings: base.Settings, seed: int) -> base.Sampled:
        """Shift the current kernel, and set the bias according to the scale of the kernel."""
        if site.inner_norm is not None:
            return _sample_inner(site, settings)
        mean, hidden_bias = _strengths(site, settings)
        where, asked = _describe_input(site), settings["hidden_bias"]
        no_bias = ""
        if site.bias is None and asked is not None and not is_auto(asked):
            no_bias = f"no bias for a hidden bias of {asked:+g}"
        if settings["mean"] is None and asked is None:
            return base.Skip("`mean` and `hidden_bias` are None")
        if mean is None and hidden_bias is None:
            number = f"{where}: set `mean` or `hidden_bias` to a number to write this MLP"
            return base.Skip(no_bias or site.default_skip or number)
        kernel = before = values_of(site.weights["kernel"])
        if np.ptp(kernel) == 0:
            return base.Skip("all values of the kernel are equal, so its standard deviation is 0")
        values: base.Weights = {}
        notes = {}
        if mean is not None:
            dtype = site.weights["kernel"].dtype
            rounded = None if dtype == "float32" else functools.partial(rounded_to, dtype)
            kernel = values["kernel"] = mlp.shifted_to_mean(kernel, mean, rounded)
            notes["kernel"] = "; ".join(filter(None, [f"mean {mean:+.3g} ({where})", no_bias]))
        if hidden_bias is not None:
            # After a LayerNorm, whose output sums to zero, the mean has no effect.
            sums_to_zero = site.before == "layer_norm"
            spread = kernel.std() if sums_to_zero else np.sqrt(np.mean(kernel**2))
            start = mlp.bias_start(hidden_bias, float(spread), kernel.shape[-2], mean=0.0)
            values["bias"] = np.full(tuple(site.bias.shape), start, np.float32)
            notes["bias"] = f"hidden bias {hidden_bias:+.4g} ({where})"
        return base.NewWeights(values, notes, {"kernel": before})

    def control(self, site: MLPSite, weights: base.Weights, seed: int) -> base.Weights:
        """Give means and biases a random sign for each value."""
        controls, scale = {}, 1.0
        for number, (role, values) in enumerate(weights.items()):
            if role == "kernel":
                # The same signs for every seed, so that they do not add up.
                signs = mlp.random_signs(values.shape, fold_in(0, *site.layer_path.encode()))
                controls[role], scale = mlp.with_signs_in_mean(values, signs)
            else:
                signs = mlp.random_signs(values.shape, fold_in(seed, number))
                controls[role] = np.float32(scale) * signs * values
        return controls

    def measure(self, site: MLPSite, weights: base.Weights) -> base.Measured:
        figures = []
        for part, role in _MATRICES.items():
            if role in weights:
                matrix = _matrix(weights[role])
                mean, z = mlp.standardized_mean(matrix)
                figures += base.figures(
                    part,
                    mean=mean,
                    z=z,
                    energy_over_inputs=mlp.energy_of_ones(matrix, axis=0),
                    energy_over_outputs=mlp.energy_of_ones(matrix, axis=1),
                )
        biases = _hidden_biases(site, weights)
        if biases is not None:
            # The bias of a dead unit is undefined.
            mean, std = mean_and_std(biases)
            figures += base.figures("hidden_bias", mean=mean, std=std)
        return base.Measured(tuple(figures))

    def expected(self, site: MLPSite, shapes: base.Shapes) -> base.Expected:
        # Untrained biases and offsets are zero.
        known = {("hidden_bias", name, False): (0.0, 0.0) for name in ("mean", "std")}
        for part, role in _MATRICES.items():
            if role in shapes:
                figures = mlp.expected_of_normals(*shapes[role][-2:])
                known |= {(part, name, False): pair for name, pair in figures.items()}
        return known


def _describe_input(site: MLPSite) -> str:
    """Return what stands before an MLP, for the report."""
    trained = site.before == "other" and site.norm is not None
    before = "after a trained LayerNorm" if trained else _BEFORE[site.before]
    return f"{before}; gate part" if isinstance(site.weights["kernel"], Part) else before


def _sample_inner(site: MLPSite, settings: base.Settings) -> base.Sampled:
    """Set the beta of the norm before the activation, in units of its gamma."""
    hidden_bias = settings["hidden_bias"]
    if hidden_bias is None:
        return base.Skip(INNER_NORM)
    start = mlp.HIDDEN_BIAS if is_auto(hidden_bias) else hidden_bias
    beta = np.full(tuple(site.inner_norm.beta.shape), start, np.float32)
    if site.inner_norm.gamma is not None:
        beta *= np.abs(values_of(site.inner_norm.gamma))
    note = f"hidden bias {start:+.4g} (beta of the norm before its activation)"
    return base.NewWeights({"inner_beta": beta}, {"inner_beta": note})


def _hidden_biases(site: MLPSite, weights: base.Weights) -> np.ndarray | None:
    """Return the effective bias of each hidden unit, or `None` without a norm."""
    if site.inner_norm is not None:
        beta = weights["inner_beta"]
        gamma = np.abs(weights.get("inner_gamma", np.ones_like(beta)))
        return np.divide(beta, gamma, out=np.full_like(beta, np.nan), where=gamma > 0)
    if site.norm is None or site.skip_reason in (INNER_NORM, WITH_DEPTHWISE):
        return None
    return mlp.effective_bias(
        _matrix(weights["kernel"]),
        weights["bias"].ravel() if "bias" in weights else None,
        weights.get("gamma"),
        weights.get("beta"),
        centered=isinstance(site.norm, keras.layers.LayerNormalization),
    )


def _strengths(site: MLPSite, settings: base.Settings) -> tuple[float | None, float | None]:
    """Return mean and hidden bias for a site; `None` for weights that are kept."""
    mean, hidden_bias = settings["mean"], settings["hidden_bias"]
    if is_auto(mean):
        fan_in = site.weights["kernel"].shape[-2]
        mean = None if site.default_skip else mlp.auto_mean(site.before, fan_in)
    if is_auto(hidden_bias):
        hidden_bias = None if site.default_skip else mlp.auto_hidden_bias(site.before)
    return mean, None if site.bias is None else hidden_bias


def _matrix(kernel: np.ndarray) -> np.ndarray:
    """Return the kernel of a projection or a 1x1 convolution as a matrix."""
    return kernel.reshape(kernel.shape[-2:])
