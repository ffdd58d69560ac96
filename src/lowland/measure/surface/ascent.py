"""Climbing inside a ball: projected ascent along the steepest direction, with what it visits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lowland.measure.surface.balls import norm_of, project, steepest
from lowland.measure.surface.objective import Point

Look = Callable[[Sequence[Tensor], bool], tuple[Point, Sequence[Tensor | None] | None]]
"""(z, whether a gradient is wanted) -> what is there, and ∂L/∂z."""

ASCENTS = {"fixed": 0.1, "halving": 2.0}
"""Kinds of ascent, and their first step as a share of the radius."""

_MOMENTUM = 0.75
_LEAST_RISING = 0.75


@dataclass
class Summit:
    """The highest point that a climb has seen; NaN, the overflow of a pass, is above all.

    Attributes:
        point: what is there.
        radius: how far out it is, in the norm of the ball.
        halfway: the highest loss seen when half of the steps were done.
        z: where it is, if asked for.
        blind: whether the climb ended where the loss is finite and its gradient is not.
    """

    p: float
    keep: bool = False
    point: Point | None = None
    radius: float = 0.0
    halfway: float = -math.inf
    z: list[Tensor] = field(default_factory=list)
    blind: bool = False

    @property
    def height(self) -> float:
        """The highest loss."""
        return -math.inf if self.point is None else _height(self.point)

    def see(self, point: Point, z: Sequence[Tensor]) -> bool:
        """Look at one more point; whether it is the highest so far."""
        if self.point is not None and _height(point) <= self.height:
            return False
        self.point, self.radius = point, norm_of(z, self.p)
        if self.keep:
            self.z = [t.clone() for t in z]
        return True


def _height(point: Point) -> float:
    return math.inf if math.isnan(point.loss) else point.loss


def climb(
    look: Look,
    z: list[Tensor],
    *,
    p: float,
    rho: float,
    kind: str,
    steps: int,
    step: float,
) -> Summit:
    """The highest point of an ascent in ‖z‖_p ≤ ρ from `z`, which it uses up.

    "fixed": z ← P(z + s·ρ·J(∂L/∂z)), every step of the same length. "halving" is the scheme of
    APGD (Croce and Hein 2020): three quarters of such a step and a quarter of the last move, and at
    growing intervals the step is halved, and the ascent goes back to its highest point, where
    fewer than three quarters of the steps went up, or nothing was gained since the last look.

    Cost: `steps` passes with a gradient and one without, and one more with a gradient for each time
    that halving goes back; z and a gradient, and three more of z if halving.
    """
    halving = kind == "halving"
    summit = Summit(p, keep=halving)
    pace = _Pace(steps, step * rho)
    before = [t.clone() for t in z] if halving else z
    for k in range(steps):
        point, slope = look(z, True)
        rose = summit.see(point, z)
        if k <= steps // 2:
            summit.halfway = summit.height
        if not math.isfinite(point.loss) or slope is None:
            return summit
        if halving and pace.slower(k, rose, summit.height):
            _to(z, summit.z)
            _to(before, summit.z)
            slope = look(z, True)[1] or slope
        directions, divisor = steepest(slope, p)
        if not math.isfinite(divisor):
            summit.blind = math.isnan(divisor)
            return summit
        if not halving:
            project(_add(z, directions, pace.length / divisor), p, rho)
            continue
        ahead = project(_add([t.clone() for t in z], directions, pace.length / divisor), p, rho)
        del slope, directions
        share = _MOMENTUM if k else 1.0
        # z + a·(ahead - z) + (1 - a)·(z - before), in the memory of `ahead`
        for new, now, old in zip(ahead, z, before, strict=True):
            new.mul_(share).add_(now, alpha=2 - 2 * share).add_(old, alpha=share - 1)
        before, z = z, list(project(ahead, p, rho))
    summit.see(look(z, False)[0], z)
    return summit


class _Pace:
    """The length of the next step: halved at the looks of APGD if too few steps went up."""

    def __init__(self, steps: int, length: float) -> None:
        self.length = length
        self._looks = looks(steps)
        self._last = self._rising = 0
        self._height = -math.inf
        self._halved = True

    def slower(self, k: int, rose: bool, height: float) -> bool:
        """After point k: whether the step is halved now."""
        self._rising += rose and k > 0
        if k not in self._looks:
            return False
        few = self._rising < _LEAST_RISING * (k - self._last)
        stuck = not self._halved and height == self._height
        self._last, self._rising, self._height = k, 0, height
        self._halved = few or stuck
        if self._halved:
            self.length /= 2
        return self._halved


def looks(steps: int) -> set[int]:
    """After which steps APGD looks at its progress: at 22%, then at shares that shrink by 3% of all
    steps, and by no less than 6% apart.

    >>> sorted(looks(20))
    [5, 9, 12, 14, 16, 18, 19]
    """
    percent = [0, 22]
    while percent[-1] < 100:
        percent.append(percent[-1] + max(percent[-1] - percent[-2] - 3, 6))
    return {-(-share * steps // 100) for share in percent[1:] if share * steps <= 100 * (steps - 1)}


def _add(z: list[Tensor], steps: Sequence[Tensor | None], length: float) -> list[Tensor]:
    for t, step in zip(z, steps, strict=True):
        if step is not None:
            t.add_(step, alpha=length)
    return z


def _to(z: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for t, value in zip(z, values, strict=True):
        t.copy_(value)
