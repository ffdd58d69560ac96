"""What a run tells its caller while it works."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lowland.train.history import Row


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is.

    Attributes:
        run: name of the run.
        step: updates done.
        steps: updates in all.
        row: the evaluation just made, if this is the news.
        finished: the run is over and its directory complete.
    """

    run: str
    step: int
    steps: int
    row: Row | None = None
    finished: bool = False


OnProgress = Callable[[Progress], object]


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something about a run that people should read, in one line."""

    text: str


class Throttle:
    """True at most once every `seconds`, so that telling costs nothing."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self) -> bool:
        """Whether it is time again; if so, the clock starts anew."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
