"""Effects of bottlenecks and of SAM on retrieval errors and ranks, one per seed.

E is a retrieval error and R a feature rank at the end of training: plain; with bottleneck h, at
ρ = 0; with SAM of radius ρ, without bottleneck. h* and ρ* have the lowest validation error over the
other seeds (`choose_left_out`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowland.studies.bottleneck.columns import SAM, bottleneck
from lowland.studies.contrastive import columns
from lowland.studies.contrastive.columns import TOWERS, TRAIN_LOSS, VALIDATION_ERROR, Measured
from lowland.studies.contrastive.findings import chosen_rhos, mean_fall, one_rank
from lowland.studies.effects import (
    choose_left_out,
    mean,
    relative_fall,
)
from lowland.studies.matched import at_equal_loss
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects, Finding

TEST_ERROR = "test/error"
"""The mean of both ways."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the claims are about.

    Attributes:
        what: batches and pairs.
        widths: h of the bottlenecks, ascending.
    """

    what: Measured
    widths: tuple[int, ...]


def bottleneck_gain(runs: Runs, setup: Setup, way: str, *, sign: int = 1) -> Finding:
    """E(plain) - E(h*), times `sign`."""
    column = columns.error(way)
    seeds, chosen = whole_seeds(runs, setup), chosen_widths(runs, setup)

    def gains(of: str) -> dict[int, float]:
        return {s: sign * gain(runs, s, of_bottleneck(runs, h, s), of) for s, h in chosen.items()}

    return Finding(
        effects=gains(column),
        detail=f"{_means(runs, setup, column)} {_chosen(chosen)}",
        resolution=1 / setup.what.queries,
        beside={
            "among all test pairs": gains(columns.error(way, among_all=True)),
            "at matched train loss": _scaled(
                matched(runs, {s: of_bottleneck(runs, h, s) for s, h in chosen.items()}, column),
                sign,
            ),
            **{
                f"h = {h}": {
                    s: sign * gain(runs, s, of_bottleneck(runs, h, s), column) for s in seeds
                }
                for h in setup.widths
            },
        },
    )


def no_gain(runs: Runs, setup: Setup, *, least: float) -> Finding:
    """least - (E(plain) - E(h*)), E the mean of both ways inside batches of test pairs."""
    seeds, chosen = whole_seeds(runs, setup), chosen_widths(runs, setup)

    def left(seed: int, h: int) -> float:
        return least - gain(runs, seed, of_bottleneck(runs, h, seed), TEST_ERROR)

    return Finding(
        effects={seed: left(seed, h) for seed, h in chosen.items()},
        detail=f"{_means(runs, setup, TEST_ERROR)} {_chosen(chosen)}",
        resolution=1 / (2 * setup.what.queries),
        beside={f"h = {h}": {seed: left(seed, h) for seed in seeds} for h in setup.widths},
    )


def sam_gain(runs: Runs, setup: Setup, way: str) -> Finding:
    """E(plain) - E(ρ*)."""
    column = columns.error(way)
    seeds, chosen = runs.seeds(SAM), chosen_rhos(runs, SAM)

    def gains(of: str) -> dict[int, float]:
        return {s: gain(runs, s, runs.run(SAM, rho, s), of) for s, rho in chosen.items()}

    return Finding(
        effects=gains(column),
        detail=columns.by_rho(runs, SAM, column, percent=True),
        resolution=1 / setup.what.queries,
        beside={
            "among all test pairs": gains(columns.error(way, among_all=True)),
            "at matched train loss": matched(
                runs, {s: runs.run(SAM, rho, s) for s, rho in chosen.items()}, column
            ),
            **{
                f"at ρ = {rho:g}": {s: gain(runs, s, runs.run(SAM, rho, s), column) for s in seeds}
                for rho in runs.rhos(SAM)[1:]
            },
        },
    )


def sam_against_bottleneck(runs: Runs, setup: Setup, way: str) -> Finding:
    """E(h*) - E(ρ*)."""
    widths, rhos = chosen_widths(runs, setup), chosen_rhos(runs, SAM)

    def difference(column: str) -> dict[int, float]:
        return {
            seed: of_bottleneck(runs, widths[seed], seed).final(column)
            - runs.final(SAM, rhos[seed], seed, column)
            for seed in widths
            if seed in rhos
        }

    return Finding(
        effects=difference(columns.error(way)),
        resolution=1 / setup.what.queries,
        beside={"among all test pairs": difference(columns.error(way, among_all=True))},
    )


def bottleneck_rank(runs: Runs, setup: Setup) -> Finding:
    """1 - R(h) / R(plain) of the narrowest bottleneck, mean of both towers."""

    def falls(h: int, center: str = "unit") -> dict[int, float]:
        return {
            seed: _mean_fall(runs, of_bottleneck(runs, h, seed), seed, center)
            for seed in whole_seeds(runs, setup)
        }

    narrowest = setup.widths[0]
    return Finding(
        effects=falls(narrowest),
        detail=_means(runs, setup, columns.rank("image"), percent=False),
        resolution=one_rank(runs, SAM, columns.rank("image")),
        beside={
            **{f"h = {h}": falls(h) for h in setup.widths[1:]},
            f"h = {narrowest}, published centring": falls(narrowest, "example"),
        },
    )


def sam_rank(runs: Runs, setup: Setup) -> Finding:
    """1 - R(ρ*) / R(plain), mean of both towers."""
    chosen, seeds = chosen_rhos(runs, SAM), runs.seeds(SAM)
    return Finding(
        effects={seed: mean_fall(runs, SAM, rho, seed) for seed, rho in chosen.items()},
        detail=columns.by_rho(runs, SAM, columns.rank("image")),
        resolution=one_rank(runs, SAM, columns.rank("image")),
        beside={
            f"at ρ = {rho:g}": {seed: mean_fall(runs, SAM, rho, seed) for seed in seeds}
            for rho in runs.rhos(SAM)[1:]
        },
    )


def whole_seeds(runs: Runs, setup: Setup) -> list[int]:
    """Seeds that have plain training and every bottleneck.

    Raises:
        NotMeasuredError: there are none.
    """
    found = set(runs.whole_seeds(SAM, [0.0]))
    for width in setup.widths:
        found &= set(runs.whole_seeds(bottleneck(width), [0.0]))
    if not found:
        raise NotMeasuredError("no seed has plain training and every bottleneck")
    return sorted(found)


def chosen_widths(runs: Runs, setup: Setup) -> dict[int, int]:
    """h* by seed.

    Raises:
        NotMeasuredError: one seed, which cannot choose.
    """
    seeds = whole_seeds(runs, setup)
    errors = {
        float(h): {s: of_bottleneck(runs, h, s).final(VALIDATION_ERROR) for s in seeds}
        for h in setup.widths
    }
    chosen = choose_left_out(errors)
    if not chosen:
        raise NotMeasuredError("one seed cannot choose a width: the choice is made on the others")
    return {seed: int(width) for seed, width in chosen.items()}


def of_bottleneck(runs: Runs, width: int, seed: int) -> Run:
    """The run of a seed with a bottleneck."""
    return runs.run(bottleneck(width), 0.0, seed)


def gain(runs: Runs, seed: int, run: Run, column: str) -> float:
    """How much lower a column is at the end of a run than at that of plain training."""
    return runs.final(SAM, 0.0, seed, column) - run.final(column)


def matched(runs: Runs, others: dict[int, Run], column: str) -> dict[int, float]:
    """`gain` where both runs of a seed first reach the lowest train loss that both reach."""
    found = {}
    for seed, run in others.items():
        pair = [runs.run(SAM, 0.0, seed), run]
        if any(one.diverged for one in pair):
            found[seed] = math.nan
            continue
        values = at_equal_loss(pair, column, loss=TRAIN_LOSS)
        if values is not None:
            found[seed] = values[0] - values[1]
    return found


def _scaled(effects: Effects, sign: int) -> dict[int, float]:
    return {seed: sign * effect for seed, effect in effects.items()}


def _mean_fall(runs: Runs, run: Run, seed: int, center: str) -> float:
    names = [columns.rank(tower, center=center) for tower in TOWERS]
    plain = runs.run(SAM, 0.0, seed)
    return mean([relative_fall(plain.final(name), run.final(name)) for name in names])


def _means(runs: Runs, setup: Setup, column: str, *, percent: bool = True) -> str:
    """The mean over seeds without bottleneck and at every width."""
    seeds = whole_seeds(runs, setup)

    def shown(values: Sequence[float]) -> str:
        return f"{mean(values):.1%}" if percent else f"{mean(values):.1f}"

    plain = shown([runs.final(SAM, 0.0, seed, column) for seed in seeds])
    parts = [
        f"{shown([of_bottleneck(runs, h, s).final(column) for s in seeds])} at {h}"
        for h in setup.widths
    ]
    return f"Mean by h: {', '.join(parts)}; {plain} without."


def _chosen(chosen: dict[int, int]) -> str:
    counts = {h: list(chosen.values()).count(h) for h in sorted(set(chosen.values()))}
    words = ", ".join(f"{h} ({count} of {len(chosen)} seeds)" for h, count in counts.items())
    return f"Chosen on validation data of the other seeds: h = {words}."
