"""Effects that claims are made of: pure arithmetic on the numbers of a few runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

TIE = 1e-12
"""Means of errors closer than this, relatively, are equal: shares of images have no exact sums."""


def relative_fall(before: float, after: float) -> float:
    """1 - after / before: the share by which a positive quantity fell; NaN where it has none.

    >>> relative_fall(200, 150)
    0.25
    """
    if not (math.isfinite(before) and math.isfinite(after)) or before <= 0:
        return math.nan
    return 1 - after / before


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's τ-b between two orders of the same items; NaN where one of them is all ties.

    τ-b = (concordant - discordant) / √((pairs - ties in first)(pairs - ties in second)).
    """
    agree = untied_first = untied_second = 0
    for i in range(len(first)):
        for j in range(i):
            a = _sign(first[i] - first[j])
            b = _sign(second[i] - second[j])
            agree += a * b
            untied_first += abs(a)
            untied_second += abs(b)
    if not (untied_first and untied_second) or not all(map(math.isfinite, (*first, *second))):
        return math.nan
    return agree / math.sqrt(untied_first * untied_second)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def choose_left_out(errors: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """For every seed, the ρ with the lowest mean validation error over the *other* seeds.

    Choosing on all seeds would let each run take part in choosing the ρ that it is judged at,
    and the lucky runs would be chosen: the effect would be biased in favour of the claim. Left
    out of its own choice, no run can do that. Ties go to the smaller ρ, and means that differ by
    the rounding of their sums alone are ties (`TIE`); a ρ of which any other seed's error is not
    finite is never chosen; with one seed there is no choice.

    Args:
        errors: validation error by ρ and seed, every ρ with the same seeds.

    Returns:
        ρ by seed, without seeds for which nothing can be chosen.
    """
    chosen: dict[int, float] = {}
    seeds = next(iter(errors.values()), {})
    for seed in seeds:
        means = {
            rho: mean([error for other, error in by_seed.items() if other != seed])
            for rho, by_seed in errors.items()
        }
        usable = [rho for rho in sorted(means) if math.isfinite(means[rho])]
        if usable:
            lowest = min(means[rho] for rho in usable)
            chosen[seed] = next(r for r in usable if means[r] <= lowest + TIE * abs(lowest))
    return chosen


def chosen_words(chosen: Mapping[int, float]) -> str:
    """Which ρ the seeds chose, and how often, as a sentence to append.

    >>> chosen_words({0: 0.1, 1: 0.1, 2: 0.2})
    ' Chosen on validation data of the other seeds: ρ = 0.1 (2 of 3 seeds), 0.2 (1 of 3 seeds).'
    """
    counts = {rho: list(chosen.values()).count(rho) for rho in sorted(set(chosen.values()))}
    words = ", ".join(f"{rho:g} ({count} of {len(chosen)} seeds)" for rho, count in counts.items())
    return f" Chosen on validation data of the other seeds: ρ = {words}."


def common_level(losses: Sequence[Sequence[float]]) -> float | None:
    """The lowest loss that every run reaches after its first evaluation, or None.

    It is the largest of the runs' lowest losses. None where some run diverged, where a loss is
    not positive, or where some run starts at or below the level already, so that "first reaches"
    has no meaning.
    """
    for run in losses:
        if len(run) < 2 or not all(math.isfinite(loss) and loss > 0 for loss in run):
            return None
    level = max(min(run[1:]) for run in losses)
    return None if any(run[0] <= level for run in losses) else level


def value_at_level(losses: Sequence[float], values: Sequence[float], level: float) -> float:
    """A measured value at the time when the loss first reaches `level`.

    Between two evaluations the value is interpolated linearly in log(loss).

    Args:
        losses: loss at each evaluation, positive, the first one above `level`.
        values: the value at the same evaluations.
        level: a loss that is reached.
    """
    after = next(i for i, loss in enumerate(losses) if loss <= level)
    before = after - 1
    share = math.log(losses[before] / level) / math.log(losses[before] / losses[after])
    return values[before] + share * (values[after] - values[before])
