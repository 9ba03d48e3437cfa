"""Callbacks that follow structures during training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_mimetic._checks import check_flag, check_integer, warn
from keras_mimetic._find import check_model, find_sites
from keras_mimetic._measure import check_measured_names, measure_site
from keras_mimetic._numerics.stats import mean_and_std
from keras_mimetic._patterns.site import Site
from keras_mimetic._structures import STRUCTURES, Rules, StructureName, layers_for
from keras_mimetic._structures.base import Figure

__all__ = ["StructureLogger"]


class StructureLogger(keras.callbacks.Callback):
    """Measure the structures of a model's weights during `fit` and add them to `logs`.

    Callbacks after this one in the list, such as `CSVLogger` and `TensorBoard`, see the figures
    next to the loss; so do the progress bar and the `History` that `fit` returns. Names are
    `"structure/part/figure"`, as in the rows of `keras_mimetic.measure`. Values are means over
    layers and heads.

    Examples:

    >>> logger = keras_mimetic.callbacks.StructureLogger(every=5)
    >>> history = model.fit(
    ...     x, y, epochs=6, callbacks=[logger, keras.callbacks.CSVLogger("log.csv")], verbose=0
    ... )
    >>> logger.history[0]["attention/value_output/diagonal"]  # before training
    >>> logger.plot().savefig("structures.png")

    Args:
        every: Number of epochs between measurements, an integer >= 1. The first epoch and the
            last one are always measured. Other epochs repeat the last values in `logs`, so that
            every row of a table is complete.
        figures: Names of the figures to log, such as `["mlp/hidden_bias/mean"]`; `None` stands
            for those that `Measurements.plot` draws.
        by_layer: If `True`, also log each layer, as `".../layer_1"` and so on in the order
            of the network.
        structures: Names of structures, as for `measure`.
        rules: Corrections to what is found, as for `initialize`.
        inputs: Example inputs, as for `initialize`.

    Attributes:
        history: A dict for each measurement, with `"epoch"`, the number of epochs before it (0
            is before training), and the figures. They are NaN for weights that are not finite.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed; when training begins, if `measure` refuses the
            model or if it does not have a figure.

    Warns:
        UserWarning: If the model has no layers to measure.
    """

    def __init__(
        self,
        every: int = 1,
        figures: Iterable[str] | None = None,
        by_layer: bool = False,
        structures: StructureName | Sequence[StructureName] | None = None,
        rules: Rules = None,
        inputs: Any = None,
    ) -> None:
        super().__init__()
        self.every = check_integer("every", every, minimum=1)
        self.figures = _check_figures(figures)
        self.by_layer = check_flag("by_layer", by_layer)
        self.structures = check_measured_names(structures)
        self.rules, self.inputs = rules, inputs
        self.history: list[dict[str, float]] = []
        self._sites: list[Site] | None = None
        self._epoch = 0
        # Names of the figures of each site.
        self._known: dict[str, list[str]] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the layers to measure."""
        self.history, self._sites = [], None
        # With TensorFlow the first batch builds a model whose input's shape is not known.
        if self.model.built and self.model.weights:
            self._sites = self._found()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure before the first epoch."""
        if not self.history and self._sites is not None:
            self._measure(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, or repeat the last values."""
        self._epoch = epoch + 1
        is_last = self._epoch == (self.params or {}).get("epochs")
        if epoch % self.every == 0 or is_last or not self.history:
            self._measure(self._epoch)
        if logs is not None:
            figures = self.history[-1].items()
            logs.update({name: value for name, value in figures if name != "epoch"})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Measure if another callback has ended the training."""
        if self.history and self.history[-1]["epoch"] < self._epoch:
            self._measure(self._epoch)

    def plot(self) -> Any:
        """Draw the figures by epoch, one panel each.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If nothing has been measured yet.
        """
        # Only who draws needs matplotlib.
        from keras_mimetic._plot import plot_history

        return plot_history(self.history)

    def _found(self) -> list[Site]:
        check_model(self.model, self.inputs)
        self._known = {}
        sites = find_sites(self.model, self.structures, self.rules, self.inputs).sites
        if not sites:
            looked = layers_for(self.structures)
            warn(f"StructureLogger found nothing to measure. It looked for {looked}.")
        return sites

    def _measure(self, epoch: int) -> None:
        if self._sites is None:
            self._sites = self._found()
        by_name: dict[str, list[float]] = {}
        broken: set[str] = set()
        for site in self._sites:
            measured, _ = measure_site(site)
            key = f"{site.structure}/{site.layer_path}"
            means = _means(site.structure, measured.figures)
            if not means:
                # Weights that are not finite have no figures.
                means = dict.fromkeys(self._known.get(key, ()), math.nan)
                broken.update(means)
            self._known[key] = [*means]
            for name, value in means.items():
                by_name.setdefault(name, []).append(value)
        names = self._names(by_name) if self._sites else []
        row: dict[str, float] = {"epoch": epoch}
        for name in names:
            row[name] = math.nan if name in broken else mean_and_std(by_name[name])[0]
        if self.by_layer:
            for name in names:
                values = enumerate(by_name[name], start=1)
                row |= {f"{name}/layer_{number}": value for number, value in values}
        self.history.append(row)

    def _names(self, by_name: Mapping[str, list[float]]) -> list[str]:
        """Return the names of the logged figures, in order."""
        if self.figures is None:
            return [name for name in _drawn() if name in by_name]
        unknown = [name for name in self.figures if name not in by_name]
        if unknown:
            raise ValueError(
                f"Argument `figures` must be among those of the model: {', '.join(by_name)}. "
                f"Received: {', '.join(unknown)}"
            )
        return list(self.figures)


def _drawn() -> list[str]:
    """Return the names of the figures that `Measurements.plot` draws, in its order."""
    return [
        f"{structure}/{panel.part}/{panel.name}"
        for structure, entry in STRUCTURES.items()
        for panel in entry.figures
        if panel.panel
    ]


def _check_figures(figures: Any) -> tuple[str, ...] | None:
    if figures is None:
        return None
    is_list = isinstance(figures, Iterable) and not isinstance(figures, (str, Mapping))
    names = tuple(figures) if is_list else ()
    if not is_list or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "Argument `figures` must be None or names such as ['mlp/hidden_bias/mean']. "
            f"Received: figures={figures!r}"
        )
    return tuple(dict.fromkeys(names))


def _means(structure: str, figures: Iterable[Figure]) -> dict[str, float]:
    """Return the figures of one layer by name: of the whole, or the mean over its heads."""
    whole: dict[str, list[float]] = {}
    heads: dict[str, list[float]] = {}
    for figure in figures:
        values = whole if figure.head is None else heads
        name = f"{structure}/{figure.part}/{figure.name}"
        values.setdefault(name, []).append(figure.value)
    return {name: mean_and_std(values)[0] for name, values in {**heads, **whole}.items()}
