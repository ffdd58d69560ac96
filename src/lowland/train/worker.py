"""A process of the pool: it takes recipes from a pipe, runs them, and says how it went."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from lowland.core.errors import InputError
from lowland.train.loop import run
from lowland.train.progress import Progress
from lowland.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run to do, under `root`."""

    recipe: Recipe
    root: Path
    checkpoint_seconds: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run of the pool ended.

    Attributes:
        recipe: what was asked for.
        folder: its run directory, complete; None if the run failed.
        error: why it failed, in one line; None if it did not.
        detail: the traceback of an error that was not foreseen.
    """

    recipe: Recipe
    folder: Path | None = None
    error: str | None = None
    detail: str | None = None


def main(descriptor: int) -> None:
    """Serve the pipe until the other end is closed, or its process gone."""
    with Connection(descriptor) as channel:
        while True:
            try:
                task = channel.recv()
            except EOFError:
                return
            _send(channel, attempt(task, channel))


def attempt(task: Task, channel: Connection) -> Outcome:
    """Run a task; whatever goes wrong becomes part of the outcome."""
    try:
        folder = run(
            task.recipe,
            task.root,
            on_progress=lambda progress: _send(channel, progress),
            checkpoint_seconds=task.checkpoint_seconds,
        )
    except InputError as error:
        return Outcome(recipe=task.recipe, error=str(error))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(recipe=task.recipe, error=reason, detail=traceback.format_exc())
    return Outcome(recipe=task.recipe, folder=folder)


def _send(channel: Connection, news: Progress | Outcome) -> None:
    try:
        channel.send(news)
    except OSError:  # nobody listens any more: the state on disk is all that matters
        raise SystemExit(1) from None
