"""A process that does runs: it takes them from a pipe, one by one, and says how each went."""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.train.kinds import run_any
from lowland.train.progress import Note, Progress
from lowland.train.runnable import Runnable
from lowland.train.tracker import TrackingWarning
from lowland.train.tracking import EVERY, LoggerFactory

News = Progress | Note


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run to do, under `root`; the rest is as for `run`."""

    recipe: Runnable
    root: Path
    checkpoint_seconds: float
    loggers: LoggerFactory | None = None
    log_every: int = EVERY
    patience: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run of several ended.

    Attributes:
        recipe: what was asked for: a recipe, or an experiment.
        folder: its run directory, complete; None if the run failed.
        error: why it failed, in one line; None if it did not.
        detail: the traceback of an error that was not foreseen.
    """

    recipe: Runnable
    folder: Path | None = None
    error: str | None = None
    detail: str | None = None


def main(descriptor: int, lifeline: int) -> None:
    """Serve the pipe until the other end is closed, or its process gone.

    Args:
        descriptor: of this end of the pipe.
        lifeline: of a pipe that nobody writes to and whose other end goes with the other process;
            a run may have nothing to say for minutes, and would keep its directory for so long.
    """
    threading.Thread(target=die_with, args=(lifeline,), daemon=True).start()
    with Connection(descriptor) as channel:
        while True:
            try:
                task = channel.recv()
            except EOFError:
                return
            _send(channel, attempt(task, lambda news: _send(channel, news)))


def die_with(lifeline: int) -> None:
    """End this process, at whatever it is, once the other end of a pipe is closed."""
    while os.read(lifeline, 1):
        pass
    os._exit(1)  # as a kill: the state on disk is whole at every moment


def attempt(task: Task, tell: Callable[[News], object]) -> Outcome:
    """Run a task; whatever goes wrong becomes part of the outcome."""
    try:
        with _notes(tell):
            folder = run_any(
                task.recipe,
                task.root,
                on_progress=tell,
                checkpoint_seconds=task.checkpoint_seconds,
                loggers=task.loggers or (),
                log_every=task.log_every,
                patience=task.patience,
            )
    except InputError as error:
        return Outcome(recipe=task.recipe, error=str(error))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(recipe=task.recipe, error=reason, detail=traceback.format_exc())
    return Outcome(recipe=task.recipe, folder=folder)


@contextlib.contextmanager
def _notes(tell: Callable[[Note], object]) -> Iterator[None]:
    """Warnings about loggers go where the progress goes, not into the middle of a terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TrackingWarning)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, TrackingWarning):
                tell(Note(text=str(message)))
            else:
                shown(message, category, *where)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _send(channel: Connection, news: News | Outcome) -> None:
    try:
        channel.send(news)
    except OSError:  # nobody listens any more: the state on disk is all that matters
        raise SystemExit(1) from None
