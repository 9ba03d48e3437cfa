"""State space: near-zero decay, unit dt, C correlated with B, optional identity convolution."""

import dataclasses
import math
from typing import Any, ClassVar, Literal, TypedDict

import keras
import numpy as np

from keras_mimetic._checks import check_choice, check_number
from keras_mimetic._graph.graph import Graph
from keras_mimetic._numerics import state_space
from keras_mimetic._numerics.mlp import expected_part
from keras_mimetic._numerics.products import diagonal, expected_diagonal
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import base
from keras_mimetic.layers.state_space import MimeticStateSpace


class StateSpaceSettings(TypedDict, total=False):
    """Settings of the structure `"state_space"`; see `StateSpace`."""

    a_log: float | None
    dt: float | None
    correlation: float | None
    convolution: Literal["identity"] | None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StateSpaceSite(Site):
    """A `MimeticStateSpace`, with the weights that its structure is about."""

    structure: ClassVar[str] = "state_space"


class StateSpace(base.Structure):
    """`MimeticStateSpace` layers are drawn as that layer's defaults are.

    Settings:
        a_log: Logarithm of the decay rate, -8 from secondary sources (`decay` and
            `mimetic` in `benchmarks/results/recall/table.md`); `None` leaves it as it is.
        dt: The step size, 1 from secondary sources; `None` leaves it as it is,
            dependent on the token as in Mamba-2.
        correlation: Correlation of the weights of C with those of B, 0.9 (ours); `None` with
            `dt=None` leaves the projection as it is.
        convolution: `"identity"` (from secondary sources) starts the convolution
            as the identity; `None` (ours) leaves it as it is (`mimetic` and `recipe` in
            `benchmarks/results/recall/table.md`).

    Reference: that of `MimeticStateSpace`.
    """

    name = "state_space"
    looks_for = "MimeticStateSpace layers"
    defaults: ClassVar[base.Settings] = {
        "a_log": state_space.A_LOG,
        "dt": state_space.DT,
        "correlation": state_space.CORRELATION,
        "convolution": None,
    }
    compound_layers = (MimeticStateSpace,)
    legend = (
        "logarithm of the decay rate, dt, and positions after which 1/e of the state is left, mean "
        "over heads [range]; correlation of the weights of C with those of B, and the diagonal of "
        "their product in standard deviations of the entries off it, by group; energy of the "
        "convolutions' last taps"
    )
    figures = (
        base.FigureSpec("decay", "a_log", "log decay rate", "+.2f", by_head=True),
        base.FigureSpec("decay", "dt", "dt", ".3g", by_head=True),
        base.FigureSpec(
            "decay",
            "memory",
            "memory",
            ".3g",
            by_head=True,
            panel="memory of the state (dots: heads)",
            unit="positions",
        ),
        base.FigureSpec(
            "state",
            "correlation",
            "correlation",
            "+.2f",
            by_head=True,
            panel="correlation of C with B (dots: groups)",
        ),
        base.FigureSpec("state", "diagonal", "diagonal", "+.2f", by_head=True),
        base.FigureSpec(
            "convolution",
            "present",
            "present",
            ".2f",
            panel="energy of convolutions' last taps",
            unit="part",
        ),
    )
    images: ClassVar[dict[str, str]] = {
        "state": "products of the weights of C and B, first group, up to 64 channels"
    }

    def check(self, settings: dict[str, Any]) -> dict[str, Any]:
        if all(value is None for value in settings.values()):
            raise ValueError(
                f"One of the settings {', '.join(f'`{name}`' for name in settings)} of "
                f"'state_space' must not be None. Received: {settings}"
            )
        return {
            "a_log": check_number(
                "a_log", settings["a_log"], high=state_space.MAX_A_LOG, or_=(None,)
            ),
            "dt": check_number("dt", settings["dt"], above=0, or_=(None,)),
            "correlation": check_number(
                "correlation", settings["correlation"], low=-1, high=1, or_=(None,)
            ),
            "convolution": check_choice("convolution", settings["convolution"], ("identity", None)),
        }

    def find(
        self, graph: Graph, layers: base.Layers, layer_paths: base.Paths
    ) -> list[StateSpaceSite]:
        found = [layer for layer in layers if isinstance(layer, MimeticStateSpace) and layer.built]
        return [_site(layer, layer_paths[layer]) for layer in found]

    def site_at(self, layer: keras.layers.Layer, layer_path: str) -> StateSpaceSite | None:
        return _site(layer, layer_path) if isinstance(layer, MimeticStateSpace) else None

    def sample(self, site: StateSpaceSite, settings: base.Settings, seed: int) -> base.Sampled:
        shapes = {role: tuple(variable.shape) for role, variable in site.weights.items()}
        correlation, dt = settings["correlation"], settings["dt"]
        values: base.Weights = {}
        notes = {}
        if correlation is not None or dt is not None:
            values["in_projection"] = state_space.in_projection(
                shapes["in_projection"],
                num_heads=shapes["a_log"][0],
                bc_dim=_bc_dim(site),
                correlation=correlation or 0.0,
                input_dependent_dt=dt is None,
                seed=seed,
            )
            constant = "" if dt is None else ", constant dt"
            notes["in_projection"] = f"correlation {correlation or 0:.4g} of C with B{constant}"
        if settings["a_log"] is not None:
            values["a_log"] = state_space.log_decays(
                shapes["a_log"], a_log=settings["a_log"], seed=seed
            )
            notes["a_log"] = f"log decay rate {settings['a_log']:.4g}"
        if dt is not None:
            values["dt_bias"] = state_space.dt_biases(shapes["dt_bias"], dt=dt, seed=seed)
            notes["dt_bias"] = f"dt {dt:.4g}"
        if settings["convolution"] is not None:
            values["conv_kernel"] = state_space.conv_kernel(
                shapes["conv_kernel"], identity=True, seed=seed
            )
            values["conv_bias"] = np.zeros(shapes["conv_bias"], np.float32)
            notes |= {"conv_kernel": "identity", "conv_bias": "identity"}
        return base.NewWeights(values, notes)

    def control(self, site: StateSpaceSite, weights: base.Weights, seed: int) -> base.Weights:
        """Sample noise of the same norms; for `a_log` and `dt_bias`, Mamba-2's own."""
        controls = base.noise_with_norms_of(weights, seed)
        if "a_log" in weights:
            shape = weights["a_log"].shape
            controls["a_log"] = state_space.log_decays(shape, a_log=None, seed=seed)
        if "dt_bias" in weights:
            shape = weights["dt_bias"].shape
            controls["dt_bias"] = state_space.dt_biases(shape, dt=None, seed=seed)
        return controls

    def measure(self, site: StateSpaceSite, weights: base.Weights) -> base.Measured:
        a_log, kernel = weights["a_log"], weights["in_projection"]
        dts = np.logaddexp(0, weights["dt_bias"].astype(np.float64))
        figures = []
        for head, (log, dt) in enumerate(zip(a_log.tolist(), dts.tolist(), strict=True)):
            memory = state_space.memory(log, dt)
            figures += base.figures("decay", head, a_log=log, dt=dt, memory=memory)
        b, c = (
            np.split(kernel[:, part], site.layer.num_groups, axis=1)
            for part in state_space.parts(kernel.shape[1], len(a_log), _bc_dim(site))[:2]
        )
        for group, (of_b, of_c) in enumerate(zip(b, c, strict=True)):
            correlation = state_space.cosine(of_b, of_c)
            figures += base.figures(
                "state", group, correlation=correlation, diagonal=diagonal(of_c, of_b.T)
            )
        present = state_space.last_tap_energy(weights["conv_kernel"])
        figures += base.figures("convolution", present=present)
        first = slice(base.MAX_IMAGE_CHANNELS)
        product = c[0][first].astype(np.float64) @ b[0][first].T
        return base.Measured(tuple(figures), {"state": product})

    def expected(self, site: StateSpaceSite, shapes: base.Shapes) -> base.Expected:
        width, columns = shapes["in_projection"][0], site.layer.state_dim
        taps, channels = shapes["conv_kernel"]
        return {
            ("state", "correlation", True): (0.0, 1 / math.sqrt(width * columns)),
            ("state", "diagonal", True): expected_diagonal(width),
            ("convolution", "present", False): expected_part(channels, taps * channels),
        }


def _bc_dim(site: StateSpaceSite) -> int:
    """Return the columns of B, and of C, for all groups together."""
    return site.layer.num_groups * site.layer.state_dim


def _site(layer: keras.layers.Layer, layer_path: str) -> StateSpaceSite:
    weights = {
        "in_projection": layer.in_projection.kernel,
        "a_log": layer.a_log,
        "dt_bias": layer.dt_bias,
        "conv_kernel": layer.conv_kernel,
        "conv_bias": layer.conv_bias,
    }
    return StateSpaceSite(layer_path=layer_path, layer=layer, weights=weights)
