"""What `initialize`, `measure` and `mimic` must know about a structure."""

import abc
import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_mimetic._numerics.random import fold_in, sample
from keras_mimetic._patterns.site import Site
from keras_mimetic._tracing.graph import Graph

# Images show the first channels of a product.
MAX_IMAGE_CHANNELS = 64

# Values of a site's variables by their role, and their shapes.
Weights = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
Settings = Mapping[str, Any]
# What tells figures apart: part, name, and whether it is about one head.
Kind = tuple[str, str, bool]
# Mean and standard deviation of figures of untrained weights.
Expected = Mapping[Kind, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class FigureSpec:
    """A figure that a structure measures: how it is computed, printed and drawn.

    Attributes:
        part: What part of the site it is about, such as `"first"` (matrix).
        name: Its name, such as `"mean"`.
        heading: Heading of its column in the printed table; "" for no column. Of figures
            by head the table shows the mean over heads and their range.
        format_spec: How the table formats it.
        by_head: Whether it is about one head.
        panel: Title of its panel in the picture; "" for no panel.
        unit: Unit on the panel's axis.
        error_bars: Name of another figure of the part that is drawn as error bars.
        compare_to_untrained: Whether untrained weights of the same shapes, at whatever
            scale, give something to compare with.
    """

    part: str
    name: str
    heading: str = ""
    format_spec: str = "+.3f"
    by_head: bool = False
    panel: str = ""
    unit: str = ""
    error_bars: str = ""
    compare_to_untrained: bool = True

    @property
    def kind(self) -> Kind:
        return self.part, self.name, self.by_head


@dataclasses.dataclass(frozen=True)
class Figure:
    """The value of one figure of a site; NaN where it is not defined."""

    part: str
    name: str
    value: float
    head: int | None = None

    @property
    def kind(self) -> Kind:
        return self.part, self.name, self.head is not None


@dataclasses.dataclass(frozen=True)
class Measured:
    """The figures of a site, and matrices to look at, by their part."""

    figures: tuple[Figure, ...] = ()
    images: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class NewWeights:
    """Structured weights of a site and what to report about each, by role."""

    values: Weights
    notes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Skip:
    """Why the settings leave a site as it is."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """A site with its figures, from which settings are fitted.

    Attributes:
        site: The site.
        values: Figures by (part, name), a list for those of several heads.
        untrained: The same for all samples of untrained weights, where they are sampled.
    """

    site: Any
    values: Mapping[tuple[str, str], list[float]]
    untrained: Mapping[tuple[str, str], list[float]]


class Structure(abc.ABC):
    """One structure: where it goes, how to sample it, and how to measure it.

    A subclass describes itself by class attributes and methods. To add one, write its
    mathematics in `_numerics`, the class here, and register it in `_structures/__init__.py`.

    Attributes:
        name: Its name, as users type it.
        by_default: Whether `initialize` writes it unless told otherwise.
        looks_for: What it looks for in a model, in a few words.
        defaults: Its settings with their defaults; the class docstring documents them.
        compound_layers: Layers whose sublayers' weights belong to them.
        legend: What the printed figures are, in one sentence.
        figures: The figures it measures, in the order of the table.
        images: Titles of the images that `measure` gives, by part.
    """

    name: ClassVar[str]
    by_default: ClassVar[bool] = True
    looks_for: ClassVar[str]
    defaults: ClassVar[Settings]
    compound_layers: ClassVar[tuple[type, ...]] = ()
    legend: ClassVar[str]
    figures: ClassVar[tuple[FigureSpec, ...]]
    images: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def check(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return all settings in checked form, or raise."""

    @abc.abstractmethod
    def find(self, graph: Graph, layers: list[Any], layer_paths: dict[Any, str]) -> Sequence[Site]:
        """Find the sites in a traced model, in the order of the network."""

    @abc.abstractmethod
    def site_at(self, layer: Any, layer_path: str) -> Site | None:
        """Return the site at a layer that a rule names, or `None` if it cannot go there."""

    @abc.abstractmethod
    def sample(self, site: Any, settings: Settings, seed: int) -> NewWeights | Skip:
        """Return structured weights of a site, as a function of the seed."""

    @abc.abstractmethod
    def control(self, weights: Weights, seed: int) -> Weights:
        """Return structureless weights of the same norms, from what `sample` gave."""

    @abc.abstractmethod
    def measure(self, site: Any, weights: Weights) -> Measured:
        """Return the figures of a site, from the values of all its variables."""

    @abc.abstractmethod
    def fit_settings(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """Return settings that give a model what was measured; `{}` if nothing was."""

    def untrained(self, shapes: Shapes, seed: int) -> Weights:
        """Sample the values of all variables as in an untrained model, at any scale."""
        return normal_samples(shapes, seed)

    def expected(self, site: Any, shapes: Shapes) -> Expected:
        """Return the law of figures of untrained weights, as far as it has a closed form.

        Other figures are sampled.
        """
        return {}

    def untrained_key(self, site: Any) -> Hashable:
        """Return what the figures of untrained weights depend on besides shapes.

        Samples are kept by this key from one site to the next. `None` keeps none.
        """
        return None

    def clear_caches(self) -> None:  # noqa: B027
        """Free what is kept from one site to the next, as far as it is large."""


def normal_samples(shapes: Shapes, seed: int) -> Weights:
    """Sample independent normals of variance 1 for each role."""
    return {
        role: sample("untruncated_normal", shape, fold_in(seed, number))
        for number, (role, shape) in enumerate(shapes.items())
    }


def with_norms_of(weights: Weights, noise: Weights) -> Weights:
    """Scale noise to the Frobenius norms of weights of the same roles."""
    return {
        role: values * np.float32(np.linalg.norm(weights[role]) / np.linalg.norm(values))
        for role, values in noise.items()
    }
