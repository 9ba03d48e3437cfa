"""Position: learned tables of positions start as sines and cosines."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypedDict

import keras
import numpy as np
from keras.layers import Layer

from keras_mimetic._checks import AUTO, check_number, is_auto
from keras_mimetic._graph.graph import Call, Graph, walk_back
from keras_mimetic._graph.keras_internals import is_keras_class, is_tensor, own_variables
from keras_mimetic._graph.operations import does, name_of
from keras_mimetic._graph.symbol import Value
from keras_mimetic._numerics.position import explained_by_sinusoids, sin_cos_table
from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import base

# Root mean square entry of the tables of image patches, by default.
PATCHES_RMS = 0.5
SEQUENCE = "no image patches found before it: a number for `rms` writes sinusoids of a sequence"
# A table, its layer, and how many positions it is used for.
Table = tuple[keras.Variable, Layer, int]
# Rows before those of the patches: of class tokens and registers.
_MAX_PREFIX = 8


class PositionSettings(TypedDict, total=False):
    """Settings of the structure `"position"`; see `Position`."""

    rms: float | Literal["auto"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PositionSite(Site):
    """A learned table of positions; its weight is `table`.

    Attributes:
        grid: The number of positions (n,), or rows and columns of an image's patches (h, w).
        prefix: Rows of the table before these, such as that of a class token.
        added_by: The operation that adds the table, or `None` if it is unknown.
    """

    structure: ClassVar[str] = "position"

    grid: tuple[int, ...]
    prefix: int = 0
    added_by: Any = None


class Position(base.Structure):
    """Learned tables of positions start as sines and cosines.

    Found are tables that are added to a sequence or image: an `Embedding` of 0, 1, 2, ...,
    `keras_hub.layers.PositionEmbedding`, or a weight. The patches of an image get a table in
    two dimensions, half of the channels for rows and half for columns. Rows of class tokens
    keep their values.

    Settings:
        rms: Root mean square entry of the table. `"auto"` is 0.5 for the patches of an image
            (ours; `pos0.5_all` over `all` in `benchmarks/results/positions/table.md`). It keeps
            tables of other sequences, whose gain is not measured. A number applies to every
            table. Sines and cosines themselves have 0.71.

    Reference:

    - Vaswani et al., 2017, "Attention Is All You Need" (arXiv:1706.03762).
    - He et al., 2022, "Masked Autoencoders Are Scalable Vision Learners"
      (arXiv:2111.06377), for the form in two dimensions.
    - Trockman and Kolter, 2023, "Mimetic Initialization of Self-Attention Layers"
      (arXiv:2305.09828), whose Vision Transformers use such tables (secondary sources).
    """

    name = "position"
    looks_for = "learned position tables (a weight or an Embedding added to a sequence)"
    defaults: ClassVar[base.Settings] = {"rms": AUTO}
    legend = "part of a position table's energy that one sinusoid for each channel explains"
    figures = (
        base.FigureSpec(
            "table",
            "explained",
            "explained by sinusoids",
            ".2f",
            panel="position table explained by sinusoids",
            unit="part",
        ),
    )

    def check(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"rms": check_number("rms", settings["rms"], above=0, or_=(AUTO,))}

    def find(
        self, graph: Graph, layers: base.Layers, layer_paths: base.Paths
    ) -> list[PositionSite]:
        return list(_Finder(graph, layers, layer_paths).sites())

    def site_at(self, layer: Layer, layer_path: str) -> PositionSite | None:
        if is_keras_class(layer) and not isinstance(layer, keras.layers.Embedding):
            return None
        tables = [x for x in own_variables(layer) if _table_shape(x)]
        return _site(layer, layer_path, tables[0]) if len(tables) == 1 else None

    def sample(self, site: PositionSite, settings: base.Settings, seed: int) -> base.Sampled:
        shape, rms = tuple(site.weights["table"].shape), settings["rms"]
        if is_auto(rms):
            if len(site.grid) == 1:
                return base.Skip(SEQUENCE)
            rms = PATCHES_RMS
        before = values_of(site.weights["table"])
        table = _rows(before).copy()
        table[site.prefix :] = sin_cos_table(site.grid, table.shape[1], rms)
        grid = " by ".join(map(str, site.grid))
        note = f"sines and cosines of {grid} positions"
        return base.NewWeights({"table": table.reshape(shape)}, {"table": note}, {"table": before})

    def measure(self, site: PositionSite, weights: base.Weights) -> base.Measured:
        return base.Measured((_figure(weights["table"], site.grid, site.prefix),))

    def expected(self, site: PositionSite, shapes: base.Shapes) -> base.Expected:
        return _expected(shapes["table"], site.grid, site.prefix)


def _figure(table: np.ndarray, grid: tuple[int, ...], prefix: int) -> base.Figure:
    return base.Figure("table", "explained", explained_by_sinusoids(_rows(table)[prefix:], grid))


@functools.lru_cache(maxsize=256)
def _expected(shape: tuple[int, ...], grid: tuple[int, ...], prefix: int) -> base.Expected:
    """Return the figure of untrained tables, which has no closed form."""
    return base.figures_of_normals(lambda w: (_figure(w["table"], grid, prefix),), {"table": shape})


class _Finder:
    """Looks for additions of a table to a sequence."""

    def __init__(self, graph: Graph, layers: base.Layers, layer_paths: base.Paths) -> None:
        self._graph, self._layer_paths = graph, layer_paths
        self._owners = [
            (variable, layer)
            for layer in layers
            for variable in own_variables(layer)
            if _table_shape(variable)
        ]
        # Values of tables that flow, with the number of positions.
        self._tables: dict[Value, Table] = {}

    def sites(self) -> Iterator[PositionSite]:
        found = set()
        for call in self._graph.calls:
            self._follow(call)
            if name_of(call.operation) != "Add":
                continue
            given = keras.tree.flatten((call.args, call.kwargs))
            streams = [x for x in given if self._is_stream(x)]
            for other in given:
                # Of several, as tokens and segments, one is enough.
                for stream in streams:
                    table = None if other is stream else self._table(other, stream.shape)
                    if table is None or id(table[0]) in found:
                        continue
                    variable, layer, used = table
                    found.add(id(variable))
                    grid = _grid(stream, used) if used == _length(variable) else None
                    path = self._layer_paths[layer]
                    site = _site(layer, path, variable, grid)
                    yield dataclasses.replace(site, added_by=call.operation)

    def _is_stream(self, x: Any) -> bool:
        return isinstance(x, Value) and x.constant is None and x not in self._tables

    def _follow(self, call: Call) -> None:
        """Follow a table from an `Embedding` of 0, 1, 2, ... to where it is added."""
        layer = call.operation
        if isinstance(layer, keras.layers.Embedding) and len(call.inputs) == 1:
            tokens = call.inputs[0].constant
            used = None if tokens is None else _counted(tokens)
            if used and layer in self._layer_paths:
                self._tables[call.outputs[0]] = layer.embeddings, layer, used
        elif does(layer, "copy", "move", "slice") and len(call.inputs) == 1:
            table = self._tables.get(call.inputs[0])
            if table is not None:
                self._tables |= dict.fromkeys(call.outputs, table)

    def _table(self, x: Any, shape: tuple[int | None, ...]) -> Table | None:
        """Return the table that a summand is, its layer and the number of positions."""
        if isinstance(x, Value):
            if x in self._tables:
                table = self._tables[x]
                return table if shape[-2:][:1] in ((table[2],), (None,)) else None
            x = x.constant
        is_weight = isinstance(x, keras.Variable)
        if x is None or not (is_weight or is_tensor(x)) or len(x.shape) < 2:
            return None
        sizes = tuple(x.shape)
        if sizes[-1] != shape[-1] or len(sizes) > len(shape) or 1 in sizes[-2:]:
            return None
        pairs = zip(sizes[::-1], shape[::-1], strict=False)
        fits = all(size in (1, other) or other is None for size, other in pairs)
        return self._same_as(x) if fits else None

    def _same_as(self, x: keras.Variable) -> Table | None:
        """Find the weight whose values a tensor has; the code may have sliced or broadcast it."""
        for variable, layer in self._owners:
            if variable is x:
                return variable, layer, _length(variable)
        given = None
        for variable, layer in self._owners:
            if variable.shape[-1] != x.shape[-1]:
                continue
            if given is None:
                given = values_of(x)
                rank = 3 if len(x.shape) == 4 else 2
                given = _rows(given[(0,) * (given.ndim - rank)])
            if len(given) <= _length(variable) and np.array_equal(
                _rows(values_of(variable))[: len(given)], given
            ):
                return variable, layer, len(given)
        return None


def _site(
    layer: Layer, layer_path: str, variable: keras.Variable, grid: tuple[int, ...] | None = None
) -> PositionSite:
    shape = _table_shape(variable)
    grid = grid or shape[:-1]
    prefix = math.prod(shape[:-1]) - math.prod(grid)
    return PositionSite(
        layer_path=layer_path, layer=layer, weights={"table": variable}, grid=grid, prefix=prefix
    )


def _table_shape(variable: keras.Variable) -> tuple[int, ...]:
    """Return the shape (n, width) or (h, w, width) of a table without axes of 1, or ()."""
    shape = tuple(variable.shape)
    while shape and shape[0] == 1:
        shape = shape[1:]
    is_float = keras.backend.is_float_dtype(variable.dtype)
    return shape if is_float and len(shape) in (2, 3) and min(shape) > 1 else ()


def _length(variable: keras.Variable) -> int:
    return math.prod(_table_shape(variable)[:-1])


def _rows(table: np.ndarray) -> np.ndarray:
    return table.reshape(-1, table.shape[-1])


def _counted(tokens: Any) -> int | None:
    """Return n if integers are 0, 1, ..., n - 1 on the last axis, or `None`."""
    numbers = values_of(tokens)
    n = numbers.shape[-1] if numbers.ndim else 0
    counts = n > 1 and np.array_equal(numbers, np.broadcast_to(np.arange(n), numbers.shape))
    return n if counts else None


def _grid(stream: Value, length: int) -> tuple[int, ...] | None:
    """Return rows and columns of the patches that a sequence is made of, or `None`."""
    for value in walk_back(stream, lambda call: call.inputs):
        shape = value.shape
        if len(shape) < 4:
            continue
        # Channels last or first, and (batch, rows, columns, ...) of patches cut by reshaping.
        for rows, columns in (shape[1:3], shape[2:4]) if len(shape) == 4 else (shape[1:3],):
            if rows and columns and 0 <= length - rows * columns <= _MAX_PREFIX:
                return rows, columns
    return None
