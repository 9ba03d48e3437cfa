"""What `measure` saw: figures of each place, beside those of fresh weights."""

import copy
import csv
import dataclasses
import io
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mimetic.registry import STRUCTURES
from keras_mimetic.registry.structure import Column


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one place.

    Attributes:
        structure: Name of the structure.
        path: Path of the layer, `layer.path`.
        place: The layer's place in the model, as in `Report`.
        part: What of the layer the figure is about.
        head: Number of the attention head, or `None`.
        figure: Name of the figure; see `measure`.
        value: The figure; NaN where it is not defined.
        fresh_mean: Its mean over fresh weights of the same shapes; `None` for
            figures that depend on their scale.
        fresh_deviation: Its standard deviation over them.
        note: Why `initialize` leaves this place, or "".
    """

    structure: str
    path: str
    place: str
    part: str
    head: int | None
    figure: str
    value: float
    fresh_mean: float | None
    fresh_deviation: float | None
    note: str


@dataclasses.dataclass(frozen=True)
class Left:
    """A layer that was not measured.

    Attributes:
        path: Path of the layer.
        place: Its place in the model.
        structure: Name of the structure; "" for a layer that could not be
            followed.
        reason: Why not.
    """

    path: str
    place: str
    structure: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Measurements:
    """The figures of `keras_mimetic.measure`; they print as a table.

    Attributes:
        rows: One for each figure.
        left: What was not measured.
        images: By (structure, place, part), matrices to be looked at: `"query_key"`,
            W_Q W_K^T averaged over the heads, and `"value_output"`, W_V W_O summed
            over them, of the first 64 channels; `"covariance"` of filters.
    """

    rows: tuple[Row, ...]
    left: tuple[Left, ...]
    images: Mapping[tuple[str, str, str], np.ndarray] = dataclasses.field(repr=False)
    _settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(repr=False)

    def select(self, **columns: Any) -> tuple[Row, ...]:
        """The rows with these values of their attributes.

        Example:

        >>> measured.select(structure="attention", part="query_key", head=0, figure="diagonal")
        """
        names = [field.name for field in dataclasses.fields(Row)]
        unknown = [name for name in columns if name not in names]
        if unknown:
            raise TypeError(
                f"`select` takes the attributes of a row: {', '.join(names)}. "
                f"Received: {', '.join(unknown)}"
            )
        wanted = columns.items()
        return tuple(
            row for row in self.rows if all(getattr(row, name) == value for name, value in wanted)
        )

    def settings(self) -> dict[str, dict[str, Any]]:
        """What was measured, as the argument `structures` of `initialize`.

        Medians over places (and heads): of "mlp" the `mean` of the first matrix
        and, behind norms, the `hidden_bias`; of "attention" noise and identity of
        both products, where it is self-attention. Of "depthwise" the curve of
        sigma over depth, fitted to the layers whose fit is better than that of
        any of the fresh weights. A structure is left out where none of its
        figures is there, and so are places that `initialize` leaves.
        """
        return copy.deepcopy({name: dict(values) for name, values in self._settings.items()})

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as plain dicts."""
        return [dataclasses.asdict(row) for row in self.rows]

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as CSV text with a header; `None` and NaN are empty.

        Args:
            path: A file to write it to, besides.
        """
        text = io.StringIO()
        names = [field.name for field in dataclasses.fields(Row)]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for row in self.to_dicts():
            writer.writerow({name: "" if _is_nan(x) else x for name, x in row.items()})
        if path is not None:
            pathlib.Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def plot(self, before: "Measurements | None" = None) -> Any:
        """Draws products, covariances, and figures by depth, beside fresh weights' ones.

        Args:
            before: Measurements of the same model before its training, drawn
                beside these.

        Returns:
            A `matplotlib.figure.Figure`; `savefig("picture.png")` writes it.

        Raises:
            ImportError: where matplotlib is not installed.
            TypeError: if `before` is something else.
            ValueError: where there is nothing to draw.
        """
        # The package does without matplotlib.
        from keras_mimetic.plot import plot

        return plot(self, before)

    def __str__(self) -> str:
        places = dict.fromkeys((row.structure, row.place) for row in self.rows)
        head = f"{len(places)} place{'' if len(places) == 1 else 's'} measured"
        if self.left:
            head += f", {len(self.left)} left"
        if not self.rows:
            head += ": no weights with a place for any of these structures were found"
        blocks = [head, *(self._block(name) for name in dict.fromkeys(name for name, _ in places))]
        if self.left:
            blocks.append("left:\n" + "\n".join(f"{x.path}  {x.reason}" for x in self.left))
        return "\n\n".join(blocks)

    def _block(self, structure: str) -> str:
        """The table of one structure: a line a place."""
        rows = self.select(structure=structure)
        columns = [
            column
            for column in STRUCTURES[structure].columns
            if any((row.part, row.figure) == (column.part, column.name) for row in rows)
        ]
        lines = [(structure, *(column.heading for column in columns), "")]
        places = list(dict.fromkeys(row.place for row in rows))
        for number, place in enumerate(places):
            here = [row for row in rows if row.place == place]
            lines.append((here[0].path, *(_cell(here, column) for column in columns), here[0].note))
            null = ("  fresh weights", *(_null_cell(here, column) for column in columns), "")
            # Once for places that are alike.
            following = [row for row in rows if row.place in places[number + 1 : number + 2]]
            if not following or null[1:-1] != tuple(_null_cell(following, c) for c in columns):
                lines.append(null)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _found(rows: list[Row], column: Column) -> list[Row]:
    """The rows of a place that a column is about."""
    return [
        row
        for row in rows
        if (row.part, row.figure) == (column.part, column.name)
        and (row.head is not None) == column.by_head
    ]


def _cell(rows: list[Row], column: Column) -> str:
    """A figure of a place, with its range over heads."""
    values = [row.value for row in _found(rows, column) if not math.isnan(row.value)]
    if not values:
        return "-"
    text = format(sum(values) / len(values), column.form)
    if len(values) > 1:
        text += f" [{min(values):{column.form}} to {max(values):{column.form}}]"
    return text


def _null_cell(rows: list[Row], column: Column) -> str:
    """Mean and standard deviation of a figure over fresh weights."""
    found = _found(rows, column)
    if not found or found[0].fresh_mean is None:
        return ""
    form = column.form.removeprefix("+")
    return f"{found[0].fresh_mean:{column.form}} ± {found[0].fresh_deviation:{form}}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
