"""Results that the runs of one process share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Found = TypeVar("Found")


class Kept:
    """The last few results by key; what is needed again is not made again.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._found = most, dict[Hashable, Any]()

    def __call__(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """The result for `key`, made if it is not there."""
        if key not in self._found:
            while len(self._found) >= self._most:
                del self._found[next(iter(self._found))]
            self._found[key] = make()
        found: Found = self._found[key]
        return found
