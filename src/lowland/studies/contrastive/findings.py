"""Effects of ρ on retrieval errors and ranks, one per seed.

R(ρ) is a feature rank and E(ρ) a retrieval error at the end of training with radius ρ; ρ = 0 is
plain training, ρmax the largest radius. ρ* is the radius with the lowest validation error over the
other seeds (`choose_left_out`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from lowland.studies.contrastive import columns
from lowland.studies.contrastive.columns import (
    TOWERS,
    TRAIN_LOSS,
    VALIDATION_ERROR,
    VARIANCES,
    Measured,
    by_rho,
)
from lowland.studies.effects import (
    choose_left_out,
    chosen_words,
    mean,
    relative_fall,
)
from lowland.studies.matched import at_equal_loss
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding

LEAST_FALL = 0.05
"""A rank is lower where it fell by this share at least."""


def rank_falls(runs: Runs, group: str, tower: str) -> Finding:
    """1 - R(ρmax) / R(0) of normalised features on test pairs."""

    def fall(column: str) -> Effects:
        top = runs.rhos(group)[-1]
        return {
            seed: relative_fall(*(runs.final(group, rho, seed, column) for rho in (0.0, top)))
            for seed in runs.seeds(group)
        }

    column = columns.rank(tower)
    return Finding(
        effects=fall(column),
        detail=by_rho(runs, group, column),
        resolution=one_rank(runs, group, column),
        beside=_where_measured(_variants(tower), fall),
    )


def rank_falls_at_matched_loss(runs: Runs, group: str, tower: str) -> Finding:
    """1 - R(ρmax) / R(0), each where its run first reaches a train loss that all ρ reach."""
    rhos, seeds = runs.rhos(group), runs.seeds(group)

    def falls(column: str) -> dict[int, float]:
        found = {}
        for seed in seeds:
            if any(runs.run(group, rho, seed).diverged for rho in rhos):
                found[seed] = math.nan
                continue
            ends = at_common_loss(runs, group, rhos, seed, column)
            if ends is not None:
                found[seed] = relative_fall(ends[0], ends[-1])
        return found

    column = columns.rank(tower)
    effects = falls(column)
    if not effects:
        raise NotMeasuredError("no seed has a train loss that all ρ reach")
    return Finding(
        effects=effects,
        detail=f"{len(effects)} of {len(seeds)} seeds have a train loss that all ρ reach.",
        resolution=one_rank(runs, group, column),
        beside={"on train pairs": falls(columns.rank(tower, split="train"))},
    )


def at_common_loss(
    runs: Runs, group: str, rhos: list[float], seed: int, column: str
) -> list[float] | None:
    """A column at the lowest train loss that all ρ of a seed reach; None where there is none."""
    return at_equal_loss([runs.run(group, rho, seed) for rho in rhos], column, loss=TRAIN_LOSS)


def error_falls(runs: Runs, group: str, way: str, what: Measured) -> Finding:
    """E(0) - E(ρ*) inside batches of test pairs."""
    chosen = chosen_rhos(runs, group)

    def gains(column: str, at: Callable[[int], float]) -> dict[int, float]:
        return {
            seed: runs.final(group, 0.0, seed, column) - runs.final(group, at(seed), seed, column)
            for seed in chosen
        }

    column = columns.error(way)
    fixed = {
        f"at ρ = {rho:g}": gains(column, lambda seed, rho=rho: rho)  # type: ignore[misc]
        for rho in runs.rhos(group)[1:]
    }
    return Finding(
        effects=gains(column, chosen.__getitem__),
        detail=by_rho(runs, group, column, percent=True) + chosen_words(chosen),
        resolution=1 / what.queries,
        beside={
            "among all test pairs": gains(columns.error(way, among_all=True), chosen.__getitem__),
            "at matched train loss": _gains_at_matched_loss(runs, group, column, chosen),
            **fixed,
        },
    )


def _gains_at_matched_loss(
    runs: Runs, group: str, column: str, chosen: Mapping[int, float]
) -> dict[int, float]:
    found = {}
    for seed, rho in chosen.items():
        if runs.run(group, 0.0, seed).diverged or runs.run(group, rho, seed).diverged:
            found[seed] = math.nan
            continue
        ends = at_common_loss(runs, group, [0.0, rho], seed, column)
        if ends is not None:
            found[seed] = ends[0] - ends[1]
    return found


def harmless(runs: Runs, group: str, what: Measured, *, margin: float) -> Finding:
    """margin + E(0) - E(ρ*), with ρ* chosen among the ρ at which the mean rank of both towers is
    lower by `LEAST_FALL` or more over the other seeds; E is the mean of both ways."""
    seeds, rhos = runs.seeds(group), runs.rhos(group)[1:]
    falls = {rho: {seed: mean_fall(runs, group, rho, seed) for seed in seeds} for rho in rhos}
    lower = {
        rho: of_rho for rho, of_rho in falls.items() if mean(list(of_rho.values())) >= LEAST_FALL
    }
    if not lower:
        raise NotMeasuredError(f"no ρ lowers the rank by {LEAST_FALL:.0%}")
    chosen = chosen_rhos(runs, group, among=list(lower))

    def gain(seed: int, rho: float) -> float:
        ends = (runs.final(group, r, seed, "test/error") for r in (0.0, rho))
        return next(ends) - next(ends)

    fall = mean([falls[rho][seed] for seed, rho in chosen.items()])
    return Finding(
        effects={seed: margin + gain(seed, rho) for seed, rho in chosen.items()},
        detail=f"Rank of both towers lower by {fall:.1%} there, on average." + chosen_words(chosen),
        resolution=1 / (2 * what.queries),
        beside={
            f"at ρ = {rho:g}": {seed: margin + gain(seed, rho) for seed in seeds} for rho in lower
        },
    )


def no_collapse(runs: Runs, group: str, *, margin: float) -> Finding:
    """margin + R(end) / R(middle) - 1 in plain training, mean of both towers."""
    found = {}
    for seed in runs.seeds(group):
        curves = [runs.curve(group, 0.0, seed, columns.rank(tower)) for tower in TOWERS]
        found[seed] = margin - mean([relative_fall(c[len(c) // 2], c[-1]) for c in curves])
    return Finding(
        effects=found,
        resolution=one_rank(runs, group, columns.rank("image")),
    )


def chosen_rhos(runs: Runs, group: str, among: list[float] | None = None) -> dict[int, float]:
    """ρ* by seed.

    Raises:
        NotMeasuredError: one seed, which cannot choose.
    """
    seeds = runs.seeds(group)
    errors = {
        rho: {seed: runs.final(group, rho, seed, VALIDATION_ERROR) for seed in seeds}
        for rho in (among or runs.rhos(group)[1:])
    }
    chosen = choose_left_out(errors)
    if seeds and not chosen:
        raise NotMeasuredError("one seed cannot choose ρ: the choice is made on the others")
    return chosen


def mean_fall(runs: Runs, group: str, rho: float, seed: int) -> float:
    """1 - R(ρ) / R(0), mean over both towers, normalised features of test pairs."""
    return mean(
        [
            relative_fall(*(runs.final(group, r, seed, columns.rank(tower)) for r in (0.0, rho)))
            for tower in TOWERS
        ]
    )


def one_rank(runs: Runs, group: str, column: str) -> float:
    """The share that one dimension is of the rank at ρ = 0: relative falls move in such steps."""
    ranks = [runs.final(group, 0.0, seed, column) for seed in runs.seeds(group)]
    return 1 / max(mean(ranks), 1.0) if ranks else 0.0


def _variants(tower: str) -> dict[str, str]:
    """Other definitions of the rank, by what they are called in the report."""
    return {
        "on train pairs": columns.rank(tower, split="train"),
        "published centring": columns.rank(tower, center="example"),
        "before normalisation": columns.rank(tower, place="projected"),
        "before the head": columns.rank(tower, place="features"),
        **{
            f"at {100 * share:g}% of the variance": columns.rank(tower, variance=share)
            for share in VARIANCES[1:]
        },
    }


def _where_measured(
    names: Mapping[str, str], effect: Callable[[str], Effects]
) -> dict[str, Effects]:
    found = {}
    for label, column in names.items():
        try:
            found[label] = effect(column)
        except NotMeasuredError:
            continue
    return found
