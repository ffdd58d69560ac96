"""Effects on the feature rank, one per seed.

Throughout, R(ρ) is the feature rank at one block of the network trained with radius ρ, ρ = 0 is
plain training, and ρmax is the largest radius of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import zip_longest

from lowland.studies.effects import (
    kendall,
    mean,
    relative_fall,
)
from lowland.studies.low_rank.columns import (
    MAIN,
    TRAIN_LOSS,
    VARIANCES,
    Measured,
    means_by_rho,
    rank_column,
)
from lowland.studies.matched import at_equal_loss
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding


def rank_at_end(runs: Runs, what: Measured) -> Finding:
    """1 - R(ρmax) / R(0) at the last evaluation."""

    column = rank_column(what.block)
    return Finding(
        effects=fall(runs, MAIN, column),
        detail=means_by_rho(runs, column) + _order_with_rho(runs, column),
        resolution=one_rank(runs, column),
        beside=_where_measured(_variants(what), partial(fall, runs, MAIN)),
    )


def rank_throughout(runs: Runs, what: Measured) -> Finding:
    """Mean of 1 - R(ρmax) / R(0) over the evaluations of a half of training, the smaller one.

    A mean over all of training could be carried by its end alone.
    """
    column = rank_column(what.block)
    falls = _falls_over_time(runs, column)
    below = [fall > 0 for curve in falls.values() for fall in curve]
    detail = f"Rank lower than in plain training at {sum(below)} of {len(below)} evaluations."
    if any(len(curve) < 2 for curve in falls.values()):
        raise NotMeasuredError("two evaluations after initialisation are needed to have two halves")
    first = {seed: mean(curve[: len(curve) // 2]) for seed, curve in falls.items()}
    second = {seed: mean(curve[len(curve) // 2 :]) for seed, curve in falls.items()}
    return Finding(
        effects={seed: _least(first[seed], second[seed]) for seed in falls},
        detail=detail,
        resolution=one_rank(runs, column),
        beside={
            "first half of training": first,
            "second half of training": second,
            "all of training": {seed: mean(curve) for seed, curve in falls.items()},
        },
    )


def rank_from_initialisation(runs: Runs, what: Measured) -> Finding:
    """The weaker of two falls: from initialisation to the end at ρ = 0, then on to ρmax."""

    def parts(column: str) -> tuple[Effects, Effects]:
        top = runs.rhos(MAIN)[-1]
        plain, sam = {}, {}
        for seed in runs.seeds(MAIN):
            run = runs.run(MAIN, 0.0, seed)
            after = run.final(column)
            plain[seed] = relative_fall(run.start(column), after)
            sam[seed] = relative_fall(after, runs.final(MAIN, top, seed, column))
        return plain, sam

    def weaker(column: str) -> Effects:
        plain, sam = parts(column)
        return {seed: _least(plain[seed], sam[seed]) for seed in plain}

    column = rank_column(what.block)
    plain, sam = parts(column)
    starts = [runs.run(MAIN, 0.0, seed).start(column) for seed in plain]
    return Finding(
        effects=weaker(column),
        detail=f"Rank at initialisation {mean(starts):.1f}.",
        resolution=one_rank(runs, column),
        beside={
            "plain training alone": plain,
            "SAM on top": sam,
            **_where_measured({f"at {other}": rank_column(other) for other in what.others}, weaker),
        },
    )


def rank_on_test(runs: Runs, what: Measured, group: str = MAIN) -> Finding:
    """Mean over ρ of |R on test images / R on as many train images - 1|.

    The magnitudes, since a rank that is higher on test at one ρ and lower at another is not close.
    """

    def ratios(seed: int, column: str) -> list[float]:
        on_test = column.replace("rank/train/", "rank/test/")
        return _ratios(runs, group, seed, on_test, of_as_many(runs, group, seed, column))

    def deviation(column: str) -> Effects:
        return {s: mean([abs(r) for r in ratios(s, column)]) for s in runs.seeds(group)}

    column = rank_column(what.block)
    single = [r for seed in runs.seeds(group) for r in ratios(seed, column)]
    largest = max(single, key=abs, default=math.nan)
    return Finding(
        effects=deviation(column),
        detail=f"Largest difference in a single run: {largest:+.1%}.",
        resolution=one_rank(runs, column, group),
        beside={
            "with its sign": {s: mean(ratios(s, column)) for s in runs.seeds(group)},
            **_where_measured(_variants(what), deviation),
        },
    )


def rank_falls_on_test(runs: Runs, what: Measured) -> Finding:
    """1 - R(ρmax) / R(0) on test images, at the last evaluation."""
    column = rank_column(what.block, split="test")
    return Finding(
        effects=fall(runs, MAIN, column),
        detail=means_by_rho(runs, column),
        resolution=one_rank(runs, column),
        beside={
            "on as many train images": fall(
                runs,
                MAIN,
                of_as_many(runs, MAIN, runs.seeds(MAIN)[0], rank_column(what.block)),
            ),
        },
    )


def rank_at_other_blocks(runs: Runs, what: Measured) -> Finding:
    """The smallest of 1 - R(ρmax) / R(0) at the end over blocks but the judged and the last one."""
    others = sorted(set(what.others) - {what.last})
    falls = {block: fall(runs, MAIN, rank_column(block)) for block in others}
    if not falls:
        raise NotMeasuredError(f"no block beside {what.block} was measured")
    return Finding(
        effects={s: _least(*(of[s] for of in falls.values())) for s in runs.seeds(MAIN)},
        resolution=max(one_rank(runs, rank_column(block)) for block in others),
        beside={f"at {block}": of for block, of in falls.items()},
    )


def fall(runs: Runs, group: str, column: str) -> Effects:
    """1 - R(ρmax)/R(0) at the end of a group's runs."""
    top = runs.rhos(group)[-1]
    return {
        seed: relative_fall(*(runs.final(group, rho, seed, column) for rho in (0.0, top)))
        for seed in runs.seeds(group)
    }


def of_as_many(runs: Runs, group: str, seed: int, column: str) -> str:
    """The rank on as many train images as there are test images, where it was measured apart."""
    fewer = column.replace("rank/train/", "rank/train-as-test/")
    return fewer if fewer in runs.run(group, 0.0, seed).history else column


def order_across_thresholds(runs: Runs, what: Measured) -> Finding:
    """1 - mean Kendall τ between the order of ρ by rank at 99% and at 95% and 99.9%."""
    rhos = runs.rhos(MAIN)

    def deviation(block: str, center: str) -> Effects:
        columns = [rank_column(block, center=center, variance=share) for share in VARIANCES]
        found = {}
        for seed in runs.seeds(MAIN):
            first, *rest = (
                [runs.final(MAIN, rho, seed, column) for rho in rhos] for column in columns
            )
            found[seed] = 1 - mean([kendall(first, other) for other in rest])
        return found

    return Finding(
        effects=deviation(what.block, "unit"),
        detail=f"{len(rhos)} values of ρ make {len(rhos) * (len(rhos) - 1) // 2} pairs per seed.",
        resolution=2 / (len(rhos) * (len(rhos) - 1)),
        beside={"published centring": deviation(what.block, "example")},
    )


def rank_at_matched_loss(runs: Runs, what: Measured) -> Finding:
    """1 - R(ρmax) / R(0), each where its run first reaches a train loss that all ρ reach."""
    rhos = runs.rhos(MAIN)
    seeds = runs.seeds(MAIN)

    def matched(column: str) -> Effects:
        found = {}
        for seed in seeds:
            if any(runs.run(MAIN, rho, seed).diverged for rho in rhos):
                found[seed] = math.nan
                continue
            values = at_equal_loss(
                [runs.run(MAIN, rho, seed) for rho in rhos], column, loss=TRAIN_LOSS
            )
            if values is not None:
                found[seed] = relative_fall(values[0], values[-1])
        return found

    column = rank_column(what.block)
    effects = matched(column)
    if not effects:
        raise NotMeasuredError("no seed has a train loss that all ρ reach")
    return Finding(
        effects=effects,
        detail=f"{len(effects)} of {len(seeds)} seeds have a train loss that all ρ reach.",
        resolution=one_rank(runs, column),
    )


def one_rank(runs: Runs, column: str, group: str = MAIN) -> float:
    """The share that one dimension is of the rank at ρ = 0: relative falls move in such steps."""
    ranks = [runs.final(group, 0.0, seed, column) for seed in runs.seeds(group)]
    return 1 / max(mean(ranks), 1.0) if ranks else 0.0


def _variants(what: Measured) -> dict[str, str]:
    """Other definitions of the rank, by what they are called in the report."""
    judged = what.block
    return {
        "published centring": rank_column(judged, center="example"),
        **{
            f"at {100 * share:g}% of the variance": rank_column(judged, variance=share)
            for share in VARIANCES[1:]
        },
        **{f"at {other}": rank_column(other) for other in what.others},
    }


def _where_measured(
    columns: dict[str, str], effect: Callable[[str], Effects]
) -> dict[str, Effects]:
    found = {}
    for label, column in columns.items():
        try:
            found[label] = effect(column)
        except NotMeasuredError:
            continue
    return found


def _least(*values: float) -> float:
    return math.nan if any(math.isnan(value) for value in values) else min(values)


def _ratios(runs: Runs, group: str, seed: int, top: str, bottom: str) -> list[float]:
    """top / bottom - 1 at the end, for every ρ."""
    return [
        -relative_fall(runs.final(group, rho, seed, bottom), runs.final(group, rho, seed, top))
        for rho in runs.rhos(group)
    ]


def _falls_over_time(runs: Runs, column: str) -> dict[int, list[float]]:
    top = runs.rhos(MAIN)[-1]
    falls = {}
    for seed in runs.seeds(MAIN):
        curves = (runs.curve(MAIN, rho, seed, column) for rho in (0.0, top))
        # a run that diverged ends early
        pairs = zip_longest(*curves, fillvalue=math.nan)
        falls[seed] = [relative_fall(*pair) for pair in pairs][1:]
    return falls


def _order_with_rho(runs: Runs, column: str) -> str:
    rhos = runs.rhos(MAIN)
    orders = [
        -kendall(rhos, [runs.final(MAIN, rho, seed, column) for rho in rhos])
        for seed in runs.seeds(MAIN)
    ]
    return f" Kendall's τ of falling order with ρ, mean over seeds: {mean(orders):.2f}."
