"""The mean of a few independent numbers and its Student-t interval."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowland.core.errors import InputError

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


def central_probability(angle: float, degrees: int) -> float:
    """P(|T| <= tan(angle) * sqrt(degrees)) for Student's T with an integer number of degrees.

    For integer degrees the distribution function is a finite sum of powers of cos(angle)
    (Abramowitz and Stegun, 26.7.3 and 26.7.4), so no special function is needed.
    Cost: degrees / 2 multiplications.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    if odd:
        return (angle + sine * total) * 2 / math.pi
    return sine * total


@functools.lru_cache(maxsize=256)
def student_t(confidence: float, degrees: int) -> float:
    """The t with P(|T| <= t) = confidence for Student's T with `degrees` degrees of freedom.

    >>> round(student_t(0.95, 4), 3)
    2.776

    Raises:
        InputError: confidence is not strictly between 0 and 1, or degrees is below 1.
    """
    if not 0 < confidence < 1 or degrees < 1:
        raise InputError(f"no Student-t quantile at confidence {confidence}, degrees {degrees}")
    low, high = 0.0, math.pi / 2
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return math.tan(middle) * math.sqrt(degrees)
        if central_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle


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
