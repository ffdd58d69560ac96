"""Where runs happen: one interface, so that a study need not know.

A launcher does any number of runs under one folder and says how each ended. Whichever does them,
the run directories are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lowland.core.errors import InputError
from lowland.train.loop import CHECKPOINT_SECONDS
from lowland.train.pool import Event, run_all
from lowland.train.runnable import Runnable
from lowland.train.tracking import EVERY, LoggerFactory
from lowland.train.worker import Outcome

OnEvent = Callable[[Event], object]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How runs are watched while they happen.

    Attributes:
        on_event: called in this process with every `Event`.
        checkpoint_seconds: as for `run`.
        loggers: makes the loggers of each run, in the process that does it; None for none.
        log_every: as for `run`.
    """

    on_event: OnEvent = lambda event: None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    loggers: LoggerFactory | None = None
    log_every: int = EVERY


class Launcher(Protocol):
    """Does runs."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    @property
    def side_by_side(self) -> int | str:
        """How many runs there are at a time, as a number or in words."""

    def check(self) -> None:
        """Refuse what cannot work, before any work is done.

        Raises:
            InputError: a number makes no sense, or a package is missing.
        """

    def launch(self, recipes: Sequence[Runnable], root: Path, watch: Watch) -> list[Outcome]:
        """Do all runs under `root`; each ends as `run` alone would end it.

        A run that fails is one outcome with an error; the others go on. Ctrl-C, or an exception
        from `on_event`, stops all and leaves every run to be resumed by the next call.

        Returns:
            One outcome per recipe or experiment, in their order.

        Raises:
            InputError: the runs cannot be done at all.
        """


@dataclass(frozen=True, kw_only=True)
class Local:
    """Processes on this machine.

    Attributes:
        workers: how many at a time.
    """

    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def name(self) -> str:
        """``local``."""
        return "local"

    @property
    def side_by_side(self) -> int | str:
        """See `Launcher.side_by_side`."""
        return self.workers

    def check(self) -> None:
        """See `Launcher.check`."""
        if self.workers < 1:
            raise InputError(f"workers must be 1 or more, not {self.workers}")

    def launch(self, recipes: Sequence[Runnable], root: Path, watch: Watch) -> list[Outcome]:
        """See `Launcher.launch`."""
        return run_all(
            recipes,
            root,
            workers=self.workers,
            on_progress=watch.on_event,
            checkpoint_seconds=watch.checkpoint_seconds,
            loggers=watch.loggers,
            log_every=watch.log_every,
        )
