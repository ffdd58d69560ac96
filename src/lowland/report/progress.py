"""How far a long job is: a bar on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 15.0


class Status(Protocol):
    """How far a job of several runs is."""

    @property
    def done(self) -> int:
        """Finished runs."""

    @property
    def total(self) -> int:
        """All runs."""

    @property
    def share(self) -> float:
        """Share of the work done, in [0, 1]."""


@contextlib.contextmanager
def shown(console: Console) -> Iterator[Callable[[Status], None]]:
    """A function to call with every `Status`; nothing is shown before the first call."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.fields[runs]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0, visible=False, runs="")

        def tell(status: Status) -> None:
            runs = f"{status.done} of {status.total} runs"
            progress.update(task, completed=status.share, visible=True, runs=runs)

        yield tell


@contextlib.contextmanager
def doing(console: Console) -> Iterator[Callable[[str], object]]:
    """A function to call with what is being done: a line that changes on a terminal, a new line
    every `LINE_SECONDS` anywhere else."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda words: status.update(Text(words))
        return
    last = time.monotonic()

    def tell(words: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            console.print(Text(words))
            last = time.monotonic()

    yield tell


class _Lines:
    """One line at the first news, then every `LINE_SECONDS`, and when all is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = -LINE_SECONDS
        self._said = ""

    def __call__(self, status: Status) -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS and status.done < status.total:
            return
        text = f"{status.done} of {status.total} runs, {status.share:.0%} of the work"
        if text != self._said:
            self._console.print(text, highlight=False)
        self._last, self._said = now, text
