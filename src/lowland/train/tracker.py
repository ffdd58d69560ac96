"""The metrics of one run on their way to its loggers.

Points are kept with the state and sent only once it is on disk, so that a resumed run, which goes
on from that state, sends nothing twice and misses nothing:

    state committed with the points since the last one → points sent → ``tracked.json`` says so

A kill between the last two lets a run send some points again: the trackers that `Tracking` makes
for files are told to forget those.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError
from lowland.core.files import read_json, write_json
from lowland.train.directory import TRACKED
from lowland.train.history import Row, Value
from lowland.train.tracking import EVERY, Logger, LoggerFactory

if TYPE_CHECKING:
    from lowland.train.runnable import Runnable

TRIES = 3
"""Commits in a row at which a logger may fail; after that it gets nothing more."""

Loggers = Sequence[Logger] | LoggerFactory


class TrackingWarning(UserWarning):
    """A logger failed; the run goes on."""


class Tracker:
    """What one run sends to its loggers.

    Attributes:
        points: what is not sent yet, by step; part of the run's state.

    Args:
        loggers: the loggers, or what makes them; those that it makes are also finalized.
        folder: the run directory.
        recipe: what is run.
        run: name of the run.
        points: as the state that the run goes on from has them.
        every: updates between two points.
    """

    def __init__(
        self,
        loggers: Loggers,
        folder: Path,
        *,
        recipe: Runnable,
        run: str,
        points: Sequence[Row],
        every: int = EVERY,
    ) -> None:
        self._folder, self._every = folder, every
        sent = _sent(folder)
        self.points = [dict(point) for point in points if _step(point) > sent]
        self._outlets: list[_Outlet] = []
        self._made: list[Logger] = []
        first = sent + 1
        if callable(loggers):
            self._made = self._make(loggers, recipe, run, first)
        self._outlets = [_Outlet(logger) for logger in self._made or _listed(loggers)]
        if sent < 0:
            for outlet in self._outlets:
                outlet.describe({**recipe.to_dict(), "run": run})

    def _make(self, loggers: LoggerFactory, recipe: Runnable, run: str, first: int) -> list[Logger]:
        try:
            return list(loggers(recipe, run, first))
        except Exception as error:
            _warn(f"no logger for run {run} ({_reason(error)}): the run goes on without")
            return []

    def wants(self, step: int) -> bool:
        """Whether the update that has just been done, number `step` from 1, makes a point."""
        return bool(self._outlets) and (step - 1) % self._every == 0

    def add(self, step: int, values: Mapping[str, Value]) -> None:
        """Values of a step, beside those that it has already."""
        if not self._outlets:
            return
        if not (self.points and self.points[-1]["step"] == step):
            self.points.append({"step": step})
        self.points[-1].update(values)

    def add_row(self, row: Row) -> None:
        """An evaluation."""
        values = {f"eval/{name}": value for name, value in row.items() if name != "step"}
        self.add(_step(row), {name: v for name, v in values.items() if v is not None})

    def send(self) -> None:
        """Pass the points on; they are part of the state on disk by now."""
        if not (self.points and self._outlets):
            return
        for outlet in self._outlets:
            outlet.send(self.points)
        write_json(self._folder / TRACKED, {"step": _step(self.points[-1])})
        self.points = []

    def close(self, status: str) -> None:
        """Finalize the loggers that were made for this run."""
        for outlet in self._outlets:
            if outlet.logger in self._made:
                outlet.close(status)


class _Outlet:
    """One logger, and what it has not taken yet."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self._waiting: deque[Row] = deque()
        self._failures, self._warned = 0, False

    def describe(self, settings: dict[str, Any]) -> None:
        """Tell the logger what the run is, if it has a place for that."""
        describe = getattr(self.logger, "log_hyperparams", None)
        if describe is None:
            return
        try:
            describe(settings)
        except NotImplementedError:  # Lightning's CSVLogger
            pass
        except Exception as error:
            self._failed(error)

    def send(self, points: Sequence[Row]) -> None:
        """Log the points and those that an earlier failure left; written when this returns."""
        if self._failures >= TRIES:
            return
        self._waiting.extend(points)
        try:
            while self._waiting:
                values = dict(self._waiting[0])
                self.logger.log_metrics(values, step=int(values.pop("step") or 0))
                self._waiting.popleft()
            self.logger.save()
        except Exception as error:
            self._failed(error)
        else:
            self._failures = 0

    def close(self, status: str) -> None:
        if self._failures >= TRIES:
            return
        try:
            self.logger.finalize(status)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if not self._warned:
            self._warned = True
            _warn(
                f"logger {type(self.logger).__name__} failed ({_reason(error)}): the run goes on, "
                f"without it if it fails {TRIES} times in a row"
            )


def check_loggers(loggers: Loggers) -> None:
    """Refuse what is no logger before anything runs.

    Raises:
        InputError: it has not the methods of one.
    """
    if callable(loggers):
        return
    for logger in _listed(loggers):
        if not all(hasattr(logger, name) for name in ("log_metrics", "save", "finalize")):
            raise InputError(
                f"loggers must be a list of Lightning Fabric loggers, and {logger!r} is none: "
                "for example loggers=[lightning_fabric.loggers.TensorBoardLogger('logs')]"
            )


def _listed(loggers: Loggers) -> Sequence[Logger]:
    if callable(loggers):
        return []
    return loggers if isinstance(loggers, list | tuple) else [loggers]  # type: ignore[list-item]


def _sent(folder: Path) -> int:
    """The last step that loggers have been given; -1 at the start."""
    path = folder / TRACKED
    return int(read_json(path)["step"]) if path.exists() else -1


def _step(row: Mapping[str, Value]) -> int:
    return int(row["step"] or 0)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _warn(text: str) -> None:
    warnings.warn(text, TrackingWarning, stacklevel=2)
