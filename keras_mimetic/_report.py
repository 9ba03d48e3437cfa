"""The report of a re-initialization."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from keras_mimetic._checks import printable
from keras_mimetic._tables import Result, Table

# Equal rows of a report with more rows than this are printed as one.
_MANY = 20


@dataclasses.dataclass(frozen=True)
class WeightChange:
    """One weight, or one skipped layer without weights to report.

    The row of a layer has the layer's path, the shape `()` and no norms.

    Examples:

    >>> report = keras_mimetic.initialize(model, seed=0)
    >>> notes = {row.path: row.note for row in report.rows}

    Attributes:
        path: The weight's `variable.path`, which `rules` match.
        layer_path: Path of its layer in the model (attributes and containers), from which its
            random stream is derived. Unlike `path`, it is the same each time the model is built.
        structure: Name of the structure; `"initializer"` for a weight that a rule redraws,
            and `""` for a layer that could not be traced.
        shape: Shape of the weight.
        norm_before: Frobenius norm before.
        norm_after: Frobenius norm of the new values in the weight's dtype; `None` if skipped.
        note: What was written, or why the weight was skipped.
    """

    path: str
    layer_path: str
    structure: str
    shape: tuple[int, ...]
    norm_before: float | None
    norm_after: float | None
    note: str

    @classmethod
    def of_layer(cls, path: str, layer_path: str, structure: str, reason: str) -> "WeightChange":
        """Return the row of a skipped layer without weights to report."""
        return cls(path, layer_path, structure, (), None, None, reason)

    @property
    def written(self) -> bool:
        """Whether the weight has new values (or would have, in a dry run)."""
        return self.norm_after is not None


@dataclasses.dataclass(frozen=True, repr=False)
class Report(Result):
    """The result of `keras_mimetic.initialize`: one row per weight that was written or skipped.

    `print(report)` prints it as plain text, `report.show()` as a table that fits the
    terminal, and a notebook shows it as HTML. In a long report, weights whose paths differ in
    numbers share a row there.

    Examples:

    >>> report = keras_mimetic.initialize(model, seed=0, dry_run=True)
    >>> print(report)
    >>> paths = [row.path for row in report.written]

    Attributes:
        rows: A `WeightChange` for each weight that was written or skipped, in the order of the
            network.
        seed: The seed that was used, also if none was given.
        control: Whether a norm-matched baseline without structure was written.
        dry_run: Whether the model was left unchanged.
        notes: Further remarks, such as assumptions that were made.
        rules: The number of layers that each rule matches.
    """

    rows: tuple[WeightChange, ...]
    seed: int
    control: bool
    dry_run: bool
    notes: tuple[str, ...] = ()
    rules: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def written(self) -> tuple[WeightChange, ...]:
        """Return the rows of weights with new values."""
        return tuple(row for row in self.rows if row.written)

    @property
    def skipped(self) -> tuple[WeightChange, ...]:
        """Return the rows of what was skipped, each with its reason in `note`."""
        return tuple(row for row in self.rows if not row.written)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as plain dicts, with `written` as a further key."""
        return [{**dataclasses.asdict(row), "written": row.written} for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Report: {self._headline()}>"

    def _tables(self) -> list[Table]:
        notes = [printable(note) for note in self.notes]
        return [Table(self._headline(), self._cells() if self.rows else (), notes=notes)]

    def _headline(self) -> str:
        # Parts of a fused kernel have rows of their own.
        redrawn = len([row for row in self.written if row.structure == "initializer"])
        count = len({(row.layer_path, row.path) for row in self.written}) - redrawn
        what = "control weights of the same norms" if self.control else "structure"
        verb = "would be given" if self.dry_run else "given"
        weights = "weight" if count == 1 else "weights"
        head = f"{count} {weights} {verb} {what}, {len(self.skipped)} skipped"
        if redrawn:
            head += f", {redrawn} redrawn by rules"
        head += f"; seed {self.seed}"
        if self.rules:
            met = (f"{rule!r} {n} layer{'' if n == 1 else 's'}" for rule, n in self.rules.items())
            head += f"; rules: {', '.join(met)}"
        return head if self.rows else f"{head}: no layers for these structures were found"

    def _cells(self) -> list[tuple[str, ...]]:
        """Return the table, including its heading."""
        groups: dict[Any, list[WeightChange]] = {}
        for number, row in enumerate(self.rows):
            like = _NUMBER.sub("*", row.path), row.structure, _NUMBER.sub("*", row.note)
            groups.setdefault(like if len(self.rows) > _MANY else number, []).append(row)
        lines: list[tuple[str, ...]] = [
            ("weight", "structure", "norm before", "norm after", "note")
        ]
        for rows in groups.values():
            path, note = rows[0].path, _span(row.note for row in rows)
            if len(rows) > 1:
                path = f"{_NUMBER.sub('*', path)} ({len(rows)})"
            before, after = (row.norm_before for row in rows), (row.norm_after for row in rows)
            lines.append((path, rows[0].structure, _norms(before), _norms(after), note))
        return [tuple(map(printable, line)) for line in lines]


_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


def _norms(norms: Iterable[float | None]) -> str:
    """Return the smallest and the largest norm, or their common text."""
    ordered = sorted(norms, key=lambda norm: norm or 0.0)
    return _span("" if norm is None else f"{norm:.4g}" for norm in ordered)


def _span(texts: Iterable[str]) -> str:
    """Return the first and the last of some texts, or their common text."""
    ends = list(texts)
    return ends[0] if ends[0] == ends[-1] else f"{ends[0]} ... {ends[-1]}"
