"""Argument checks and warnings shared by the whole package.

Each check returns the value as a plain Python object, so that configs can be saved as
JSON, or raises an error that names the argument, the allowed values and the received
value: a `TypeError` for a wrong type, a `ValueError` for a wrong value.
"""

import difflib
import inspect
import math
import numbers
import operator
import warnings
from collections.abc import Iterable, Mapping, Set
from typing import Any, Literal, TypeVar

import numpy as np

T = TypeVar("T")

# The value of arguments whose number the package chooses.
AUTO: Literal["auto"] = "auto"
# Far larger than any useful value, and safe in float32.
LARGEST = 1e6


def is_auto(value: Any) -> bool:
    """Return whether a value is the string `"auto"`."""
    # Arrays compare elementwise, so check the type first.
    return isinstance(value, str) and value == AUTO


def check_integer(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an `int` if it is an integer >= `minimum`, or raise."""
    allowed = f"an integer >= {minimum}"
    try:
        # In Python a `bool` is an `int`; as a seed or width it is always a mistake.
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(
            f"Argument `{name}` must be {allowed}. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if number < minimum:
        raise ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={number}")
    return number


def check_number(
    name: str,
    value: Any,
    *,
    low: float = -LARGEST,
    high: float = LARGEST,
    above: float = -math.inf,
    below: float = math.inf,
    or_: tuple[T, ...] = (),
) -> float | T:
    """Return `value` as a `float` if it is a finite number in a range, or raise.

    The range includes `low` and `high`, but not `above` and `below`. `or_` has strings, or
    `None`, that are allowed instead and returned as they are.
    """
    # Arrays compare elementwise, so check the type first.
    if isinstance(value, (str, type(None))) and value in or_:
        return value
    least = f"> {above:g}" if above >= low else f">= {low:g}"
    most = f"< {below:g}" if below <= high else f"<= {high:g}"
    choices = f"{', '.join(map(repr, or_))} or " if or_ else ""
    allowed = f"{choices}a finite number {least} and {most}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"Argument `{name}` must be {allowed}. Received: {name}={value!r} "
            f"(of type {type(value).__name__}){did_you_mean(value, or_)}"
        )
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        number = math.inf
    if not (math.isfinite(number) and low <= number <= high and above < number < below):
        raise ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={value}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Return `value` if it is `True` or `False`, or raise."""
    if not isinstance(value, bool):
        raise TypeError(f"Argument `{name}` must be True or False. Received: {name}={value!r}")
    return value


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return `value` if it is one of `choices`, or raise."""
    choices = tuple(choices)
    if not isinstance(value, (str, type(None))) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(
            f"Argument `{name}` must be one of {listed}. "
            f"Received: {name}={value!r}{did_you_mean(value, choices)}"
        )
    return value


def check_shape(shape: Any) -> tuple[int, ...]:
    """Return `shape` as a tuple of `int`s >= 0, or raise."""
    # Dicts and sets are iterable, but not sequences.
    if isinstance(shape, (str, bytes, Mapping, Set)) or not isinstance(shape, Iterable):
        raise TypeError(
            "Argument `shape` must be a sequence of integers >= 0, one per axis. "
            f"Received: shape={shape!r}"
        )
    shape = tuple(shape)
    if any(dim is None for dim in shape):
        raise ValueError(
            f"Argument `shape` must have a known size on every axis. Received: shape={shape}"
        )
    return tuple(check_integer("shape", dim, minimum=0) for dim in shape)


def did_you_mean(value: Any, known: Iterable[Any]) -> str:
    """Return a question that ends an error about a name, or `""` if no known name is like it."""
    names = {name.lower(): name for name in known if isinstance(name, str)}
    near = difflib.get_close_matches(str(value).lower(), names, n=1)
    return f". Did you mean {names[near[0]]!r}?" if near else ""


def printable(text: str) -> str:
    """Return a text with escapes for control characters, which names from elsewhere may have."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def warn(message: str) -> None:
    """Warn at the line of the code that calls the package."""
    frame, level = inspect.currentframe(), 1
    package = __name__.partition(".")[0]
    while frame and str(frame.f_globals.get("__name__")).partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(printable(message), stacklevel=level)
