"""A least-recently-used cache of bounded size."""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """A thread-safe cache that drops the least recently used values.

    Args:
        limit: Maximum of the sum of the sizes of all values. A larger value is not kept.
        size: Function that returns the size of a value; 1 by default.
    """

    def __init__(self, limit: int, size: Callable[[T], int] = lambda value: 1) -> None:
        self.limit = limit
        self._size = size
        self._values: collections.OrderedDict[Hashable, T] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, or make it; one thread at a time."""
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
        """Drop the values whose size is larger than `larger_than`."""
        with self._lock:
            for key in [k for k, v in self._values.items() if self._size(v) > larger_than]:
                del self._values[key]

    def __len__(self) -> int:
        return len(self._values)
