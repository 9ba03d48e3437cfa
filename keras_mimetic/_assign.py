"""Atomic assignment to the variables of a model."""

import collections
import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_mimetic._patterns.kernels import Part, values_of

Pairs = list[tuple[Any, np.ndarray]]


def assign_all(new: Iterable[tuple[Any, np.ndarray]], old: Pairs | None = None) -> Pairs:
    """Write values to variables, or parts of them; if one fails, restore all.

    Args:
        new: Variables or `Part`s of variables, with their new values. With torch, arrays among
            them are overwritten.
        old: Empty list for the result, for a caller that restores it after an interrupt.

    Returns:
        The whole variables with their previous values, in their own precision, for `restore`.
    """
    old = [] if old is None else old
    whole = _whole(new)
    free = _free_after_use([values for _, values in whole])
    try:
        for variable, values in whole:
            previous = _previous(variable)
            old.append((variable, previous))
            variable.assign(values)
            if id(values) in free and values.dtype == previous.dtype:
                # Allocating new memory would cost more than everything else here.
                values[...] = previous
                old[-1] = (variable, values)
    except BaseException:
        restore(old)
        raise
    return old


def restore(old: Pairs) -> None:
    """Assign the values that `assign_all` returned; Ctrl-C waits until that is done."""
    with _deferred_interrupts():
        # The last first: two variables may share their memory.
        for variable, values in reversed(old):
            variable.assign(values)


@contextlib.contextmanager
def _deferred_interrupts() -> Iterator[None]:
    """Handle SIGINT at the end of this context."""
    handler = signal.getsignal(signal.SIGINT)
    # Python handles signals in its main thread.
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    received: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            handler(*received[0])


def _previous(variable: Any) -> np.ndarray:
    """Return a snapshot of the values of a variable, in its own precision."""
    values: np.ndarray = keras.ops.convert_to_numpy(variable)
    # Arrays of JAX never change, and are not writeable.
    return values.copy() if values.flags.writeable and not values.flags.owndata else values


def _free_after_use(arrays: list[Any]) -> set[int]:
    """Return the ids of the arrays whose memory nothing else uses after the assignment."""
    if keras.backend.backend() != "torch":
        # The others may keep the memory of an array for the variable.
        return set()
    bases = [_base(array) for array in arrays]
    count = collections.Counter(map(id, bases))
    return {
        id(array)
        for array, base in zip(arrays, bases, strict=True)
        if count[id(base)] == 1 and base.flags.owndata and base.flags.writeable
    }


def _base(array: np.ndarray) -> np.ndarray:
    """Return the array that a view is of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _whole(new: Iterable[tuple[Any, np.ndarray]]) -> Pairs:
    """Return the values of whole variables, from values of variables and parts."""
    whole: dict[int, tuple[Any, np.ndarray]] = {}
    for variable, values in new:
        if isinstance(variable, Part):
            base = variable.variable
            before = whole[id(base)][1] if id(base) in whole else values_of(base)
            whole[id(base)] = base, variable.put(before, values)
        else:
            whole[id(variable)] = variable, values
    return list(whole.values())
