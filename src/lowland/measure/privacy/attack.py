"""What an attack on membership achieves, from the scores that it gives to members and others."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.core.seeds import generator
from lowland.measure.privacy.curve import (
    Scores,
    area,
    best_threshold,
    called,
    true_positive_rate,
)
from lowland.measure.proportions import Interval, Z, difference_error, newcombe

RATES = (0.001, 0.01, 0.1)
"""The false positive rates at which true positive rates are given."""

Values = Tensor | np.ndarray[Any, Any] | Sequence[float]
"""One number per example."""


@dataclass(frozen=True, kw_only=True)
class MembershipAttack(Measurement):
    """The advantage TPR - FPR of an attack that tells members of the training set from others.

    `uncertainty` is the advantage's standard error at its threshold; `n` counts both groups.

    Attributes:
        interval: 95% interval of the advantage; see the instrument.
        threshold: of the score or loss; two for "split", each used on the other half. Infinite if
            calling nobody a member is best.
        tpr: share of members called members.
        fpr: share of non-members called members.
        auc: area under the ROC curve: P(a member looks more like one than a non-member), ties half.
        auc_uncertainty: its standard error.
        auc_interval: its 95% interval.
        rates: false positive rates.
        tpr_at_rates: the largest TPR whose FPR is at most each of the rates.
        tpr_at_rates_intervals: their 95% intervals.
        n_members: number of members.
        n_non_members: number of non-members.
    """

    interval: Interval
    threshold: float | tuple[float, float]
    tpr: float
    fpr: float
    auc: float
    auc_uncertainty: float
    auc_interval: Interval
    rates: tuple[float, ...]
    tpr_at_rates: tuple[float, ...]
    tpr_at_rates_intervals: tuple[Interval, ...]
    n_members: int
    n_non_members: int


def score_attack(
    member_scores: Values,
    non_member_scores: Values,
    *,
    threshold: str | float = "split",
    seed: int = 0,
) -> MembershipAttack:
    """What an attack achieves whose scores are higher the more an example looks like a member.

    An example is called a member if its score is at least the threshold; the value is
    TPR - FPR. Thresholds by name:

    * "split": each group is split at random into halves; the threshold that is best on one half of
      both judges the other, and the two are swapped. No example is judged by a threshold that it
      helped to choose, so the value is unbiased for the mean of what the two thresholds achieve on
      new examples. Newcombe's interval, of that mean; it takes the halves as independent, and
      covers 93.5 to 97%.
    * "best": the largest TPR - FPR over all thresholds, the Kolmogorov-Smirnov distance of the two
      samples upwards. Biased upward: chosen and judged on the same examples. The interval, of the
      population's largest, is conservative: the value - 1.36·√(1/n + 1/m), which no threshold's
      chance excess passes in 97.5%, to the value + 0.98·√(1/n + 1/m), at most 2.5% of the largest.
    * a number: a threshold fixed before the examples were seen. Newcombe's interval.

    AUC has an interval by DeLong's variance, fit for the edges (see `area`); that of the TPR at low
    FPR is conservative where there are few others (see `true_positive_rate`). All take examples as
    independent, and the model as given: not what training again would give. Tied scores are called
    together; if all are equal, the advantage is 0 and AUC ½.

    Args:
        member_scores: of training examples, one each; infinite ones rank.
        non_member_scores: of examples that the model was not trained on.
        threshold: see above.
        seed: of the halves.

    Cost: sorting the scores.

    Source: Yeom et al. 2018 (arXiv 1709.01604) for the advantage; Carlini et al. 2022
    (arXiv 2112.03570) for TPR at low FPR.

    Raises:
        InputError: an empty group, scores that are NaN or not one number per example, an unknown
            threshold, or "split" with fewer than two examples in a group.

    >>> record = score_attack([3.0, 4.0, 5.0, 6.0], [0.0, 1.0, 2.0, 3.5], threshold="best")
    >>> record.value, record.threshold, record.auc
    (0.75, 3.75, 0.9375)
    """
    start = time.perf_counter()
    members = as_scores("member_scores", member_scores)
    others = as_scores("non_member_scores", non_member_scores)
    if isinstance(threshold, str) and threshold not in ("split", "best"):
        raise unknown("threshold", threshold, ("best", "split"))
    rule = verdicts(members, others, threshold, seed)
    return build("membership_advantage", members, others, rule, "score >= ", start)


class Rule(NamedTuple):
    """A threshold on scores, and the counts of both groups that reach it."""

    words: str
    thresholds: tuple[float, ...]
    true: int
    false: int
    best: bool = False
    seed: int | None = None


def verdicts(members: Scores, others: Scores, threshold: str | float, seed: int) -> Rule:
    """Judge sorted scores by "split", "best" or a number."""
    if threshold == "split":
        return _cross_fitted(members, others, seed)
    if threshold == "best":
        best = best_threshold(members, others)
        words = "the threshold best on these examples (Kolmogorov-Smirnov; biased upward)"
        return Rule(words, (best,), called(members, best), called(others, best), best=True)
    return fixed(members, others, float(threshold), "a given threshold")


def fixed(members: Scores, others: Scores, threshold: float, words: str) -> Rule:
    """Judge sorted scores by a number."""
    if math.isnan(threshold):
        raise InputError("threshold: got nan; give a number, or 'split'")
    return Rule(words, (threshold,), called(members, threshold), called(others, threshold))


def _cross_fitted(members: Scores, others: Scores, seed: int) -> Rule:
    if min(len(members), len(others)) < 2:
        raise InputError(
            f"threshold: 'split' needs two members and two non-members, got {len(members)} and "
            f"{len(others)}; give more, or a number as threshold"
        )
    source = generator("cpu", seed, "halves for a membership threshold")
    halves = [_halves(scores, source) for scores in (members, others)]
    thresholds = [best_threshold(halves[0][i], halves[1][i]) for i in (0, 1)]
    true, false = (sum(called(half[1 - i], thresholds[i]) for i in (0, 1)) for half in halves)
    words = "the threshold best on one half, judged on the other, and the two swapped"
    return Rule(words, tuple(thresholds), true, false, seed=seed)


def _halves(scores: Scores, source: torch.Generator) -> tuple[Scores, Scores]:
    """Two random halves of sorted scores, sorted: the same in whatever order they came."""
    order = torch.randperm(len(scores), generator=source).numpy()
    first, second = np.array_split(order, 2)
    return scores[np.sort(first)], scores[np.sort(second)]


def build(
    name: str, members: Scores, others: Scores, rule: Rule, called_if: str, start: float
) -> MembershipAttack:
    """The record; for losses, whose scores are their negatives, thresholds are losses."""
    n, m = len(members), len(others)
    counts = (rule.true, n, rule.false, m)
    value = rule.true / n - rule.false / m
    auc = area(members, others)
    rates = [true_positive_rate(members, others, rate) for rate in RATES]
    sign = -1.0 if "loss" in called_if else 1.0
    thresholds = [sign * t + 0.0 for t in rule.thresholds]  # + 0.0: no negative zero
    return MembershipAttack(
        name=name,
        value=value,
        definition=f"TPR - FPR of calling members where {called_if}{rule.words}",
        n=n + m,
        dtype="float64",
        seconds=time.perf_counter() - start,
        uncertainty=difference_error(*counts),
        seed=rule.seed,
        interval=_best_interval(value, n, m) if rule.best else newcombe(*counts),
        threshold=thresholds[0] if len(thresholds) == 1 else (thresholds[0], thresholds[1]),
        tpr=rule.true / n,
        fpr=rule.false / m,
        auc=auc.value,
        auc_uncertainty=auc.uncertainty,
        auc_interval=auc.interval,
        rates=RATES,
        tpr_at_rates=tuple(rate[0] for rate in rates),
        tpr_at_rates_intervals=tuple(rate[1] for rate in rates),
        n_members=n,
        n_non_members=m,
    )


def _best_interval(value: float, n: int, m: int) -> Interval:
    """Of the largest TPR - FPR of the population; below by Kolmogorov and Smirnov's band."""
    spread = math.sqrt(1 / n + 1 / m)
    band = math.sqrt(math.log(1 / 0.025) / 2)  # P(sup of a Brownian bridge > x) = exp(-2x²)
    return max(0.0, value - band * spread), min(1.0, value + Z / 2 * spread)


def as_scores(name: str, values: Values) -> Scores:
    """The numbers in float64, sorted upwards.

    Raises:
        InputError: none, a NaN, or not one number per example.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) == 0:
        raise InputError(
            f"{name}: got shape {found.shape}; give one number per example, and at least one"
        )
    missing = int(np.isnan(found).sum())
    if missing:
        raise InputError(
            f"{name}: {missing} of {len(found)} are NaN, which cannot be ranked; the model has "
            "diverged, or these examples must be left out"
        )
    return np.sort(found)
