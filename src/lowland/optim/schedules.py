"""Schedules of the radius: pure functions of the step, so their state is the step counter.

The radius of a step is ``group["rho"] * schedule(step)``. The counter lives in the parameter
groups and travels with every checkpoint, so a resumed run continues the schedule exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from lowland.core.errors import InputError


class Schedule(Protocol):
    """step (from 0) → factor on ρ."""

    def __call__(self, step: int, /) -> float: ...


@dataclass(frozen=True)
class Linear:
    """From `first` to `last` in a straight line over `steps` steps, then constant.

    factor(t) = first + (last − first)·min(t/steps, 1).

    >>> Linear(10)(5)
    0.5
    """

    steps: int
    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def __call__(self, step: int, /) -> float:
        return self.first + (self.last - self.first) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cosine:
    """From `first` to `last` along half a cosine over `steps` steps, then constant.

    factor(t) = last + (first − last)·(1 + cos(π·min(t/steps, 1)))/2.

    >>> Cosine(10)(10)
    0.0
    """

    steps: int
    first: float = 1.0
    last: float = 0.0

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def __call__(self, step: int, /) -> float:
        share = min(step / self.steps, 1.0)
        return self.last + (self.first - self.last) * (1 + math.cos(math.pi * share)) / 2


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"a schedule over {steps} steps: give a positive number of steps")
