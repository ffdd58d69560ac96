"""Effects on the rank after the last, 3/4 and 1/2 of the blocks, one per seed: §3.2 of the paper.

R(ρ) is the feature rank of the network trained with radius ρ at one place, ρ = 0 is plain training,
and ρmax the largest radius of the grid.
"""

from __future__ import annotations

import math
from fractions import Fraction

from lowland.studies.effects import kendall, mean, relative_fall
from lowland.studies.matched import at_equal_loss
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.tuned import VALIDATION_ERROR, Tuned, differences
from lowland.studies.vit_blocks.columns import (
    OTHER_TOKENS,
    POOL_RANK,
    TEST_ERROR,
    TOKENS,
    TRAIN_LOSS,
    Setup,
    rank,
)


def fall(runs: Runs, setup: Setup, *, group: str, share: Fraction, sign: int = 1) -> Finding:
    """sign · (1 - R(ρmax) / R(0)) of the stream after that share of the blocks."""
    block, token = setup.after(group, share), TOKENS[group]
    column = rank(block, "after-mlp", token)
    others = {
        "published centring": rank(block, "after-mlp", token, center="example"),
        f"{_WORDS[OTHER_TOKENS[group]]}": rank(block, "after-mlp", OTHER_TOKENS[group]),
        "on test images": rank(block, "after-mlp", token, of="test"),
    }
    rhos = runs.rhos(group)
    return Finding(
        effects=_falls(runs, group, column, rhos[-1], sign),
        detail=f"{block}. {means_by_rho(runs, group, column)} {_order(runs, group, column)}",
        resolution=one_rank(runs, group, column),
        beside={
            **{name: _falls(runs, group, c, rhos[-1], sign) for name, c in others.items()},
            **{f"at ρ = {r:g}": _falls(runs, group, column, r, sign) for r in rhos[1:-1]},
        },
    )


def fall_of_largest(runs: Runs, setup: Setup, *, group: str) -> Finding:
    """The fall at ρmax minus the fall at the smallest ρ > 0, after the last block."""
    rhos = runs.rhos(group)
    if len(rhos) < 3:
        raise NotMeasuredError("two values of ρ > 0 are needed to compare")
    column = rank(setup.after(group, Fraction(1)), "after-mlp", TOKENS[group])
    low, high = (_falls(runs, group, column, rho) for rho in (rhos[1], rhos[-1]))
    return Finding(
        effects={seed: high[seed] - low[seed] for seed in high},
        detail=_order(runs, group, column),
        resolution=one_rank(runs, group, column),
    )


def fall_at_matched_loss(runs: Runs, setup: Setup, *, group: str) -> Finding:
    """1 - R(ρmax) / R(0) of `pool`, each where its run first reaches a loss that all ρ reach."""
    rhos, seeds = runs.rhos(group), runs.seeds(group)
    effects: dict[int, float] = {}
    for seed in seeds:
        if any(runs.run(group, rho, seed).diverged for rho in rhos):
            effects[seed] = math.nan
            continue
        values = at_equal_loss(
            [runs.run(group, rho, seed) for rho in rhos], POOL_RANK, loss=TRAIN_LOSS
        )
        if values is not None:
            effects[seed] = relative_fall(values[0], values[-1])
    if not effects:
        raise NotMeasuredError("no seed has a train loss that all ρ reach")
    return Finding(
        effects=effects,
        detail=f"{len(effects)} of {len(seeds)} seeds have a train loss that all ρ reach.",
        resolution=one_rank(runs, group, POOL_RANK),
        beside={"at equal steps": _falls(runs, group, POOL_RANK, rhos[-1])},
    )


def error_falls(runs: Runs, *, group: str) -> Finding:
    """Test error at ρ = 0 minus at the ρ that validation data of the other seeds choose.

    The grid was chosen for ranks. Where every seed chooses its smallest ρ and that does harm, a
    smaller one might help, and nothing can be said.
    """
    tuned = Tuned.of(runs, group)
    smallest = tuned.rhos[0]
    harmed = mean(list(tuned.gain(VALIDATION_ERROR).values())) < 0
    if harmed and set(tuned.chosen.values()) == {smallest}:
        raise NotMeasuredError(
            f"all seeds choose the smallest ρ, {smallest:g}, which does harm: none below was run"
        )
    plain = tuned.plain(TEST_ERROR)
    return Finding(
        effects=tuned.gain(TEST_ERROR),
        detail=means_by_rho(runs, group, TEST_ERROR, percent=True) + tuned.words(),
        beside={
            "at matched train loss": tuned.gain_at_equal_loss(TEST_ERROR),
            **{f"at ρ = {r:g}": differences(plain, tuned.at(r, TEST_ERROR)) for r in tuned.rhos},
        },
    )


def means_by_rho(runs: Runs, group: str, column: str, *, percent: bool = False) -> str:
    """The mean over seeds at every ρ, as a sentence."""
    shown = "{:.1%}" if percent else "{:.1f}"
    words = ", ".join(
        shown.format(mean([runs.final(group, rho, seed, column) for seed in runs.seeds(group)]))
        + f" at {rho:g}"
        for rho in runs.rhos(group)
    )
    return f"Mean by ρ: {words}."


def one_rank(runs: Runs, group: str, column: str) -> float:
    """The share that one dimension is of the mean rank at ρ = 0: falls move in such steps."""
    ranks = [runs.final(group, 0.0, seed, column) for seed in runs.seeds(group)]
    return 1 / max(mean(ranks), 1.0) if ranks else 0.0


_WORDS = {"class": "first token", "mean": "mean token"}


def _falls(runs: Runs, group: str, column: str, rho: float, sign: int = 1) -> Effects:
    return {
        seed: sign
        * relative_fall(runs.final(group, 0.0, seed, column), runs.final(group, rho, seed, column))
        for seed in runs.seeds(group)
    }


def _order(runs: Runs, group: str, column: str) -> str:
    rhos = runs.rhos(group)
    orders = [
        -kendall(rhos, [runs.final(group, rho, seed, column) for rho in rhos])
        for seed in runs.seeds(group)
    ]
    return f"Kendall's τ of falling order with ρ, mean over seeds: {mean(orders):.2f}."
