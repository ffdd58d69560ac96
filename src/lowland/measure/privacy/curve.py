"""How well scores tell members from others: the area under the curve, and rates at a threshold.

Scores are float64 arrays sorted upwards; an example is called a member if its score is at least
the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowland.measure.proportions import (
    LEVEL,
    Interval,
    binomial_below,
    clopper_pearson,
    wilson,
)

Scores = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number, its standard error and its 95% interval."""

    value: float
    uncertainty: float
    interval: Interval


def called(scores: Scores, threshold: float) -> int:
    """How many of the sorted scores are at least the threshold."""
    return len(scores) - int(np.searchsorted(scores, threshold, side="left"))


def best_threshold(members: Scores, others: Scores) -> float:
    """The threshold with the largest TPR - FPR; infinite, so that nobody is called, if none is > 0.

    Of several that are equally good the highest; halfway between the scores on its two sides.
    """
    values = np.unique(np.concatenate([members, others]))
    true = len(members) - np.searchsorted(members, values, side="left")
    false = len(others) - np.searchsorted(others, values, side="left")
    gain = true * len(others) - false * len(members)  # whole numbers: ties are exact
    best = len(values) - 1 - int(np.argmax(gain[::-1]))
    if gain[best] <= 0:
        return math.inf
    if best == 0:
        return float(values[0])
    return _between(float(values[best - 1]), float(values[best]))


def _between(low: float, high: float) -> float:
    """Halfway from low to high; high itself if there is no number between."""
    middle = low / 2 + high / 2
    return middle if low < middle < high else high


def area(members: Scores, others: Scores) -> Estimate:
    """P(a member's score > another's) + ½·P(they are equal), with a 95% interval.

    With V_i the share of others below member i (ties half) and W_j the share of members above
    other j, AUC = mean V, and its variance is var(V)/n + var(W)/m (DeLong et al. 1988). Near 1 that
    variance is too small just when the AUC is too large, and 0 at perfect separation: DeLong's
    interval of the logit covers 47% for 10 and 10 normal scores at AUC 0.98, and 89% for 50 and
    1000. So the variance is taken with one lowest and one highest example more in each group, as
    Agresti and Caffo do for proportions, and the interval is Wilson's for the proportion AUC of
    AUC·(1 - AUC)/variance trials, both with these examples. It covers 93 to 97% where the AUC is
    moderate and often more, up to 100%, above 0.9 or where the smaller group is much the narrower;
    it falls to about 90% for ten examples of which one in twenty lies far out.

    Cost: O((n + m)·log(n + m)).
    """
    value = float(_shares_below(others, members).mean())
    wider = [np.concatenate([[-np.inf], scores, [np.inf]]) for scores in (members, others)]
    v, w = _shares_below(wider[1], wider[0]), _shares_below(wider[0], wider[1])
    variance = float(v.var(ddof=1)) / len(v) + float(w.var(ddof=1)) / len(w)
    center = float(v.mean())
    return Estimate(value, math.sqrt(variance), wilson(value, center * (1 - center) / variance))


def _shares_below(ranks: Scores, scores: Scores) -> Scores:
    """For each of the scores the share of `ranks` below it, ties half."""
    twice = np.searchsorted(ranks, scores, "left") + np.searchsorted(ranks, scores, "right")
    return twice / (2.0 * len(ranks))


def true_positive_rate(members: Scores, others: Scores, rate: float) -> tuple[float, Interval]:
    """The largest TPR of any threshold whose FPR is at most `rate`, and its 95% interval.

    A step function, never interpolated: with fewer than 1/rate others no false alarm is allowed.

    The interval is for the TPR at a *population* FPR of `rate`. Two errors meet there. Members are
    few: Clopper-Pearson's limits of the TPR at the threshold found. And the threshold is estimated:
    of the others' scores sorted downwards the j-th is in 97.5% a threshold of FPR at most `rate`,
    the r-th one of at least `rate`, with j and r from the binomial distribution, and the TPR found
    at these two tells what that moves. The two distances on each side are independent and add as
    squares, as in Newcombe's interval. No density is estimated and nothing is resampled: a
    bootstrap cannot look beyond the largest of the others, which is where low rates are.

    Conservative: it covers 95 to 99% with 10/rate others or more, up to 100% below. With fewer than
    about 4/rate others the lower end is 0: they cannot tell.
    """
    n, m = len(members), len(others)
    tail = (1 - LEVEL) / 2
    found = _strictly_above(members, others, int(rate * m * (1 + 1e-12)))
    value = found / n
    low, high = clopper_pearson(found, n)
    fewest = _last(lambda j: binomial_below(j, m, rate) <= tail, m)
    most = 1 + _last(lambda r: 1 - binomial_below(r, m, rate) > tail, m)
    strict = 0 if fewest == 0 else _strictly_above(members, others, fewest - 1)
    loose = n if most > m else called(members, float(others[m - most]))
    below = math.hypot(value - low, (found - strict) / n)
    above = math.hypot(high - value, (loose - found) / n)
    return value, (max(0.0, value - below), min(1.0, value + above))


def _strictly_above(members: Scores, others: Scores, allowed: int) -> int:
    """How many members lie above all others but the `allowed` highest."""
    if allowed >= len(others):
        return len(members)
    limit = others[len(others) - 1 - allowed]
    return len(members) - int(np.searchsorted(members, limit, side="right"))


def _last(holds: Callable[[int], bool], m: int) -> int:
    """The largest k in 0..m of which `holds`, which holds of 0 and of no k after the last."""
    low, high = 0, m + 1
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
