"""Slopes, optima and spreads: pure arithmetic that the findings are made of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from lowland.studies.effects import mean

STEP = 2.0
"""A best ρ of 0 counts as the smallest ρ of the grid divided by this."""


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of y on x; NaN where x does not vary or something is not finite.

    >>> slope([0, 1, 2], [1.0, 3.0, 5.0])
    2.0
    """
    if len(x) < 2 or not all(map(math.isfinite, (*x, *y))):
        return math.nan
    center = mean(x)
    total = math.fsum((a - center) ** 2 for a in x)
    if not total:
        return math.nan
    return math.fsum((a - center) * b for a, b in zip(x, y, strict=True)) / total


def largest_weight(x: Sequence[float]) -> float:
    """By how much the slope on `x` changes at most where one value changes by 1.

    >>> largest_weight([0.0, 1.0, 2.0])
    0.5
    """
    return max(abs(slope(x, [float(i == k) for i in range(len(x))])) for k in range(len(x)))


def best_radius(errors: Mapping[float, float]) -> float:
    """log₁₀ of the ρ with the lowest error, between grid points by a parabola.

    Over log ρ, the vertex of the parabola through the lowest point and its two neighbours; at an
    end of the grid that end. Where several points share the lowest error, the mean of their log ρ.
    ρ = 0 stands a factor of `STEP` below the smallest positive ρ. Points without a finite error are
    left out; NaN where fewer than two are left.

    Args:
        errors: error by ρ.

    >>> round(10 ** best_radius({0.1: 0.3, 0.2: 0.2, 0.4: 0.3}), 6)
    0.2
    >>> round(10 ** best_radius({0.0: 0.1, 0.1: 0.3, 0.2: 0.3}), 6)
    0.05
    """
    usable = {rho: error for rho, error in errors.items() if math.isfinite(error)}
    positive = sorted(rho for rho in usable if rho > 0)
    if len(usable) < 2 or not positive:
        return math.nan
    places = sorted((math.log10(rho or positive[0] / STEP), e) for rho, e in usable.items())
    x, y = [p for p, _ in places], [e for _, e in places]
    lowest = [i for i, error in enumerate(y) if error == min(y)]
    i = lowest[0]
    if len(lowest) > 1 or i in (0, len(y) - 1):
        return mean([x[k] for k in lowest])
    return _vertex(x[i - 1 : i + 2], y[i - 1 : i + 2])


def _vertex(x: Sequence[float], y: Sequence[float]) -> float:
    """Where the parabola through three points is lowest; the middle one is the lowest of them."""
    left, right = x[1] - x[0], x[2] - x[1]
    rise, fall = (y[2] - y[1]) / right, (y[0] - y[1]) / left
    # the derivative at x₁ of the parabola, and its second derivative
    at = (rise * left - fall * right) / (left + right)
    bend = 2 * (rise + fall) / (left + right)
    return x[1] - at / bend


def deviations(values: Mapping[int, float]) -> dict[int, float]:
    """For every seed |x - median of the others|: its mean is a spread (Brown and Forsythe 1974).

    NaN for all where one value is not finite.

    >>> deviations({0: 1.0, 1: 2.0, 2: 4.0})
    {0: 2.0, 1: 0.5, 2: 2.5}
    """
    if not all(map(math.isfinite, values.values())):
        return dict.fromkeys(values, math.nan)
    return {
        seed: abs(value - statistics.median(v for s, v in values.items() if s != seed))
        for seed, value in values.items()
        if len(values) > 1
    }


def interquartile(values: Sequence[float]) -> float:
    """Upper minus lower quartile, interpolated linearly; NaN of fewer than two.

    >>> interquartile([1.0, 2.0, 3.0, 4.0, 5.0])
    2.0
    """
    if len(values) < 2:
        return math.nan
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
