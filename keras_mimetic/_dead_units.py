"""Hidden units of MLPs that are off for all inputs of a batch."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_mimetic._patterns.kernels import values_of
from keras_mimetic._patterns.mlp import MLPSite
from keras_mimetic._patterns.site import Site
from keras_mimetic._tracing.operations import channel_axis, own_activation

# A unit is off if the ratio of its activation to its pre-activation is below this in absolute
# value: below 0 for ReLU, below -2.3 for GELU, below -4.6 for SiLU.
OFF = 0.01
# For errors.
_ALLOWED = "an array, a dict or list of arrays, or a tuple of arguments"


def dead_units(model: Any, sites: Iterable[Site], data: Any) -> dict[str, float]:
    """Run a model on a batch and return the fraction of hidden units that are off for all inputs.

    The model runs once, in inference mode, and its weights do not change.

    Args:
        model: A built Keras model or layer.
        sites: Sites of the model; those of other structures than `"mlp"` are ignored.
        data: A batch of inputs: the first argument of `model`, such as an array, or a tuple
            of several arguments.

    Returns:
        The fraction of dead units by `Site.layer_path`, for MLPs whose hidden units can be
        observed.

    Raises:
        ValueError: if the model fails on `data`.
    """
    records = [_Record(site) for site in sites if isinstance(site, MLPSite) and site.activated_in]
    args = data if isinstance(data, tuple) else (data,)
    with contextlib.ExitStack() as stack:
        for record in records:
            stack.enter_context(record.listening())
        try:
            model(*args, training=False) if _takes_training(model) else model(*args)
        except Exception as error:
            shapes = keras.tree.map_structure(lambda x: getattr(x, "shape", x), args)
            raise ValueError(
                f"Argument `data` must be a batch of inputs that the model accepts: {_ALLOWED}. "
                f"Received: data of shapes {shapes}, for which the model raised "
                f"{type(error).__name__}: {_in_one_line(error)}"
            ) from error
    return {
        record.site.layer_path: float(1 - record.is_alive.mean())
        for record in records
        if record.is_alive is not None
    }


def _in_one_line(error: Exception) -> str:
    """Return the message of an error in one line, without the arguments that Keras lists."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("Arguments received by")[0]
    return " ".join(message.split())


def _takes_training(model: Any) -> bool:
    """Return whether `model(...)` accepts `training`, as every Keras model does."""
    return isinstance(model, keras.Model) or getattr(model, "_call_has_training_arg", False)


class _Record:
    """The activity of the hidden units of one MLP while its model runs."""

    def __init__(self, site: MLPSite) -> None:
        self.site = site
        self.is_alive: np.ndarray | None = None
        self._before: Any = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Observe the layers of the MLP, and restore them at the end."""
        first, second = self.site.layer, self.site.second
        activation = own_activation(first)
        replaced: list[tuple[Any, str, Any]] = []

        def replace(layer: Any, name: str, new: Any) -> None:
            # Bypass `__setattr__`, which tracks attributes.
            replaced.append((layer, name, vars(layer).get(name, _MISSING)))
            vars(layer)[name] = new

        def observe_pre_activation(x: Any) -> Any:
            self._before = x
            if activation is None:
                return x
            activated = activation(x)
            self._add(activated)
            return activated

        replace(first, "activation", observe_pre_activation)
        if activation is None:
            call = second.call

            def observe_hidden_units(x: Any, *args: Any, **kwargs: Any) -> Any:
                self._add(x)
                return call(x, *args, **kwargs)

            replace(second, "call", observe_hidden_units)
        try:
            yield
        finally:
            for layer, name, old in reversed(replaced):
                if old is _MISSING:
                    del vars(layer)[name]
                else:
                    vars(layer)[name] = old

    def _add(self, activated: Any) -> None:
        """Record the units that are on for at least one input."""
        before, after = values_of(self._before), values_of(activated)
        # Diverged weights leave units undefined, not dead.
        if before.shape != after.shape or not np.isfinite(before).any():
            return
        axis = channel_axis(self.site.layer, before.ndim)
        is_on = np.abs(after) > OFF * np.abs(before)
        is_on = is_on.any(axis=tuple(a for a in range(before.ndim) if a != axis))
        self.is_alive = is_on if self.is_alive is None else self.is_alive | is_on


_MISSING = object()


def check_data(model: Any, data: Any) -> None:
    """Raise unless `data` contains arrays with samples and without NaN.

    Raises:
        TypeError: if it does not contain arrays.
        ValueError: for an array without samples, or with NaN.
    """
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise TypeError(
            f"Argument `data` must be a batch of inputs of {model.name!r}: {_ALLOWED}. "
            f"Received: data={data!r} (of type {type(data).__name__})"
        )
    for leaf in leaves:
        if 0 in leaf.shape:
            raise ValueError(
                "Argument `data` must have at least one sample. "
                f"Received: an array of shape {tuple(leaf.shape)}"
            )
        if "float" in str(leaf.dtype) and np.isnan(values_of(leaf)).any():
            raise ValueError(
                "Argument `data` must not contain NaN. "
                f"Received: NaN in an array of shape {tuple(leaf.shape)}"
            )
