"""Caches that hold large arrays, which public calls empty before they return."""

from collections.abc import Callable

# The `cache_clear` of each of them.
cache_clears: list[Callable[[], None]] = []


def clear_caches() -> None:
    """Empty all large caches."""
    for cache_clear in cache_clears:
        cache_clear()
