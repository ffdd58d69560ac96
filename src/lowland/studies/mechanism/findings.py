"""Effects of the study of the mechanism, one per seed.

ρ of the phantom is the one at which last-layer SAM has the lowest validation error over the other
seeds (equal errors are decided by the validation loss); every arm is judged at that same ρ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowland.studies.balance.paired import TIE, Pairs, at_rho, or_none, without_empty
from lowland.studies.balance.paired import chosen as chosen_by
from lowland.studies.effects import mean
from lowland.studies.mechanism import columns
from lowland.studies.mechanism.arms import IMPORTANCE, LSAM, RATE
from lowland.studies.mechanism.columns import WORDS, Place, of
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.tuned import differences


def corner(runs: Runs, places: tuple[Place, ...], column: str) -> Finding:
    """The largest relative difference over all places, per seed."""
    groups = [place.name for place in places if runs.whole_seeds(place.name, [0.0])]
    if not groups:
        raise NotMeasuredError("no arm was trained")
    seeds = sorted(set.intersection(*(set(runs.whole_seeds(g, [0.0])) for g in groups)))
    found = {seed: _largest([runs.final(g, 0.0, seed, column) for g in groups]) for seed in seeds}
    most = _largest(list(found.values()))
    return Finding(effects=found, detail=f"Largest of all seeds and networks: {most:.1e}.")


def _largest(values: Sequence[float]) -> float:
    """The largest; NaN if one of them is."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def under_learned(runs: Runs, place: Place) -> Finding:
    """Hard-feature probe error of plain training on both features minus that on the hard alone."""
    both, alone = place.sam, columns.ALONE
    seeds = sorted(set(runs.whole_seeds(both, [0.0])) & set(runs.whole_seeds(alone, [0.0])))
    if not seeds:
        raise NotMeasuredError("the hard feature alone was not trained on")
    ends = [[runs.final(g, 0.0, s, columns.HARD) for s in seeds] for g in (both, alone)]
    return Finding(
        effects={s: one - other for s, one, other in zip(seeds, *ends, strict=True)},
        detail=f"Mean probe error {mean(ends[0]):.1%} with both features, {mean(ends[1]):.1%} with "
        "the hard one alone.",
        resolution=1 / place.test,
        beside={
            "before training, by the inputs alone": {
                s: runs.run(both, 0.0, s).start(columns.HARD)
                - runs.run(alone, 0.0, s).start(columns.HARD)
                for s in seeds
            }
        },
    )


def by_validation(runs: Runs, place: Place) -> Pairs:
    """ρ of last-layer SAM by validation data."""
    return _chosen(
        runs, place.name, of(LSAM, columns.VALIDATION), of(LSAM, columns.VALIDATION_LOSS)
    )


def _chosen(runs: Runs, group: str, error: str, loss: str) -> Pairs:
    return chosen_by(
        runs, group, lambda run: run.final(error) + TIE * run.final(loss), "validation data"
    )


def gain(runs: Runs, place: Place, arm: str) -> Finding:
    """Hard-feature probe error of plain SGD minus that of an arm."""
    pairs = by_validation(runs, place)
    hard = of(arm, columns.HARD)
    beside = {
        "at equal train loss": or_none(lambda: _at_equal_loss(pairs, arm)),
        "the simple feature": pairs.fall(of(arm, columns.EASY)),
        "the worst group": pairs.fall(of(arm, columns.WORST)),
        **{
            f"ρ = {rho:g}": at_rho(runs, place.name, rho).fall(hard)
            for rho in runs.rhos(place.name)[1:]
        },
    }
    if arm == LSAM:
        beside["SAM on all parameters, at its own ρ"] = or_none(lambda: sam_gain(runs, place))
        beside["both effects alone, added up"] = _added(pairs)
    means = [mean([f(s).final(hard) for s in pairs.seeds]) for f in (pairs.plain, pairs.sam)]
    return Finding(
        effects=pairs.fall(hard),
        detail=f"Mean probe error of the hard feature {means[0]:.1%} in plain training, "
        f"{means[1]:.1%} with {WORDS[arm]}.{pairs.how}",
        resolution=1 / place.test,
        beside=without_empty(beside),
    )


def sam_gain(runs: Runs, place: Place) -> Effects:
    """The same of SAM on all parameters, at the ρ that its own validation errors choose."""
    return _sam_pairs(runs, place).fall(columns.HARD)


def _sam_pairs(runs: Runs, place: Place) -> Pairs:
    return _chosen(runs, place.sam, columns.VALIDATION, columns.VALIDATION_LOSS)


def as_sam(runs: Runs, place: Place) -> Finding:
    """Gain of last-layer SAM minus that of SAM on all parameters."""
    pairs = by_validation(runs, place)
    last, whole = pairs.fall(of(LSAM, columns.HARD)), sam_gain(runs, place)
    seeds = [seed for seed in last if seed in whole]

    def matched() -> Effects:
        sam = _sam_pairs(runs, place).fall_at_equal_loss(columns.HARD, train=columns.TRAIN)
        return differences(_at_equal_loss(pairs, LSAM), sam)

    return Finding(
        effects={seed: last[seed] - whole[seed] for seed in seeds},
        detail=f"Mean gain {mean([last[s] for s in seeds]) * 100:.2f} points with the last layer, "
        f"{mean([whole[s] for s in seeds]) * 100:.2f} with all.{pairs.how}",
        resolution=1 / place.test,
        beside=without_empty({"at equal train loss": or_none(matched)}),
    )


def evener(runs: Runs, place: Place) -> Finding:
    """Gini of λ minus Gini of λ̃, mean over training after initialisation, last-layer SAM."""
    pairs = by_validation(runs, place)

    def falls(run: Run) -> float:
        here, there = (run.curve(of(LSAM, name)) for name in (columns.GINI, columns.GINI_PHANTOM))
        return mean([a - b for a, b in zip(here, there, strict=True)][1:])

    return _along(pairs, falls, columns.GINI, "Gini coefficient")


def scaled(runs: Runs, place: Place) -> Finding:
    """Share of the hard feature in ṽ minus that in v, mean over training, last-layer SAM."""
    pairs = by_validation(runs, place)

    def rise(run: Run) -> float:
        here, there = (run.curve(of(LSAM, name)) for name in (columns.HEAD, columns.HEAD_PHANTOM))
        return mean([b - a for a, b in zip(here, there, strict=True)][1:])

    found = _along(pairs, rise, columns.HEAD, "share of the hard feature in the head")

    def ratio(run: Run) -> float:
        return mean(run.curve(of(LSAM, columns.RATIO))[1:])

    logs = {seed: ratio(pairs.sam(seed)) for seed in pairs.seeds}
    return Finding(
        effects=found.effects,
        detail=found.detail,
        beside={**found.beside, "log of the ratio ṽ_hard/ṽ_simple over v_hard/v_simple": logs},
    )


def _along(pairs: Pairs, of_run: Callable[[Run], float], column: str, word: str) -> Finding:
    runs, group = pairs.runs, pairs.group
    start, end = (
        mean([read(pairs.sam(s), of(LSAM, column)) for s in pairs.seeds])
        for read in (_after_start, Run.final)
    )
    beside = {
        f"ρ = {rho:g}": {s: of_run(runs.run(group, rho, s)) for s in runs.seeds(group)}
        for rho in runs.rhos(group)[1:]
    }
    beside["at the weights of plain training"] = {s: of_run(pairs.plain(s)) for s in pairs.seeds}
    return Finding(
        effects={s: of_run(pairs.sam(s)) for s in pairs.seeds},
        detail=f"Mean {word} at w {start:.3f} early in training and {end:.3f} at its "
        f"end.{pairs.how}",
        beside=beside,
    )


def _after_start(run: Run, column: str) -> float:
    return run.curve(column)[1]


def _at_equal_loss(pairs: Pairs, arm: str) -> Effects:
    train, hard = of(arm, columns.TRAIN), of(arm, columns.HARD)
    return pairs.fall_at_equal_loss(hard, train=train)


def _added(pairs: Pairs) -> Effects:
    one, other = (pairs.fall(of(arm, columns.HARD)) for arm in (IMPORTANCE, RATE))
    return {seed: one[seed] + other[seed] for seed in one}
