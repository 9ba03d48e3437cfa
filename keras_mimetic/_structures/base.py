"""The interface of a structure to `initialize` and `measure`."""

import abc
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_mimetic._graph.graph import Graph
from keras_mimetic._numerics.random import fold_in, sample
from keras_mimetic._numerics.stats import array_norm, mean_and_std
from keras_mimetic._patterns.site import Site

# Images show at most this many channels of a product.
MAX_IMAGE_CHANNELS = 64

# Values and shapes of the variables of a site, by role.
Weights = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
Settings = Mapping[str, Any]
# Layers of a model, and the path of each in the model.
Layers = list[keras.layers.Layer]
Paths = dict[keras.layers.Layer, str]
# The kind of a figure: part, name, and whether there is one per head.
Kind = tuple[str, str, bool]
# Mean and standard deviation of figures of untrained weights, by kind; `None` if not finite.
Expected = Mapping[Kind, tuple[float, float] | None]


@dataclasses.dataclass(frozen=True)
class FigureSpec:
    """A figure that a structure measures, and its presentation in tables and plots.

    Attributes:
        part: The part of the site that it describes, such as `"first"` (matrix).
        name: Name of the figure, such as `"mean"`.
        heading: Heading of its column in tables; "" for no column. For figures by head,
            the column has the mean over heads and their range.
        format_spec: Format of its values in tables.
        by_head: Whether there is one value per head.
        panel: Title of its panel in plots; "" for no panel.
        unit: Unit on the axis of the panel.
        error_bars: Name of another figure of the part to plot as error bars.
    """

    part: str
    name: str
    heading: str = ""
    format_spec: str = "+.3f"
    by_head: bool = False
    panel: str = ""
    unit: str = ""
    error_bars: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """The value of one figure of a site; NaN if it is undefined."""

    part: str
    name: str
    value: float
    head: int | None = None

    @property
    def kind(self) -> Kind:
        return self.part, self.name, self.head is not None


@dataclasses.dataclass(frozen=True)
class Measured:
    """The figures of a site, and matrices to plot as images, by part."""

    figures: tuple[Figure, ...] = ()
    images: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    # Why there are no figures.
    reason: str = "its shapes allow none of the figures"


@dataclasses.dataclass(frozen=True)
class NewWeights:
    """Structured weights of a site, and a note for the report about each, by role."""

    values: Weights
    notes: Mapping[str, str]
    # Values before, where `sample` has read them.
    before: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Skip:
    """The reason to skip a site with the given settings."""

    reason: str


Sampled = NewWeights | Skip


class Structure(abc.ABC):
    """A structure: where it belongs, how to sample it, and how to measure it.

    Its class has two halves: `initialize` uses *write*, and `measure` uses *read* on the sites
    that `find` returns.

    Attributes:
        name: Name of the structure, as in arguments of the API.
        by_default: Whether `initialize` writes it by default.
        looks_for: Short description of the layers that it is for.
        compound_layers: Classes of layers that own the weights of their sublayers.
        defaults: Settings with their defaults, which the docstring of the class documents.
        figures: The figures that it measures, in the order of the table.
        legend: Explanation of the printed figures, in one sentence.
        images: Titles of the images that `measure` returns, by part.
    """

    # --- Write ---

    name: ClassVar[str]
    by_default: ClassVar[bool] = True
    looks_for: ClassVar[str]
    compound_layers: ClassVar[tuple[type, ...]] = ()
    defaults: ClassVar[Settings]

    @abc.abstractmethod
    def check(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Validate and return all settings.

        Raises:
            TypeError: for a setting of the wrong type.
            ValueError: for a value that is not allowed.
        """

    @abc.abstractmethod
    def find(self, graph: Graph, layers: Layers, layer_paths: Paths) -> Sequence[Site]:
        """Find the sites in a traced model, in any order."""

    @abc.abstractmethod
    def site_at(self, layer: keras.layers.Layer, layer_path: str) -> Site | None:
        """Return the site of a layer that a rule matches, or `None` for an unsuitable layer."""

    @abc.abstractmethod
    def sample(self, site: Any, settings: Settings, seed: int) -> Sampled:
        """Sample structured weights of a site, as a function of the seed."""

    def control(self, site: Any, weights: Weights, seed: int) -> Weights:
        """Return weights without structure, with the norms of those that `sample` returned."""
        return noise_with_norms_of(weights, seed)

    # --- Read ---

    figures: ClassVar[tuple[FigureSpec, ...]]
    legend: ClassVar[str]
    images: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def measure(self, site: Any, weights: Weights) -> Measured:
        """Return the figures of a site, from the values of all its variables."""

    def expected(self, site: Any, shapes: Shapes) -> Expected:
        """Return mean and standard deviation of figures over untrained weights of any scale.

        Other figures are not compared with untrained weights.
        """
        return {}


def figures(part: str, head: int | None = None, **values: float) -> list[Figure]:
    """Return figures of one part by name."""
    return [Figure(part, name, value, head) for name, value in values.items()]


def normal_samples(shapes: Shapes, seed: int) -> Weights:
    """Sample independent normals of variance 1 for each role."""
    return {
        role: sample("untruncated_normal", shape, fold_in(seed, number))
        for number, (role, shape) in enumerate(shapes.items())
    }


def figures_of_normals(
    figures: Callable[[Weights], Iterable[Figure]], shapes: Shapes
) -> dict[Kind, tuple[float, float]]:
    """Return mean and standard deviation of figures over 10 to 100 samples, always the same."""
    # Fewer of large weights.
    count = min(max(2**24 // sum(map(math.prod, shapes.values())), 10), 100)
    values: dict[Kind, list[float]] = {}
    for number in range(count):
        for figure in figures(normal_samples(shapes, fold_in(0, number))):
            values.setdefault(figure.kind, []).append(figure.value)
    return {kind: mean_and_std(found) for kind, found in values.items()}


def noise_with_norms_of(weights: Weights, seed: int) -> Weights:
    """Sample independent normals with the Frobenius norms of weights, by role."""
    noise = normal_samples({role: values.shape for role, values in weights.items()}, seed)
    return {
        role: values * np.float32(array_norm(weights[role]) / array_norm(values))
        for role, values in noise.items()
    }
