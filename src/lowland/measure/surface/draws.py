"""The rise of the loss in draws of noise on the weights, and the mean of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lowland.core.student import student_t
from lowland.measure.averages import mean_of
from lowland.measure.surface.around import Around
from lowland.measure.surface.balls import scaled
from lowland.measure.surface.groups import Chunk
from lowland.measure.surface.noise_law import NoiseLaw
from lowland.measure.surface.objective import Objective, Point, rise


class Rises:
    """The rise of the loss in each of some draws, group by group."""

    def __init__(
        self,
        law: NoiseLaw,
        around: Around,
        scales: Sequence[Tensor | None],
        draws: Iterable[int],
        seed: int,
    ) -> None:
        self._law, self._around, self._scales = law, around, scales
        self._draws, self._seed = list(draws), seed
        self._rises: list[list[float]] = []
        self._wrong: list[list[float] | None] = []
        self.sizes: list[int] = []
        self.losses: list[float] = []

    def add(self, number: int, group: Iterable[Chunk], objective: Objective) -> None:
        """All draws for one more group."""
        low = objective.point()
        pairs = [self._draw(objective, low, number, draw) for draw in self._draws]
        self._around.back()
        self.sizes.append(low.n)
        self.losses.append(low.loss)
        self._rises.append([risen for risen, _ in pairs])
        errors = [wrong for _, wrong in pairs if wrong is not None]
        self._wrong.append(errors if len(errors) == len(pairs) else None)

    def _draw(
        self, objective: Objective, low: Point, group: int, draw: int
    ) -> tuple[float, float | None]:
        like = self._around.weights
        steps = scaled(self._law.draw(like, self._seed, draw, group), self._scales)
        signs = (1.0, -1.0) if self._law.antithetic else (1.0,)
        points = []
        for sign in signs:
            self._around.put((sign, steps))
            points.append(objective.point())
        risen = sum(rise(low.loss, point.loss) for point in points) / len(points)
        if low.error is None or any(point.error is None for point in points):
            return risen, None
        return risen, sum(point.error or 0.0 for point in points) / len(points) - low.error

    def values(self) -> list[float]:
        """For each draw, the mean rise over all examples."""
        return [mean_of(column, self.sizes) for column in zip(*self._rises, strict=True)]

    def wrong(self) -> list[float] | None:
        """For each draw, the mean rise of the error."""
        rows = [row for row in self._wrong if row is not None]
        if len(rows) < len(self._wrong):
            return None
        return [mean_of(column, self.sizes) for column in zip(*rows, strict=True)]


MoreDraws = Callable[[int, int], Rises]
"""From the numbers of the first draw and of the one after the last to what they give."""


@dataclass(frozen=True)
class Estimate:
    """The mean over draws, and how certain it is.

    Attributes:
        mean: of the rises.
        error: its standard error.
        interval: 95%.
        draws: how many there were.
        converged: whether the tolerance was reached, if there was one.
        wrong: mean rise of the share of examples misclassified.
    """

    mean: float
    error: float | None
    interval: tuple[float, float] | None
    draws: int
    converged: bool
    wrong: float | None


def two_stages(found: Rises, more: MoreDraws, tolerance: float | None, most: int) -> Estimate:
    """The mean of all draws, with an interval of the spread of the first ones."""
    values, wrong = found.values(), found.wrong()
    first = len(values)
    spread = _deviation(values)
    half = None
    while True:
        mean = sum(values) / len(values)
        if spread is not None:
            half = student_t(0.95, first - 1) * spread / math.sqrt(len(values))
        if tolerance is None or half is None or not math.isfinite(mean) or len(values) >= most:
            break
        needed = _needed(half, tolerance * abs(mean), len(values), most)
        if needed <= len(values):
            break
        extra = more(len(values), needed)
        values += extra.values()
        wrong = None if wrong is None else wrong + (extra.wrong() or [])
    done = half is not None and math.isfinite(half) and half <= (tolerance or 0) * abs(mean)
    return Estimate(
        mean=mean,
        error=None if spread is None else spread / math.sqrt(len(values)),
        interval=None if half is None else (mean - half, mean + half),
        draws=len(values),
        converged=math.isfinite(mean) if tolerance is None else done,
        wrong=None if wrong is None else sum(wrong) / len(wrong),
    )


def _needed(half: float, target: float, now: int, most: int) -> int:
    """How many draws make the half-width no more than the target."""
    if half <= target:
        return now
    if half >= target * most:
        return most
    return min(most, max(now + 1, math.ceil(now * (half / target) ** 2)))


def _deviation(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
