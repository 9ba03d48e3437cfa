"""New values of the weights of a model, and their rows in the report."""

import dataclasses
from typing import Any

import numpy as np

from keras_mimetic._assign import Weight
from keras_mimetic._find import path_of
from keras_mimetic._numerics.random import fold_in
from keras_mimetic._numerics.stats import array_norm
from keras_mimetic._patterns.kernels import rounded_to, values_of
from keras_mimetic._patterns.site import Site
from keras_mimetic._report import WeightChange
from keras_mimetic._rules import Redraw
from keras_mimetic._structures import STRUCTURES, base

_FROZEN = "frozen (trainable=False)"


@dataclasses.dataclass
class Changes:
    """The rows of the report, and the new values of weights unless it is a dry run."""

    settings: dict[str, dict[str, Any]]
    seed: int
    control: bool
    dry_run: bool
    rows: list[WeightChange] = dataclasses.field(default_factory=list)
    new: list[tuple[Weight, np.ndarray]] = dataclasses.field(default_factory=list)

    def add_site(self, site: Site, redrawn: set[tuple[str, str]]) -> None:
        """Add the weights of a site but those of these layer paths and paths."""
        if not site.weights:
            path = path_of(site.layer)
            row = WeightChange.of_layer(path, site.layer_path, site.structure, site.skip_reason)
            self.rows.append(row)
            return
        sampled = base.Skip(site.skip_reason) if site.skip_reason else self._sample(site)
        variables, new = site.variables, base.NewWeights({}, {})
        if isinstance(sampled, base.Skip):
            notes = dict.fromkeys(site.weights, sampled.reason)
        elif not all(variables[role].trainable for role in sampled.values):
            notes = dict.fromkeys(sampled.values, _FROZEN)
        else:
            new, notes = sampled, {**sampled.notes, **site.partly_skipped}
        for role, note in notes.items():
            variable, values = variables[role], new.values.get(role)
            if (site.layer_path, variable.path) not in redrawn:
                before = new.before.get(role)
                row = _row(site.layer_path, site.structure, variable, before, values, note)
                self._add(_with_change(row), variable, values)

    def add_redraw(self, redraw: Redraw) -> None:
        """Add a weight that a rule gives an initializer."""
        variable, values, note = redraw.variable, None, _FROZEN
        if variable.trainable:
            values = _rounded(redraw.sample(self.seed), variable)
            given = redraw.initializer
            name = given if isinstance(given, str) else type(given).__name__
            note = f"{name}, by the rule {redraw.pattern!r}"
        row = _row(redraw.layer_path, "initializer", variable, None, values, note)
        self._add(row, variable, values)

    def _sample(self, site: Site) -> base.Sampled:
        """Return new values of a site's variables as these hold them."""
        structure = STRUCTURES[site.structure]
        # Each layer has a stream of its own.
        stream = fold_in(self.seed, *f"{site.structure}:{site.layer_path}".encode())
        sampled = structure.sample(site, self.settings[site.structure], stream)
        if isinstance(sampled, base.Skip):
            return sampled
        values, notes = sampled.values, sampled.notes
        if self.control:
            values = structure.control(site, values, stream)
            notes = {role: f"control of {note}" for role, note in notes.items()}
        values = {role: _rounded(value, site.variables[role]) for role, value in values.items()}
        return base.NewWeights(values, notes, sampled.before)

    def _add(self, row: WeightChange, variable: Weight, values: np.ndarray | None) -> None:
        self.rows.append(row)
        # A large model would need its memory twice.
        if values is not None and not self.dry_run:
            self.new.append((variable, values))


def _row(
    layer_path: str,
    structure: str,
    variable: Weight,
    before: np.ndarray | None,
    values: np.ndarray | None,
    note: str,
) -> WeightChange:
    return WeightChange(
        path=variable.path,
        layer_path=layer_path,
        structure=structure,
        shape=tuple(variable.shape),
        norm_before=array_norm(values_of(variable) if before is None else before),
        norm_after=None if values is None else array_norm(values),
        note=note,
    )


def _rounded(values: np.ndarray, variable: Weight) -> np.ndarray:
    """Return values as the variable will hold them, or raise if it cannot."""
    if values.shape != tuple(variable.shape):
        raise RuntimeError(
            f"Values of shape {values.shape} were drawn for {variable.path!r}, which has shape "
            f"{tuple(variable.shape)}."
        )
    rounded = rounded_to(variable.dtype, values)
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"The new values of {variable.path!r} do not fit into its dtype, "
            f"{variable.dtype}: the largest is {np.abs(values).max():.3g}."
        )
    return rounded


def _with_change(row: WeightChange) -> WeightChange:
    """Add a note to a row if the norm of its weight changes by more than a factor of 2."""
    if not row.norm_before or row.norm_after is None:
        return row
    factor = row.norm_after / row.norm_before
    if 0.5 <= factor <= 2:
        return row
    change = f"norm changes by a factor of {factor:.2g}"
    what = "was almost zero" if row.norm_before < 1e-3 < row.norm_after else change
    return dataclasses.replace(row, note=f"{row.note}; {what}")
