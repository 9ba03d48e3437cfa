"""The figures of `measure`, compared with those of untrained weights."""

import csv
import dataclasses
import io
import math
import os
import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mimetic._structures import STRUCTURES
from keras_mimetic._structures.base import FigureSpec
from keras_mimetic._tables import html_table, rich_table, show

# Columns whose values are names from a fixed list.
_NAMED = {"structure", "part", "figure"}
# So many standard deviations from untrained weights get a mark in the table.
_FAR = 3


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One figure of one layer.

    Attributes:
        structure: Name of the structure.
        path: Path of the layer, `layer.path`.
        layer_path: Path of the layer in the model, as in `Report`.
        part: What part of the layer the figure describes.
        head: Number of the attention head (or state-space group), or `None`.
        figure: Name of the figure; see `measure`.
        value: The figure; NaN if it is not defined.
        untrained_mean: Its mean over untrained weights of the same shapes; `None` for
            figures that depend on the scale of the weights.
        untrained_std: Its standard deviation over untrained weights.
        note: Why `initialize` would skip this layer, or `""`.
    """

    structure: str
    path: str
    layer_path: str
    part: str
    head: int | None
    figure: str
    value: float
    untrained_mean: float | None
    untrained_std: float | None
    note: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A layer that was not measured.

    Attributes:
        path: Path of the layer.
        layer_path: Path of the layer in the model.
        structure: Name of the structure; `""` for a layer that could not be traced.
        reason: Why it was skipped.
    """

    path: str
    layer_path: str
    structure: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Measurements:
    """The result of `keras_mimetic.measure`: figures of every layer, as rows and as tables.

    `print(measured)` prints a table per structure as plain text, `measured.show()` tables that
    fit the terminal, and a notebook shows them as HTML. An asterisk marks figures more than
    three standard deviations from those of untrained weights.

    Examples:

    >>> measured = keras_mimetic.measure(model)
    >>> measured.show()
    >>> diagonals = measured.select(part="value_output", head=None, figure="diagonal")

    Attributes:
        rows: A `Measurement` for each figure, in the order of the network.
        skipped: A `Skipped` for each layer that was not measured.
        images: Matrices by (structure, layer path, part): `"query_key"`, W_Q W_K^T averaged
            over heads, and `"value_output"`, W_V W_O summed over heads, of the first 64
            channels; `"state"`, W_C W_B^T of the first group of a state space; `"covariance"`
            of depthwise filters and, for filters with one or two axes, `"variance"` by pixel.
    """

    rows: tuple[Measurement, ...]
    skipped: tuple[Skipped, ...]
    images: Mapping[tuple[str, str, str], np.ndarray] = dataclasses.field(repr=False)

    def select(self, **columns: Any) -> tuple[Measurement, ...]:
        """Return the rows with the given values of their attributes.

        Examples:

        >>> measured = keras_mimetic.measure(model)
        >>> rows = measured.select(part="query_key", head=0, figure="diagonal")
        >>> rows[0].value

        Args:
            **columns: Attributes of `Measurement` and the values they must have.

        Returns:
            A tuple of `Measurement`.

        Raises:
            TypeError: If `Measurement` has no such attribute.
            ValueError: If no structure has this name, part or figure.
        """
        names = [field.name for field in dataclasses.fields(Measurement)]
        unknown = [name for name in columns if name not in names]
        if unknown:
            raise TypeError(
                f"`select` takes the attributes of a row: {', '.join(names)}. "
                f"Received: {', '.join(unknown)}"
            )
        for name in _NAMED & columns.keys():
            known = _known_names(name)
            if columns[name] not in known:
                raise ValueError(
                    f"Argument `{name}` of `select` must be one of "
                    f"{', '.join(map(repr, known))}. Received: {name}={columns[name]!r}"
                )
        wanted = columns.items()
        return tuple(
            row for row in self.rows if all(getattr(row, name) == value for name, value in wanted)
        )

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as plain dicts."""
        return [dataclasses.asdict(row) for row in self.rows]

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the rows as CSV text with a header. `None` and NaN become empty cells.

        Args:
            path: A file to write the text to as well.

        Raises:
            TypeError: If `path` is not a path.
            OSError: If the file cannot be written.
        """
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"Argument `path` must be a path or None. Received: path={path!r}")
        text = io.StringIO()
        names = [field.name for field in dataclasses.fields(Measurement)]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for row in self.to_dicts():
            writer.writerow({name: "" if _is_nan(x) else x for name, x in row.items()})
        if path is not None:
            pathlib.Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def plot(self, before: "Measurements | None" = None, title: str = "") -> Any:
        """Draw products, covariances, and figures by layer, compared with untrained weights.

        Layers are numbered within each structure, in the order of the printed tables. Images
        show at most six layers, evenly spread. Gray bands are two standard deviations around
        the mean of untrained weights.

        Examples:

        >>> figure = keras_mimetic.measure(model).plot(title="My model")
        >>> figure.savefig("structures.png")

        Args:
            before: Measurements of the same model before training, drawn beside these.
            title: A headline.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows.

        Raises:
            ImportError: If matplotlib is not installed.
            TypeError: If `before` is not a `Measurements` or `title` not a string.
            ValueError: If there is nothing to draw, or if `before` is of another model.
        """
        # Only drawing needs matplotlib.
        from keras_mimetic._plot import plot

        if before is not None and not isinstance(before, Measurements):
            raise TypeError(
                "Argument `before` must be what `keras_mimetic.measure` gives, or None. "
                f"Received: before={before!r}"
            )
        if before is not None:
            self._check_same_model(before)
        return plot(self, before, title)

    def _check_same_model(self, before: "Measurements") -> None:
        """Raise unless the layers of two measurements could be those of one model."""
        for structure in set(self._structures()) & set(before._structures()):
            mine, others = (
                {row.layer_path for row in m.rows if row.structure == structure}
                for m in (self, before)
            )
            differ = sorted(mine ^ others) if not (mine <= others or others <= mine) else []
            differ += [
                key[1]
                for key in self.images.keys() & before.images.keys()
                if self.images[key].shape != before.images[key].shape
            ]
            if differ:
                raise ValueError(
                    "Argument `before` must have measurements of the same model. Received: "
                    f"measurements in which the layer {differ[0]!r} is missing or differs"
                )

    def show(self) -> None:
        """Print tables that fit the terminal; in files and pipes, the text of `print`."""
        show(self)

    def __repr__(self) -> str:
        return f"<Measurements: {self._headline()}>"

    def __str__(self) -> str:
        blocks = [self._marked_headline(), *(self._block(name) for name in self._structures())]
        if self.skipped:
            blocks.append("skipped:\n" + "\n".join(f"{x.path}  {x.reason}" for x in self.skipped))
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        """Return the tables for a notebook."""
        tables = [html_table(name, lines, legend=legend) for name, lines, legend in self._tables()]
        return "\n".join([html_table(self._marked_headline(), ()), *tables])

    def __rich__(self) -> Any:
        """Return the tables for rich, as in `rich.print(measured)`."""
        from rich.console import Group

        tables = [rich_table(name, lines, legend=legend) for name, lines, legend in self._tables()]
        return Group(rich_table(self._marked_headline(), ()), *tables)

    def _tables(self) -> list[tuple[str, list[tuple[str, ...]], str]]:
        """Return caption, lines and legend of each table."""
        tables = [(name, self._cells(name), STRUCTURES[name].legend) for name in self._structures()]
        if self.skipped:
            skipped: list[tuple[str, ...]] = [("layer", "reason")]
            skipped += [(x.path, x.reason) for x in self.skipped]
            tables.append(("skipped", skipped, ""))
        return tables

    def _structures(self) -> list[str]:
        """Return the names of the structures that have rows."""
        return list(dict.fromkeys(row.structure for row in self.rows))

    def _headline(self) -> str:
        layers = dict.fromkeys((row.structure, row.layer_path) for row in self.rows)
        head = f"{len(layers)} layer{'' if len(layers) == 1 else 's'} measured"
        if self.skipped:
            head += f", {len(self.skipped)} skipped"
        if not self.rows:
            head += ": no weights that could have these structures were found"
        return head

    def _marked_headline(self) -> str:
        mark = (
            f"; * is more than {_FAR} standard deviations from untrained weights"
            if self.rows
            else ""
        )
        return self._headline() + mark

    def _block(self, structure: str) -> str:
        """Return the table of one structure: one line per layer."""
        lines = self._cells(structure)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        legend = f"{structure}: {STRUCTURES[structure].legend}"
        return "\n".join([textwrap.fill(legend, 100, subsequent_indent="  "), *text])

    def _cells(self, structure: str) -> list[tuple[str, ...]]:
        """Return the table of one structure, untrained weights once below equal shapes."""
        rows = self.select(structure=structure)
        columns = [
            column
            for column in STRUCTURES[structure].figures
            if column.heading
            and any((row.part, row.figure) == (column.part, column.name) for row in rows)
        ]
        lines = [("", *(column.heading for column in columns), "")]
        layer_paths = list(dict.fromkeys(row.layer_path for row in rows))
        for number, layer_path in enumerate(layer_paths):
            here = [row for row in rows if row.layer_path == layer_path]
            lines.append((here[0].path, *(_cell(here, column) for column in columns), here[0].note))
            null = ("  untrained weights", *(_null_cell(here, column) for column in columns), "")
            # Once for layers of equal shapes.
            following = [
                row for row in rows if row.layer_path in layer_paths[number + 1 : number + 2]
            ]
            if not following or null[1:-1] != tuple(_null_cell(following, c) for c in columns):
                lines.append(null)
        return lines


def _known_names(column: str) -> list[str]:
    """Return the names of all structures, or of the parts or figures that these have."""
    if column == "structure":
        return list(STRUCTURES)
    attribute = {"part": "part", "figure": "name"}[column]
    specs = [spec for structure in STRUCTURES.values() for spec in structure.figures]
    return list(dict.fromkeys(getattr(spec, attribute) for spec in specs))


def _found(rows: list[Measurement], column: FigureSpec) -> list[Measurement]:
    """Return the rows of a layer for one column."""
    return [
        row
        for row in rows
        if (row.part, row.figure) == (column.part, column.name)
        and (row.head is not None) == column.by_head
    ]


def _cell(rows: list[Measurement], column: FigureSpec) -> str:
    """Return a figure of a layer with its range over heads, marked if untrained weights lack it."""
    found = [row for row in _found(rows, column) if not math.isnan(row.value)]
    values = [row.value for row in found]
    if not values:
        return "-"
    middle = sum(values) / len(values)
    text = format(middle, column.format_spec)
    mean, deviation = found[0].untrained_mean, found[0].untrained_std
    # Heads of untrained weights are independent.
    if mean is not None and deviation and not math.isnan(deviation):
        text += "*" if abs(middle - mean) > _FAR * deviation / math.sqrt(len(values)) else ""
    if len(values) > 1:
        text += f" [{min(values):{column.format_spec}} to {max(values):{column.format_spec}}]"
    return text


def _null_cell(rows: list[Measurement], column: FigureSpec) -> str:
    """Return mean and standard deviation of a figure over untrained weights."""
    found = _found(rows, column)
    if not found or found[0].untrained_mean is None:
        return ""
    if math.isnan(found[0].untrained_mean):
        return "-"
    if not found[0].untrained_std:
        return f"{found[0].untrained_mean:g}"
    form = column.format_spec.removeprefix("+")
    text = f"{found[0].untrained_mean:{column.format_spec}} ± {found[0].untrained_std:{form}}"
    return f"{text} per head" if len(found) > 1 else text


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
