"""What `measure` saw: figures of each place, beside those of untrained weights."""

import copy
import csv
import dataclasses
import io
import math
import os
import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from keras_mimetic._html import table
from keras_mimetic._structures import STRUCTURES, StructureSettings
from keras_mimetic._structures.base import FigureSpec

# So many standard standard deviations from untrained weights get a mark in the table.
_FAR = 3


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One figure of one place.

    Attributes:
        structure: Name of the structure.
        path: Path of the layer, `layer.path`.
        layer_path: The layer's place in the model, as in `Report`.
        part: What of the layer the figure is about.
        head: Number of the attention head, or `None`.
        figure: Name of the figure; see `measure`.
        value: The figure; NaN where it is not defined.
        untrained_mean: Its mean over untrained weights of the same shapes; `None` for
            figures that depend on their scale.
        untrained_std: Its standard deviation over them.
        note: Why the structure does not go here and `settings` does not read it,
            or "". (Frozen layers are read.)
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
        layer_path: Its place in the model.
        structure: Name of the structure; "" for a layer that could not be
            followed.
        reason: Why not.
    """

    path: str
    layer_path: str
    structure: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Measurements:
    """The figures of `keras_mimetic.measure`; they print, and show in a notebook, as tables.

    Attributes:
        rows: One for each figure, in the order of the network; each has `structure`,
            `path`, `layer_path`, `part`, `head`, `figure`, `value`, `untrained_mean`,
            `untrained_std` and `note`. `path` is Keras's name of the layer; `layer_path`
            is the same whenever the model is built.
        skipped: What was not measured, each with `path`, `layer_path`, `structure`, `reason`.
        images: By (structure, place, name), matrices to be looked at: `"query_key"`,
            W_Q W_K^T averaged over the heads, and `"value_output"`, W_V W_O summed
            over them, of the first 64 channels; so `"state"`, W_c W_b^T of the first group
            of state-space heads; `"covariance"` of filters and, of
            filters with one or two axes, `"variance"` by pixel.
    """

    rows: tuple[Measurement, ...]
    skipped: tuple[Skipped, ...]
    images: Mapping[tuple[str, str, str], np.ndarray] = dataclasses.field(repr=False)
    _settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(repr=False)

    def select(self, **columns: Any) -> tuple[Measurement, ...]:
        """The rows with these values of their attributes.

        Example:

        >>> measured.select(structure="attention", part="query_key", head=0, figure="diagonal")
        """
        names = [field.name for field in dataclasses.fields(Measurement)]
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

    def settings(self) -> StructureSettings:
        """What was measured, as the argument `structures` of `initialize`.

        One median over all places (and heads) for each strength: of "mlp" the
        `mean` of the first matrix and, behind norms, the `hidden_bias`; of
        "attention" noise and identity of both products, where it is
        self-attention. Strengths of opposite signs cancel. Of "depthwise" the curve
        of sigma over depth, fitted to the layers that the closed form explains
        better than it does untrained weights (by 4 deviations). Of "state_space" `a_log`, `step`
        and `correlation`, and the identity for the convolution where the energy of the
        last taps is nearer to all than to that of one among equals. A structure is left
        out where none of its figures is there, and so are places with a note.
        """
        settings = {name: dict(values) for name, values in self._settings.items()}
        return cast(StructureSettings, copy.deepcopy(settings))

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as plain dicts."""
        return [dataclasses.asdict(row) for row in self.rows]

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as CSV text with a header; `None` and NaN are empty.

        Args:
            path: A file to write it to, besides.
        """
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
        """Draws products, covariances, and figures by layer beside those of untrained weights.

        Layers are counted within each structure, in the order of the table; of more
        than six the images show six, evenly spread. Grey is within two standard
        deviations of untrained weights' mean; by head, it is for single heads.

        Args:
            before: Measurements of the same model before its training, drawn
                beside these.
            title: A headline.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows; `savefig("picture.png")`
            writes it.

        Raises:
            ImportError: where matplotlib is not installed.
            TypeError: if `before` is something else, or `title` no string.
            ValueError: where there is nothing to draw.
        """
        # It imports this module.
        from keras_mimetic._plot import plot

        return plot(self, before, title)

    def __repr__(self) -> str:
        return f"<Measurements: {self._headline()}>"

    def __str__(self) -> str:
        blocks = [self._marked_headline(), *(self._block(name) for name in self._structures())]
        if self.skipped:
            blocks.append("skipped:\n" + "\n".join(f"{x.path}  {x.reason}" for x in self.skipped))
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        tables = [
            table(name, self._cells(name), legend=STRUCTURES[name].legend)
            for name in self._structures()
        ]
        if self.skipped:
            skipped = [("skipped", "why"), *((x.path, x.reason) for x in self.skipped)]
            tables.append(table("skipped", skipped))
        return "\n".join([table(self._marked_headline(), ()), *tables])

    def _structures(self) -> list[str]:
        """Names of the structures that have rows."""
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
        """The table of one structure: a line a place."""
        lines = self._cells(structure)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        legend = f"{structure}: {STRUCTURES[structure].legend}"
        return "\n".join([textwrap.fill(legend, 100, subsequent_indent="  "), *text])

    def _cells(self, structure: str) -> list[tuple[str, ...]]:
        """The table of one structure with its heading, and untrained weights below those alike."""
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
            # Once for places that are alike.
            following = [
                row for row in rows if row.layer_path in layer_paths[number + 1 : number + 2]
            ]
            if not following or null[1:-1] != tuple(_null_cell(following, c) for c in columns):
                lines.append(null)
        return lines


def _found(rows: list[Measurement], column: FigureSpec) -> list[Measurement]:
    """The rows of a place that a column is about."""
    return [
        row
        for row in rows
        if (row.part, row.figure) == (column.part, column.name)
        and (row.head is not None) == column.by_head
    ]


def _cell(rows: list[Measurement], column: FigureSpec) -> str:
    """A figure of a place, with its range over heads; marked where no untrained weights have it."""
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
    """Mean and standard deviation of a figure over untrained weights."""
    found = _found(rows, column)
    if not found or found[0].untrained_mean is None:
        return ""
    if math.isnan(found[0].untrained_mean):
        return "-"
    if not found[0].untrained_std:
        return f"{found[0].untrained_mean:g}"
    form = column.format_spec.removeprefix("+")
    text = f"{found[0].untrained_mean:{column.format_spec}} ± {found[0].untrained_std:{form}}"
    return f"{text} a head" if len(found) > 1 else text


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
