"""Argument checks and warnings shared by the whole package.

Each check returns the value as a plain Python object, so that configs can be saved as
JSON, or raises an error that names the argument, the allowed values and the received
value: a `TypeError` for a wrong type, a `ValueError` for a wrong value.
"""

import inspect
import math
import numbers
import operator
import warnings
from collections.abc import Iterable, Mapping, Set
from typing import Any, Literal

# The value of arguments whose number the package chooses.
AUTO: Literal["auto"] = "auto"


def is_auto(value: Any) -> bool:
    """Return whether a value is the string `"auto"`."""
    # Arrays compare elementwise, so check the type first.
    return isinstance(value, str) and value == AUTO


def check_integer(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an `int` if it is an integer >= `minimum`, or raise."""
    # In Python a `bool` is an `int`; as a seed or width it is always a mistake.
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(
            f"Argument `{name}` must be an integer >= {minimum}. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    try:
        value = operator.index(value)
    except TypeError as error:  # e.g. a NumPy array of several elements
        raise TypeError(
            f"Argument `{name}` must be an integer >= {minimum}. Received: {name}={value!r}"
        ) from error
    if value < minimum:
        raise ValueError(
            f"Argument `{name}` must be an integer >= {minimum}. Received: {name}={value}"
        )
    return value


def check_number(name: str, value: Any, allowed: str = "a finite number") -> float:
    """Return `value` as a `float` if it is a finite real number, or raise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"Argument `{name}` must be {allowed}. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={value}")
    return number


def check_positive(name: str, value: Any, allowed: str = "a finite number > 0") -> float:
    """Return `value` as a `float` if it is a finite real number > 0, or raise."""
    number = check_number(name, value, allowed)
    if number <= 0:
        raise ValueError(f"Argument `{name}` must be {allowed}. Received: {name}={value}")
    return number


def check_fraction(name: str, value: Any) -> float:
    """Return `value` as a `float` if it is a number in [0, 1), or raise."""
    allowed = "a number in [0, 1)"
    number = check_number(name, value, allowed)
    if not 0 <= number < 1:
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
        raise ValueError(f"Argument `{name}` must be one of {listed}. Received: {name}={value!r}")
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
    for dim in shape:
        if dim is None:
            raise ValueError(
                f"Argument `shape` must have a known size on every axis. Received: shape={shape}"
            )
        check_integer("shape", dim, minimum=0)
    return tuple(operator.index(dim) for dim in shape)


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
