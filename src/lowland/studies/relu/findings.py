"""Effects on active ReLUs and ranks, one per seed.

A(ρ) is the share of active ReLUs at one block of the network trained with radius ρ, R(ρ) the
feature rank there; ρ = 0 is plain training, and ρmax the largest radius of the grid. Later blocks
are the second half of the superblocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from lowland.studies.effects import common_level, kendall, mean, relative_fall, value_at_level
from lowland.studies.relu import columns
from lowland.studies.relu.columns import EXAMPLES, KEPT, MAIN, TRAIN_LOSS, Setup
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding

Fall = Callable[[float, float], float]


def points(before: float, after: float) -> float:
    """before - after."""
    return before - after


def active_falls(runs: Runs, setup: Setup) -> Finding:
    """Mean over later blocks of A(0) - A(ρmax)."""
    names = [columns.active(block) for block in setup.later]
    return Finding(
        effects=_falls(runs, names, points),
        detail=_by_rho(runs, names[-1], percent=True, where=setup.blocks[-1]),
        resolution=setup.one_unit(setup.later),
        beside={
            **{b: _falls(runs, [columns.active(b)], points) for b in setup.blocks},
            **{
                f"on more than {share:.0%} of the images": _falls(
                    runs, [columns.active(b, share) for b in setup.later], points
                )
                for share in EXAMPLES[1:]
            },
            "share of values": _falls(runs, [columns.values(b) for b in setup.later], points),
            "channels": _falls(runs, [columns.channels(b) for b in setup.later], points),
        },
    )


def all_active_in_plain_training(runs: Runs, setup: Setup) -> Finding:
    """1 - A(0) at the last block."""

    def inactive(block: str, of: str = "end") -> Effects:
        column = columns.active(block, of=of)
        return {s: 1 - runs.final(MAIN, 0.0, s, column) for s in runs.seeds(MAIN)}

    last = setup.blocks[-1]
    return Finding(
        effects=inactive(last),
        resolution=1 / setup.units[-1],
        beside={
            **{block: inactive(block) for block in setup.blocks[:-1]},
            f"{last} at initialisation": inactive(last, "start"),
        },
    )


def rank_falls(runs: Runs, setup: Setup) -> Finding:
    """Mean over later blocks of 1 - R(ρmax) / R(0)."""
    names = [columns.rank(block) for block in setup.later]
    published = [columns.rank(block, center="example") for block in setup.later]
    return Finding(
        effects=_falls(runs, names, relative_fall),
        detail=_by_rho(runs, names[-1], where=setup.blocks[-1]),
        resolution=_one_rank(runs, names),
        beside={
            **{b: _falls(runs, [columns.rank(b)], relative_fall) for b in setup.blocks},
            "published centring": _falls(runs, published, relative_fall),
            "on test images": _falls(
                runs, [columns.rank(b, split="test") for b in setup.later], relative_fall
            ),
        },
    )


def active_falls_later(runs: Runs, setup: Setup) -> Finding:
    """The mean fall of A at later blocks minus that at earlier ones."""
    later, earlier = (
        _falls(runs, [columns.active(b) for b in blocks], points)
        for blocks in (setup.later, setup.earlier)
    )
    return Finding(
        effects=_minus(later, earlier),
        detail=_block_by_block(runs, setup, columns.active, points),
        resolution=setup.one_unit(setup.later),
    )


def rank_falls_later(runs: Runs, setup: Setup) -> Finding:
    """The mean relative fall of R at later blocks minus that at earlier ones."""
    later, earlier = (
        _falls(runs, [columns.rank(b) for b in blocks], relative_fall)
        for blocks in (setup.later, setup.earlier)
    )
    return Finding(
        effects=_minus(later, earlier),
        detail=_block_by_block(runs, setup, columns.rank, relative_fall),
        resolution=_one_rank(runs, [columns.rank(b) for b in setup.later]),
    )


def pruning_lowers_rank(runs: Runs, setup: Setup) -> Finding:
    """Mean over later blocks of 1 - (rank of a random A(ρmax)/A(0) of plain units) / R(0)."""
    top = runs.rhos(MAIN)[-1]

    def fall(seed: int, block: str) -> float:
        column = columns.active(block)
        plain, sam = (runs.final(MAIN, rho, seed, column) for rho in (0.0, top))
        whole = runs.final(MAIN, 0.0, seed, columns.rank(block))
        if not (math.isfinite(plain) and math.isfinite(sam) and plain > 0):
            return math.nan
        ranks = [runs.final(MAIN, 0.0, seed, columns.kept(block, share)) for share in KEPT]
        return relative_fall(whole, between((*KEPT, 1.0), (*ranks, whole), sam / plain))

    seeds = runs.seeds(MAIN)
    whole = _falls(runs, [columns.rank(b) for b in setup.later], relative_fall)
    return Finding(
        effects={seed: mean([fall(seed, block) for block in setup.later]) for seed in seeds},
        detail=f"The whole fall of the rank is {mean(list(whole.values())):.1%} there.",
        resolution=_one_rank(runs, [columns.rank(b) for b in setup.later]),
        beside={block: {seed: fall(seed, block) for seed in seeds} for block in setup.later},
    )


def between(places: Sequence[float], values: Sequence[float], at: float) -> float:
    """Linear interpolation, constant outside.

    >>> between((0.5, 1.0), (10.0, 20.0), 0.75)
    15.0
    """
    if at <= places[0]:
        return values[0]
    for (left, low), (right, high) in pairwise(zip(places, values, strict=True)):
        if at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return values[-1]


def trends_differ(runs: Runs, setup: Setup) -> Finding:
    """Mean over all blocks of |1 - R(ρmax)/R(0) - (1 - A(ρmax)/A(0))|."""
    pairs = [(columns.rank(block), columns.active(block)) for block in setup.blocks]
    found = {
        seed: mean(
            [
                abs(
                    _fall(runs, seed, rank, relative_fall)
                    - _fall(runs, seed, active, relative_fall)
                )
                for rank, active in pairs
            ]
        )
        for seed in runs.seeds(MAIN)
    }
    return Finding(
        effects=found,
        resolution=_one_rank(runs, [columns.rank(b) for b in setup.blocks]),
        beside={"1 − Kendall's τ of the orders of ρ, later blocks": _disorder(runs, setup)},
    )


def _disorder(runs: Runs, setup: Setup) -> Effects:
    """1 - τ between the orders of all ρ by rank and by active share."""
    rhos = runs.rhos(MAIN)

    def by_rho(seed: int, column: str) -> list[float]:
        return [runs.final(MAIN, rho, seed, column) for rho in rhos]

    return {
        seed: 1
        - mean(
            [
                kendall(by_rho(seed, columns.rank(b)), by_rho(seed, columns.active(b)))
                for b in setup.later
            ]
        )
        for seed in runs.seeds(MAIN)
    }


def active_at_matched_loss(runs: Runs, setup: Setup) -> Finding:
    """`active_falls`, each where its run first reaches a train loss that all ρ reach."""

    def values(rho: float, seed: int, block: str) -> list[float]:
        times = range(len(runs.curve(MAIN, rho, seed, TRAIN_LOSS)))
        return [runs.final(MAIN, rho, seed, columns.curve(block, i)) for i in times]

    return _matched(runs, setup, values, points, columns.active, setup.one_unit(setup.later))


def rank_at_matched_loss(runs: Runs, setup: Setup) -> Finding:
    """`rank_falls`, each where its run first reaches a train loss that all ρ reach."""

    def values(rho: float, seed: int, block: str) -> list[float]:
        return runs.curve(MAIN, rho, seed, columns.rank(block))

    names = [columns.rank(b) for b in setup.later]
    return _matched(runs, setup, values, relative_fall, columns.rank, _one_rank(runs, names))


def _matched(
    runs: Runs,
    setup: Setup,
    values: Callable[[float, int, str], list[float]],
    fall: Fall,
    column: Callable[[str], str],
    resolution: float,
) -> Finding:
    rhos, seeds = runs.rhos(MAIN), runs.seeds(MAIN)
    effects: dict[int, float] = {}
    for seed in seeds:
        if any(runs.run(MAIN, rho, seed).diverged for rho in rhos):
            effects[seed] = math.nan
            continue
        losses = [runs.curve(MAIN, rho, seed, TRAIN_LOSS) for rho in rhos]
        level = common_level(losses)
        if level is not None:
            falls = []
            for block in setup.later:
                plain, sam = (
                    value_at_level(losses[i], values(rhos[i], seed, block), level) for i in (0, -1)
                )
                falls.append(fall(plain, sam))
            effects[seed] = mean(falls)
    if not effects:
        raise NotMeasuredError("no seed has a train loss that all ρ reach")
    return Finding(
        effects=effects,
        detail=f"{len(effects)} of {len(seeds)} seeds have a train loss that all ρ reach.",
        resolution=resolution,
        beside={"at equal steps": _falls(runs, [column(b) for b in setup.later], fall)},
    )


def _falls(runs: Runs, names: Sequence[str], fall: Fall) -> Effects:
    """The mean over columns of their falls from ρ = 0 to ρmax."""
    return {
        seed: mean([_fall(runs, seed, name, fall) for name in names]) for seed in runs.seeds(MAIN)
    }


def _fall(runs: Runs, seed: int, column: str, fall: Fall) -> float:
    top = runs.rhos(MAIN)[-1]
    return fall(runs.final(MAIN, 0.0, seed, column), runs.final(MAIN, top, seed, column))


def _minus(first: Effects, second: Effects) -> Effects:
    return {seed: first[seed] - second[seed] for seed in first}


def _one_rank(runs: Runs, names: Sequence[str]) -> float:
    """The step of the mean over columns of relative falls, when one rank changes by one."""
    ranks = [runs.final(MAIN, 0.0, seed, name) for seed in runs.seeds(MAIN) for name in names]
    return 1 / (len(names) * max(mean(ranks), 1.0)) if ranks else 0.0


def _by_rho(runs: Runs, column: str, *, percent: bool = False, where: str) -> str:
    shown = "{:.1%}" if percent else "{:.1f}"
    words = ", ".join(
        shown.format(mean([runs.final(MAIN, rho, seed, column) for seed in runs.seeds(MAIN)]))
        + f" at {rho:g}"
        for rho in runs.rhos(MAIN)
    )
    return f"Mean by ρ at {where}: {words}."


def _block_by_block(runs: Runs, setup: Setup, column: Callable[[str], str], fall: Fall) -> str:
    words = ", ".join(
        f"{mean(list(_falls(runs, [column(b)], fall).values())):.1%} at {b}" for b in setup.blocks
    )
    return f"Mean falls: {words}."
