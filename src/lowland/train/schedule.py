"""What happens at which step: the learning rate and the evaluations, from counters alone."""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(fraction: float) -> float:
    """Factor 1 throughout."""
    return 1.0


def step(fraction: float) -> float:
    """Factor 1, then 0.1 from half of training on, then 0.01 from nine tenths on."""
    return 1.0 if fraction < 0.5 else 0.1 if fraction < 0.9 else 0.01


def cosine(fraction: float) -> float:
    """Factor (1 + cos(π·fraction)) / 2: from 1 down to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


def halves(fraction: float) -> float:
    """Factor 1, a tenth from half of training on, a hundredth from three quarters on."""
    return 1.0 if fraction < 0.5 else 0.1 if fraction < 0.75 else 0.01


def quarters(fraction: float) -> float:
    """Factor 1, and another tenth of it from every quarter of training on."""
    return 0.1 ** int(4 * fraction)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
    "halves": halves,
    "quarters": quarters,
}
"""Learning-rate factor by name, as a function of the fraction of training that is done."""


def learning_rate(schedule: str, lr: float, *, step: int, steps: int) -> float:
    """Learning rate of update number `step` (from 0) out of `steps`.

    It depends on the counter alone, so nothing of it has to be kept to resume.
    """
    return lr * SCHEDULES[schedule](step / steps)


def evaluation_steps(steps: int, evaluations: int) -> tuple[int, ...]:
    """Numbers of finished updates at which a run is evaluated: 0, evenly spread, and the end.

    >>> evaluation_steps(100, 4)
    (0, 25, 50, 75, 100)
    """
    return tuple(sorted({index * steps // evaluations for index in range(evaluations + 1)}))
