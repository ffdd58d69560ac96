"""Proportions: the binomial distribution and 95% intervals, without special-function libraries."""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL = 0.95
"""Of every interval of a proportion."""

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Half-width of a 95% normal interval, in standard deviations."""

Interval = tuple[float, float]


def beta_probability(x: float, a: float, b: float) -> float:
    """P(B <= x) for B ~ Beta(a, b): the regularised incomplete beta function.

    By its continued fraction (Abramowitz and Stegun, 26.5.8), on the side of the mean where that
    converges in about √(a + b) terms.

    >>> round(beta_probability(0.5, 2.0, 2.0), 12)
    0.5
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _lower_part(1 - x, b, a)
    return _lower_part(x, a, b)


def _lower_part(x: float, a: float, b: float) -> float:
    return x * (1 - x) * _density(x, a, b) / (a * _fraction(x, a, b))


def _density(x: float, a: float, b: float) -> float:
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x))


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction 1 + d₁/(1 + d₂/(1 + ...)), by Lentz's forward steps."""
    value = upper = 1.0
    lower = 0.0
    for k in range(1, 200_000):
        half = k // 2
        if k % 2:
            d = -(a + half) * (a + b + half) * x / ((a + k - 1) * (a + k))
        else:
            d = half * (b - half) * x / ((a + k - 1) * (a + k))
        lower = 1 / _nonzero(1 + d * lower)
        upper = _nonzero(1 + d / upper)
        value *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return value


def _nonzero(x: float) -> float:
    return x if x != 0 else 1e-300


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x with P(Beta(a, b) <= x) = probability: Newton's steps, or halving where they leave."""
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(100):
        excess = beta_probability(x, a, b) - probability
        low, high = (x, high) if excess < 0 else (low, x)
        density = _density(x, a, b)
        step = x - excess / density if density > 0 else low
        step = step if low < step < high else (low + high) / 2
        if abs(step - x) <= 1e-13 * x:
            break
        x = step
    return x


def binomial_below(k: int, n: int, p: float) -> float:
    """P(X < k) for X ~ Binomial(n, p).

    >>> round(binomial_below(1, 2, 0.5), 12)
    0.25
    """
    if k <= 0 or k > n:
        return float(k > n)
    return beta_probability(1 - p, n - k + 1, k)


def clopper_pearson(successes: float, n: float, *, tail: float = (1 - LEVEL) / 2) -> Interval:
    """The exact interval of a proportion: each side misses it with probability at most `tail`.

    Conservative, at every n and every proportion; 95% by default.

    >>> [round(end, 3) for end in clopper_pearson(0, 10)]
    [0.0, 0.308]
    """
    low = beta_quantile(tail, successes, n - successes + 1) if successes > 0 else 0.0
    high = beta_quantile(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return low, high


def wilson(share: float, n: float) -> Interval:
    """The 95% score interval of a proportion: all p with |share - p| <= z·√(p(1 - p)/n)."""
    spread = Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def newcombe(k1: int, n1: int, k2: int, n2: int) -> Interval:
    """The 95% interval of p₁ - p₂ from two independent counts (Newcombe 1998, method 10).

    Of the score intervals [l, u] of both it keeps the ends that matter:
    d - √((p₁ - l₁)² + (u₂ - p₂)²) to d + √((u₁ - p₁)² + (p₂ - l₂)²) with d = p₁ - p₂. It stays
    within [-1, 1], has a width at p = 0 and 1, and covers 95% on average from ten examples on,
    where Wald's p₁ - p₂ ± z·se falls far short near the edges; that is why it is used here.

    >>> [round(end, 4) for end in newcombe(56, 70, 48, 80)]
    [0.0524, 0.3339]
    """
    p1, p2 = k1 / n1, k2 / n2
    (l1, u1), (l2, u2) = wilson(p1, n1), wilson(p2, n2)
    low = p1 - p2 - math.hypot(p1 - l1, u2 - p2)
    high = p1 - p2 + math.hypot(u1 - p1, p2 - l2)
    return max(-1.0, low), min(1.0, high)


def difference_error(k1: int, n1: int, k2: int, n2: int) -> float:
    """Standard error of p₁ - p₂, from proportions with one success and one failure more each.

    The added examples (Agresti and Caffo 2000) keep it above zero where a count is 0 or full.
    """
    squares = 0.0
    for k, n in ((k1, n1), (k2, n2)):
        p = (k + 1) / (n + 2)
        squares += p * (1 - p) / (n + 2)
    return math.sqrt(squares)
