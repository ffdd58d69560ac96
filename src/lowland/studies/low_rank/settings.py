"""Effects between groups of runs: settings, step sizes, augmentation, weight decay, networks.

R(ρ) is the feature rank at the judged block, ρmax the largest radius of a group. The fall of a
group is 1 - R(ρmax)/R(0) at the end. "At the start" is the first quarter of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowland.studies.effects import kendall, mean, relative_fall
from lowland.studies.low_rank.columns import (
    BARE,
    DECAY,
    LARGE,
    MAIN,
    Measured,
    means_by_rho,
    rank_column,
)
from lowland.studies.low_rank.ranks import fall, one_rank
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding

START = 0.25
"""Share of training that counts as its start."""

ONLY = 0.05
"""A drop of more than this share is one."""

TURN = 0.5
"""The lowest rank in this first share of training is where a rise begins."""


def fall_in_both_settings(runs: Runs, what: Measured) -> Finding:
    """The smaller of the falls in the minimal and the state-of-the-art setting."""
    column = rank_column(what.block)
    groups = (what.minimal, what.state_of_the_art)
    minimal, other = (fall(runs, group, column) for group in groups)
    return Finding(
        effects=_paired(min, minimal, other),
        detail=means_by_rho(runs, column, what.state_of_the_art),
        resolution=one_rank(runs, column, groups[1]),
        beside={"minimal setting": minimal, "state-of-the-art setting": other},
    )


def drop_at_start(runs: Runs, what: Measured) -> Finding:
    """State-of-the-art setting: the smaller over ρ = 0 and ρmax of the drop at the start."""
    return _of_both_ends(runs, what, what.state_of_the_art, drop)


def rise_after(runs: Runs, what: Measured) -> Finding:
    """State-of-the-art setting: the smaller over ρ = 0 and ρmax of the rise after the low."""
    return _of_both_ends(runs, what, what.state_of_the_art, rise)


def drop_with_large_steps(runs: Runs, what: Measured) -> Finding:
    """The weaker of two in plain training: the drop with large steps, and 2·`ONLY` - with small.

    So it is `ONLY` or more exactly if the drop with large steps is, and that with small ones is no
    more. A difference of the two would be large where large steps give no drop and small a rise.
    """
    large, small = (_drops(runs, what, group, 0.0) for group in (LARGE, what.minimal))
    tops = [_drops(runs, what, group, runs.rhos(group)[-1]) for group in (LARGE, what.minimal)]
    return Finding(
        effects=_paired(min, large, {seed: 2 * ONLY - drop for seed, drop in small.items()}),
        detail=(
            f"Mean drop of plain training: {mean(list(large.values())):.1%} with large steps, "
            f"{mean(list(small.values())):.1%} with small ones."
        ),
        resolution=one_rank(runs, rank_column(what.block), LARGE),
        beside={
            "large steps": large,
            "small steps": small,
            "the difference": _paired(_minus, large, small),
            "the difference at the largest ρ": _paired(_minus, *tops),
        },
    )


def drop_by_rho_and_step(runs: Runs, what: Measured) -> Finding:
    """Difference of differences: what ρmax adds to the drop, with large steps minus with small."""

    def added(group: str) -> Effects:
        top = runs.rhos(group)[-1]
        return _paired(_minus, _drops(runs, what, group, top), _drops(runs, what, group, 0.0))

    column = rank_column(what.block)
    falls = [fall(runs, group, column) for group in (LARGE, what.minimal)]
    large, small = added(LARGE), added(what.minimal)
    return Finding(
        effects=_paired(_minus, large, small),
        resolution=one_rank(runs, column, LARGE),
        beside={
            "added with large steps": large,
            "added with small steps": small,
            "the same of the fall at the end": _paired(_minus, *falls),
        },
    )


def augmentation_reveals(runs: Runs, what: Measured) -> Finding:
    """Fall with augmentation minus fall without."""
    return _fall_beyond(runs, what, BARE, "without augmentation")


def decay_is_not_enough(runs: Runs, what: Measured) -> Finding:
    """Fall with augmentation minus fall with weight decay in its place."""
    return _fall_beyond(runs, what, DECAY, "with weight decay alone")


def collapse(runs: Runs, what: Measured) -> Finding:
    """Share of the way from its first rank to C that the last block's rank has gone, ρ = 0."""
    column = rank_column(what.last)

    def shares(group: str) -> Effects:
        found = {}
        for seed in runs.seeds(group):
            run = runs.run(group, 0.0, seed)
            way = abs(run.start(column) - what.classes)
            left = abs(run.final(column) - what.classes)
            found[seed] = 1 - left / way if way > 0 else math.nan
        return found

    group = what.state_of_the_art
    ends = [runs.final(group, 0.0, seed, column) for seed in runs.seeds(group)]
    starts = [runs.run(group, 0.0, seed).start(column) for seed in runs.seeds(group)]
    return Finding(
        effects=shares(group),
        detail=(
            f"Rank at {what.last}: {mean(starts):.1f} at initialisation, {mean(ends):.1f} at the "
            f"end; {what.classes} classes."
        ),
        beside={"minimal setting": shares(what.minimal)},
    )


def interferes(runs: Runs, what: Measured) -> Finding:
    """Fall with ρ at the judged block minus that at the last one, main runs."""
    here, last = (fall(runs, MAIN, rank_column(block)) for block in (what.block, what.last))
    return Finding(
        effects=_paired(_minus, here, last),
        detail=means_by_rho(runs, rank_column(what.last)),
        resolution=one_rank(runs, rank_column(what.last)),
        beside={f"fall at {what.block}": here, f"fall at {what.last}": last},
    )


def cascade(runs: Runs, what: Measured) -> Finding:
    """Kendall's τ between depth and the relative fall of the rank since initialisation, ρ = 0."""
    blocks = [*sorted({what.block, *what.others}), what.last]
    if len(blocks) < 3:
        raise NotMeasuredError("a cascade needs three blocks or more")
    group = what.state_of_the_art
    found, falls = {}, []
    for seed in runs.seeds(group):
        run = runs.run(group, 0.0, seed)
        columns = [rank_column(block) for block in blocks]
        falls.append([relative_fall(run.start(c), run.final(c)) for c in columns])
        found[seed] = kendall(range(len(blocks)), falls[-1])
    words = ", ".join(
        f"{mean([each[i] for each in falls]):.0%} at {block}" for i, block in enumerate(blocks)
    )
    return Finding(
        effects=found,
        detail=f"Mean fall since initialisation: {words}.",
        resolution=4 / (len(blocks) * (len(blocks) - 1)),
    )


def drop(epochs: Sequence[float], ranks: Sequence[float]) -> float:
    """1 - the lowest rank at the start over that at initialisation.

    >>> drop([0, 1, 2, 8], [100, 75, 80, 60])
    0.25
    """
    early = _within(START, epochs, ranks)
    return relative_fall(ranks[0], min(early)) if early else math.nan


def rise(epochs: Sequence[float], ranks: Sequence[float]) -> float:
    """The last rank over the lowest one in the first half of training, minus 1.

    >>> rise([0, 1, 2, 8], [100, 50, 80, 75])
    0.5
    """
    low = _within(TURN, epochs, ranks)
    return -relative_fall(min(low), ranks[-1]) if low else math.nan


def _within(share: float, epochs: Sequence[float], ranks: Sequence[float]) -> list[float]:
    """The ranks after initialisation in the first share of training; none of a diverged run."""
    if len(epochs) != len(ranks) or not all(map(math.isfinite, ranks)):
        return []
    return [r for e, r in zip(epochs, ranks, strict=True) if 0 < e <= share * epochs[-1]]


def _drops(runs: Runs, what: Measured, group: str, rho: float) -> Effects:
    column = rank_column(what.block)
    return {
        seed: drop(runs.curve(group, rho, seed, "epoch"), runs.curve(group, rho, seed, column))
        for seed in runs.seeds(group)
    }


def _of_both_ends(
    runs: Runs,
    what: Measured,
    group: str,
    effect: Callable[[Sequence[float], Sequence[float]], float],
) -> Finding:
    """An effect of the curve of ranks, the smaller one of ρ = 0 and ρmax."""
    column = rank_column(what.block)
    top = runs.rhos(group)[-1]
    plain, sam = (
        {
            seed: effect(*(runs.curve(group, rho, seed, name) for name in ("epoch", column)))
            for seed in runs.seeds(group)
        }
        for rho in (0.0, top)
    )
    return Finding(
        effects=_paired(min, plain, sam),
        resolution=one_rank(runs, column, group),
        beside={"plain training": plain, f"at ρ = {top:g}": sam},
    )


def _fall_beyond(runs: Runs, what: Measured, group: str, words: str) -> Finding:
    column = rank_column(what.block)
    top = runs.rhos(group)[-1]
    augmented = {
        seed: relative_fall(*(runs.final(MAIN, rho, seed, column) for rho in (0.0, top)))
        for seed in runs.whole_seeds(MAIN, (0.0, top))
    }
    other = fall(runs, group, column)
    return Finding(
        effects=_paired(_minus, augmented, other),
        detail=means_by_rho(runs, column, group),
        resolution=one_rank(runs, column, group),
        beside={"fall with augmentation": augmented, f"fall {words}": other},
    )


def _paired(
    combine: Callable[[float, float], float], first: Effects, second: Effects
) -> dict[int, float]:
    """Seed by seed, over the seeds of both; NaN where one of them is."""
    both = sorted(set(first) & set(second))
    return {
        seed: math.nan
        if math.isnan(first[seed]) or math.isnan(second[seed])
        else combine(first[seed], second[seed])
        for seed in both
    }


def _minus(a: float, b: float) -> float:
    return a - b
