"""The figures of `measure`, compared with those of untrained weights."""

import csv
import dataclasses
import io
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mimetic._checks import did_you_mean, printable
from keras_mimetic._structures import STRUCTURES
from keras_mimetic._structures.base import FigureSpec
from keras_mimetic._tables import Result, Table

# So many standard deviations from untrained weights get a mark in the table.
_FAR = 3


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One figure of one layer.

    Examples:

    >>> measured = keras_mimetic.measure(model)
    >>> values = [row.value for row in measured.rows if row.figure == "mean"]

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

    Examples:

    >>> reasons = [layer.reason for layer in keras_mimetic.measure(model).skipped]

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
class Measurements(Result):
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
    _text_width = 100

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
        for name, known in _known_names().items():
            if name in columns and columns[name] not in known:
                raise ValueError(
                    f"Argument `{name}` of `select` must be one of "
                    f"{', '.join(map(repr, known))}. Received: {name}={columns[name]!r}"
                    f"{did_you_mean(columns[name], known)}"
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
            writer.writerow({name: _csv_cell(x) for name, x in row.items()})
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
        differ = {
            key[1]
            for key in self.images.keys() & before.images.keys()
            if self.images[key].shape != before.images[key].shape
        }
        mine, others = ({row.layer_path for row in m.rows} for m in (self, before))
        if mine - others and others - mine:
            differ |= mine ^ others
        if differ:
            raise ValueError(
                "Argument `before` must have measurements of the same model. Received: "
                f"measurements in which the layer {min(differ)!r} is missing or differs"
            )

    def __repr__(self) -> str:
        return f"<Measurements: {self._headline()}>"

    def _tables(self) -> list[Table]:
        far = f"; * is more than {_FAR} standard deviations from untrained weights"
        tables = [Table(self._headline() + (far if self.rows else ""))]
        found = {row.structure for row in self.rows}
        tables += [self._table(name) for name in STRUCTURES if name in found]
        if self.skipped:
            notes = [printable(f"{layer.path}  {layer.reason}") for layer in self.skipped]
            tables.append(Table("skipped:", notes=notes))
        return tables

    def _headline(self) -> str:
        layers = dict.fromkeys((row.structure, row.layer_path) for row in self.rows)
        head = f"{len(layers)} layer{'' if len(layers) == 1 else 's'} measured"
        if self.skipped:
            head += f", {len(self.skipped)} skipped"
        if not self.rows:
            head += ": no weights that could have these structures were found"
        return head

    def _table(self, structure: str) -> Table:
        """Return the table of one structure, with untrained weights once below equal shapes."""
        by_layer: dict[str, list[Measurement]] = {}
        for row in self.select(structure=structure):
            by_layer.setdefault(row.layer_path, []).append(row)
        known = {(row.part, row.figure) for rows in by_layer.values() for row in rows}
        entry = STRUCTURES[structure]
        columns = [x for x in entry.figures if x.heading and (x.part, x.name) in known]
        lines = [("", *(column.heading for column in columns))]
        untrained: list[str] = []
        for rows in by_layer.values():
            cells = [_untrained_cell(rows, column) for column in columns]
            if untrained and untrained != cells:
                lines.append(("  untrained weights", *untrained))
            untrained = cells
            lines.append((printable(rows[0].path), *(_cell(rows, column) for column in columns)))
        lines.append(("  untrained weights", *untrained))
        firsts = [rows[0] for rows in by_layer.values()]
        notes = [printable(f"{row.path}: {row.note}") for row in firsts if row.note]
        return Table(structure, lines, entry.legend, notes)


def _known_names() -> dict[str, dict[str, None]]:
    """Return the names of structures, and of their parts and figures, in order."""
    specs = [spec for structure in STRUCTURES.values() for spec in structure.figures]
    return {
        "structure": dict.fromkeys(STRUCTURES),
        "part": dict.fromkeys(spec.part for spec in specs),
        "figure": dict.fromkeys(spec.name for spec in specs),
    }


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
    text = _shown(middle, column.format_spec)
    mean, deviation = found[0].untrained_mean, found[0].untrained_std
    # Heads of untrained weights are independent.
    if mean is not None and deviation is not None and not math.isnan(deviation):
        limit = _FAR * deviation / math.sqrt(len(values))
        # What untrained weights have exactly, such as biases of 0, is compared as printed.
        is_far = abs(middle - mean) > limit if limit else float(text) != mean
        text += "*" if is_far else ""
    if len(values) > 1:
        low, high = (_shown(x, column.format_spec) for x in (min(values), max(values)))
        text += f" [{low} to {high}]"
    return text


def _shown(value: float, format_spec: str) -> str:
    """Format a figure, with an exponent if it is so large that its decimals do not matter."""
    return format(value, format_spec.replace("f", "g") if abs(value) >= 1e5 else format_spec)


def _untrained_cell(rows: list[Measurement], column: FigureSpec) -> str:
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


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        # A spreadsheet would compute it.
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return "" if isinstance(value, float) and math.isnan(value) else value
