"""A cache with bounds: what was used last, as much as there is room for."""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """Keeps values by key, and drops those that were used longest ago.

    Args:
        limit: The sizes of all values come to no more than this. A value that is larger
            alone is not kept.
        size: Gives a value's size; by default all have 1.
    """

    def __init__(self, limit: int, size: Callable[[T], int] = lambda value: 1) -> None:
        self.limit = limit
        self._size = size
        self._values: collections.OrderedDict[Hashable, T] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made if it is not there, by one thread at a time."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            value = make()
            if self._size(value) <= self.limit:
                self._values[key] = value
            while sum(map(self._size, self._values.values())) > self.limit:
                self._values.popitem(last=False)
            return value

    def clear(self, larger_than: int = 0) -> None:
        """Drops the values of a larger size."""
        with self._lock:
            for key in [k for k, v in self._values.items() if self._size(v) > larger_than]:
                del self._values[key]

    def __len__(self) -> int:
        return len(self._values)
