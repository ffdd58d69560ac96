"""What the loop asks of a kind of training: a plan that names the run, and parts that do the work.

The loop (`lowland.train.loop`) counts updates, keeps the state, resumes, logs and finishes the
directory. What an update is, on which batches, and what is measured, is the job's. There are two:
`Plan` (one network on labelled images) and `lowland.train.contrastive` (two towers on pairs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from lowland.train.history import Row
from lowland.train.runnable import Runnable
from lowland.train.state import State


class Trained(Runnable, Protocol):
    """The part of a recipe that the loop reads."""

    @property
    def threads(self) -> int:
        """CPU threads."""

    @property
    def evaluations(self) -> int:
        """Number of evaluations after the one at the start."""

    @property
    def lr(self) -> float:
        """Learning rate at the start."""

    @property
    def schedule(self) -> str:
        """Name of its schedule."""


class Updates(Protocol):
    """A network in training."""

    @property
    def module(self) -> nn.Module:
        """The network: its state is the run's."""

    @property
    def optimizer(self) -> Any:
        """What steps: its state is the run's."""

    @property
    def skipped(self) -> int:
        """Updates skipped so far because a gradient was not finite."""

    def update(self, step: int, *batch: Any, **named: Any) -> Tensor | None:
        """Update number `step` (from 0) on a batch; the loss at w, None if nobody knows it."""

    def metrics(self, loss: Tensor | None) -> dict[str, float]:
        """The last update in numbers, by the names that loggers get."""

    def restore(self, state: State) -> None:
        """Go on from `state`."""


class Evaluates(Protocol):
    """What makes the rows of the history."""

    definitions: dict[str, str]

    @property
    def finite(self) -> bool:
        """Whether the last evaluation found finite losses; the run stops where it did not."""

    def __call__(self, *, start: bool = False, end: bool = False) -> Row:
        """A new row; those of the start and the end may have more columns."""


class Measuring(Protocol):
    """What a recipe measures beside its evaluations (`lowland.train.measures`)."""

    def wants(self, step: int) -> bool:
        """Whether to measure after `step` updates."""

    def first(self) -> Row | None:
        """The row at step 0, if one is wanted."""

    def resume(self, rows: Sequence[Row]) -> None:
        """Go on after these rows."""

    def __call__(self, step: int) -> Row:
        """A row."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Work:
    """A job at work on its device.

    Attributes:
        trainer: makes updates.
        evaluator: makes rows of the history.
        batches: (epoch, step in it) -> the batches of that epoch from there on, each a tuple of
            tensors that `trainer.update` takes; from counters alone, so that a run resumes.
        measures: measures beside that; None for nothing.
    """

    trainer: Updates
    evaluator: Evaluates
    batches: Callable[[int, int], Iterator[tuple[Tensor, ...]]]
    measures: Measuring | None = None


class Job(Protocol):
    """A recipe with everything looked up that it names."""

    @property
    def recipe(self) -> Trained:
        """What is asked."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def run(self) -> str:
        """Name of the run: a hash of what determines it."""

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the training data."""

    @property
    def steps(self) -> int:
        """Updates in the whole run."""

    def record(self) -> dict[str, Any]:
        """What ``run.json`` holds from the start."""

    def start(self) -> Work:
        """Put the data on the device and build what trains and measures there."""
