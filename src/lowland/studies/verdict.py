"""The one decision rule of every study: from one effect per seed to a verdict in words.

Effects are paired: each is a difference between runs that share a seed, with its sign chosen so
that the published claim says "positive". The rule looks only at a two-sided t interval of their
mean. It is widened by Bonferroni's correction, confidence 1 - 0.05 / family where family is the
number of claims the study declares, so all intervals of a study cover their means together with
probability at least 95% (for normal effects), and interval and verdict can never disagree.

A claim of a difference fixes `AtLeast(delta)`, the smallest effect that matters:

    low >= delta            holds
    high < delta            does not hold
    otherwise               cannot tell

A claim of equality fixes `Within(margin)`:

    -margin < low and high < margin         holds
    low >= margin or high <= -margin        does not hold
    otherwise                               cannot tell

So at a true effect of exactly delta (or margin) either wrong or lucky word comes up with
probability at most 2.5% / family. One seed is never a result, and an effect that is not finite (a
run that diverged) is never dropped: both are *cannot tell*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lowland.core.errors import InputError
from lowland.report.intervals import CONFIDENCE, Interval, t_interval

Word = Literal["holds", "does not hold", "cannot tell", "no data here"]

RULE = (
    "Effects are paired by seed and signed so that the claim says positive. Each interval is a "
    "two-sided Student-t interval of the mean effect, widened by Bonferroni's correction so that "
    "all {family} intervals cover together with probability 95% ({each:.2%} each). A claim of a "
    "difference holds when its interval lies at or above the smallest effect that matters, does "
    "not hold when it lies below it; a claim of equality holds when its interval lies inside the "
    "margin, does not hold when it lies outside. Anything else: cannot tell. One seed is never a "
    "result."
)


@dataclass(frozen=True)
class AtLeast:
    """The claim of a difference: the effect is at least `delta`, the smallest that matters."""

    delta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta >= 0):
            raise InputError(f"the smallest effect that matters must be >= 0, not {self.delta}")

    def decide(self, interval: Interval) -> Word:
        """Read the interval against delta."""
        if interval.low >= self.delta:
            return "holds"
        return "does not hold" if interval.high < self.delta else "cannot tell"


@dataclass(frozen=True)
class Within:
    """The claim of equality: the effect is closer to zero than `margin`."""

    margin: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise InputError(f"the equivalence margin must be > 0, not {self.margin}")

    def decide(self, interval: Interval) -> Word:
        """Read the interval against ±margin."""
        if -self.margin < interval.low and interval.high < self.margin:
            return "holds"
        outside = interval.low >= self.margin or interval.high <= -self.margin
        return "does not hold" if outside else "cannot tell"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A verdict with what it rests on.

    Attributes:
        word: holds, does not hold, cannot tell, or no data here.
        interval: the simultaneous interval, None where there is none to show.
        n: number of seeds behind it.
        reason: why there is no interval; empty otherwise.
    """

    word: Word
    interval: Interval | None
    n: int
    reason: str = ""


def confidence_each(family: int) -> float:
    """Confidence of one interval such that `family` of them cover together with 95%."""
    if family < 1:
        raise InputError(f"a family of claims has at least one member, not {family}")
    return 1 - (1 - CONFIDENCE) / family


def judge(
    effects: Sequence[float],
    rule: AtLeast | Within,
    *,
    family: int,
    resolution: float = 0.0,
) -> Verdict:
    """Apply the rule of this module to one effect per seed.

    Args:
        effects: one effect per seed, signed so that the claim says positive.
        rule: `AtLeast(delta)` or `Within(margin)`, fixed before the study runs.
        family: number of claims the study declares, with data or without.
        resolution: the smallest step that the effect can make, 0 for a continuous one.
    """
    n = len(effects)
    if n == 0:
        return Verdict(word="no data here", interval=None, n=0, reason="nothing was measured")
    lost = sum(not math.isfinite(effect) for effect in effects)
    if lost:
        reason = f"{lost} of {n} seeds gave no finite effect"
        return Verdict(word="cannot tell", interval=None, n=n, reason=reason)
    interval = t_interval(effects, confidence=confidence_each(family), resolution=resolution)
    if interval is None:
        reason = "one seed is never a result"
        return Verdict(word="cannot tell", interval=None, n=n, reason=reason)
    return Verdict(word=rule.decide(interval), interval=interval, n=n)
