"""Effects on what a search needs, one per seed.

D(ρ) is a number that is read off the network trained with radius ρ: components, bits, operations.
ρ = 0 is plain training, and ρmax the largest radius of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lowland.studies.effects import (
    choose_left_out,
    chosen_words,
    mean,
    relative_fall,
)
from lowland.studies.matched import at_equal_loss
from lowland.studies.retrieval import columns
from lowland.studies.retrieval.columns import ERRORS, FEW, MAIN, RECALLS, TRANSFER, Setup
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding

MARGIN = 0.01
"""By which an error that is preserved may be higher: one point."""


def fewer_dimensions(runs: Runs, setup: Setup) -> Finding:
    """1 - D(ρmax) / D(0), components of exact search."""
    column = columns.dimensions()
    beside = {f"recall {r:g}": columns.dimensions(r) for r in RECALLS if r != columns.RECALL}
    beside["squared distance, centred"] = columns.dimensions(metric="l2")
    beside["pooled features"] = columns.dimensions(features=columns.POOLED)
    return Finding(
        effects=falls(runs, column),
        detail=by_rho(runs, column),
        beside={
            **there(runs, beside),
            "at the ρ chosen on validation error": _at_chosen(runs, column),
            "among classes left out of training": falls(runs, column, TRANSFER),
        },
    )


def fewer_operations(runs: Runs, setup: Setup) -> Finding:
    """1 - D(ρmax) / D(0), multiply-adds of the turn to components and of inverted lists."""
    column = columns.operations()
    full = mean([runs.final(MAIN, 0.0, s, columns.width()) for s in runs.seeds(MAIN)])
    detail = f"Exact search among all features takes {full * setup.database:,.0f}."
    return Finding(
        effects=falls(runs, column),
        detail=f"{by_rho(runs, column)} {detail}",
        beside=there(runs, {"without the turn to components": columns.comparing()}),
    )


def fewer_bits(runs: Runs, setup: Setup) -> Finding:
    """1 - D(ρmax) / D(0), components × bits of the best quantizer."""
    column = columns.bits()
    known = runs.run(MAIN, 0.0, runs.seeds(MAIN)[0]).history if runs.seeds(MAIN) else {}
    named = [name.split("/")[1] for name in known if name.endswith(f"/{columns.RECALL:g}")]
    codecs = [name for name in named if columns.bits(codec=name) in known and name != "best"]
    return Finding(
        effects=falls(runs, column),
        detail=by_rho(runs, column),
        beside={
            **there(
                runs, {f"recall {r:g}": columns.bits(r) for r in RECALLS if r != columns.RECALL}
            ),
            **there(runs, {name: columns.bits(codec=name) for name in codecs}),
        },
    )


def fewer_tokens(runs: Runs, setup: Setup) -> Finding:
    """1 - D(ρmax) / D(0), components × bits at 1% error of reconstruction."""
    column = columns.tokens()
    others = {f"{e:.0%} error": columns.tokens(e) for e in ERRORS if e != columns.ERROR}
    others["components alone"] = columns.components()
    others["bits alone"] = columns.best_bits()
    return Finding(
        effects=falls(runs, column), detail=by_rho(runs, column), beside=there(runs, others)
    )


def threefold(runs: Runs, setup: Setup) -> Finding:
    """Features over components at 1% error of reconstruction, at ρmax."""

    def ratio(rho: float, error: float) -> Effects:
        return {
            seed: _over(
                runs.final(MAIN, rho, seed, columns.width()),
                runs.final(MAIN, rho, seed, columns.components(error)),
            )
            for seed in runs.seeds(MAIN)
        }

    top = runs.rhos(MAIN)[-1]
    by_sam = {
        seed: _over(
            runs.final(MAIN, 0.0, seed, columns.components()),
            runs.final(MAIN, top, seed, columns.components()),
        )
        for seed in runs.seeds(MAIN)
    }
    return Finding(
        effects=ratio(top, columns.ERROR),
        detail=by_rho(runs, columns.components()),
        beside={
            "in plain training": ratio(0.0, columns.ERROR),
            "plain training over ρmax: the part of SAM": by_sam,
            **{f"{e:.0%} error": ratio(top, e) for e in ERRORS if e != columns.ERROR},
        },
    )


def labels_preserved(runs: Runs, setup: Setup) -> Finding:
    """10-NN error on unseen classes at ρ = 0, plus a margin, minus at the ρ chosen on theirs."""
    seeds = runs.seeds(TRANSFER)
    errors = {
        rho: {s: runs.final(TRANSFER, rho, s, columns.knn("validation")) for s in seeds}
        for rho in runs.rhos(TRANSFER)[1:]
    }
    chosen = choose_left_out(errors)
    if seeds and not chosen:
        raise NotMeasuredError("one seed cannot choose ρ: the choice is made on the others")

    def gain(group: str, seed: int, rho: float) -> float:
        plain, sam = (runs.final(group, r, seed, columns.knn()) for r in (0.0, rho))
        return plain + MARGIN - sam

    top = runs.rhos(MAIN)[-1]
    return Finding(
        effects={seed: gain(TRANSFER, seed, rho) for seed, rho in chosen.items()},
        detail=by_rho(runs, columns.knn(), TRANSFER, percent=True) + chosen_words(chosen),
        resolution=1 / setup.transfer_queries,
        beside={
            **{f"at ρ = {r:g}": {s: gain(TRANSFER, s, r) for s in seeds} for r in errors},
            "classes of training, at the largest ρ": {
                seed: gain(MAIN, seed, top) for seed in runs.seeds(MAIN)
            },
        },
    )


def components_suffice(runs: Runs, setup: Setup) -> Finding:
    """10-NN error by the components of 99% of the variance minus by all, unseen classes, ρmax."""

    def rise(group: str, rho: float) -> Effects:
        return {
            seed: runs.final(group, rho, seed, columns.knn(dims="rank"))
            - runs.final(group, rho, seed, columns.knn())
            for seed in runs.seeds(group)
        }

    return Finding(
        effects=rise(TRANSFER, runs.rhos(TRANSFER)[-1]),
        detail=by_rho(runs, columns.knn(dims="rank"), TRANSFER, percent=True),
        resolution=1 / setup.transfer_queries,
        beside={
            "in plain training": rise(TRANSFER, 0.0),
            "classes of training": rise(MAIN, runs.rhos(MAIN)[-1]),
        },
    )


def adapts(runs: Runs, setup: Setup) -> Finding:
    """1 - R(few classes) / R(all classes) at ρmax, both ranks of as many images."""

    def fall(rho: float) -> Effects:
        seeds = [s for s in runs.seeds(FEW) if s in runs.seeds(MAIN)]
        return {
            seed: relative_fall(
                *(runs.final(group, rho, seed, columns.adaptive()) for group in (MAIN, FEW))
            )
            for seed in seeds
        }

    top = runs.rhos(FEW)[-1]
    return Finding(
        effects=fall(top),
        detail=f"{setup.few} classes: {by_rho(runs, columns.adaptive(), FEW)} "
        f"{setup.trained} classes: {by_rho(runs, columns.adaptive())}",
        beside={"in plain training": fall(0.0)},
    )


def at_matched_loss(runs: Runs, setup: Setup) -> Finding:
    """1 - R(ρmax) / R(0), each where its run first reaches a train loss that all ρ reach."""
    rhos, seeds = runs.rhos(MAIN), runs.seeds(MAIN)
    column = columns.training_rank(setup.block)
    effects: dict[int, float] = {}
    for seed in seeds:
        if any(runs.run(MAIN, rho, seed).diverged for rho in rhos):
            effects[seed] = math.nan
            continue
        values = at_equal_loss(
            [runs.run(MAIN, rho, seed) for rho in rhos], column, loss=columns.TRAIN_LOSS
        )
        if values is not None:
            effects[seed] = relative_fall(values[0], values[-1])
    if not effects:
        raise NotMeasuredError("no seed has a train loss that all ρ reach")
    return Finding(
        effects=effects,
        detail=f"{len(effects)} of {len(seeds)} seeds have a train loss that all ρ reach.",
        beside={"at equal steps": falls(runs, column)},
    )


def falls(runs: Runs, column: str, group: str = MAIN) -> Effects:
    """1 - D(ρmax) / D(0) per seed."""
    top = runs.rhos(group)[-1]
    return {
        seed: relative_fall(
            runs.final(group, 0.0, seed, column), runs.final(group, top, seed, column)
        )
        for seed in runs.seeds(group)
    }


def there(runs: Runs, named: Mapping[str, str]) -> dict[str, Effects]:
    """The falls of those columns that every run has."""
    found = {}
    for label, column in named.items():
        try:
            found[label] = falls(runs, column)
        except NotMeasuredError:
            continue
    return found


def by_rho(runs: Runs, column: str, group: str = MAIN, *, percent: bool = False) -> str:
    """The mean over seeds at every ρ, as a sentence."""
    shown = "{:.2%}" if percent else "{:,.1f}"
    words = ", ".join(
        shown.format(mean([runs.final(group, rho, seed, column) for seed in runs.seeds(group)]))
        + f" at {rho:g}"
        for rho in runs.rhos(group)
    )
    return f"Mean by ρ: {words}."


def _at_chosen(runs: Runs, column: str) -> Effects:
    """The fall to the ρ with the lowest validation error of the other seeds."""
    seeds = runs.seeds(MAIN)
    errors = {
        rho: {seed: runs.final(MAIN, rho, seed, "validation/error") for seed in seeds}
        for rho in runs.rhos(MAIN)[1:]
    }
    return {
        seed: relative_fall(
            runs.final(MAIN, 0.0, seed, column), runs.final(MAIN, rho, seed, column)
        )
        for seed, rho in choose_left_out(errors).items()
    }


def _over(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else math.nan
