"""The mean of a few independent numbers and its Student-t interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowland.core.student import central_probability, student_t

__all__ = ["CONFIDENCE", "Interval", "central_probability", "quartiles", "student_t", "t_interval"]

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with a two-sided interval.

    Attributes:
        mean: arithmetic mean of the values.
        low: lower end.
        high: upper end.
        n: number of values, one per seed.
        confidence: probability that such an interval covers the true mean.
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float


def t_interval(
    values: Sequence[float], *, confidence: float = CONFIDENCE, resolution: float = 0.0
) -> Interval | None:
    """Mean and two-sided t interval: mean ± t(confidence, n-1) · s / √n.

    s is the sample standard deviation (n-1 below the bar). It is never taken below
    resolution / √12, the spread of rounding alone: values that can only move in steps of
    `resolution` and happen to agree do not give an interval of no width.

    Args:
        values: one number per seed.
        confidence: coverage for independent normal values.
        resolution: the smallest step the values can make; 0 for continuous ones.

    Returns:
        The interval, or None for fewer than two values or any that is not finite.
    """
    n = len(values)
    if n < 2 or not all(math.isfinite(value) for value in values):
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    spread = max(math.sqrt(variance), resolution / math.sqrt(12))
    half = student_t(confidence, n - 1) * spread / math.sqrt(n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n, confidence=confidence)


def quartiles(values: Sequence[float]) -> Interval | None:
    """The median with the quartiles, for values that a mean says nothing of; None for fewer than 2.

    Of values spread over many powers of ten the mean is the largest one. `mean` of what is
    returned is the median, and `confidence` is that of no interval: 0.5 of the values lie inside.
    Between two values they are interpolated linearly.

    >>> quartiles([1.0, 1e9, 3.0, 2.0, 4.0]).mean
    3.0
    """
    n = len(values)
    if n < 2 or not all(math.isfinite(value) for value in values):
        return None
    ordered = sorted(values)
    low, middle, high = (_quantile(ordered, share) for share in (0.25, 0.5, 0.75))
    return Interval(mean=middle, low=low, high=high, n=n, confidence=0.5)


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
