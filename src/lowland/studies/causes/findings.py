"""Effects of the study of causes, one per seed.

R is the feature rank at the judged block of a network. A fall is 1 - R(arm)/R(plain), of the same
network and seed: "at matched loss" where either run first reaches the lowest train loss that both
reach (interpolated in log loss), "at the end" after equally many updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lowland.studies.causes import columns
from lowland.studies.causes.arms import DECAY, FEW, MANY, MLP, RESNET, Arm, of_cause
from lowland.studies.causes.columns import Measured, collapse_column, rank_column
from lowland.studies.effects import (
    choose_left_out,
    chosen_words,
    kendall,
    mean,
    relative_fall,
)
from lowland.studies.matched import at_equal_loss
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects, Finding

Place = tuple[str, float]
"""Group and ρ."""


def cause_lowers_rank(runs: Runs, what: Measured, network: str, cause: str) -> Finding:
    """Fall at matched loss, at the strongest level of a cause."""
    places = [(arm.group, 0.0) for arm in of_cause(network, cause, what.arms)]
    return _falls(runs, what, network, [p for p in places if _there(runs, p)])


def sam_lowers_rank(runs: Runs, what: Measured, network: str) -> Finding:
    """Fall at matched loss, at the largest ρ."""
    return _falls(runs, what, network, [(network, rho) for rho in runs.rhos(network)[1:]])


def _falls(runs: Runs, what: Measured, network: str, places: list[Place]) -> Finding:
    if not places:
        raise NotMeasuredError("no run has this cause")
    column = rank_column(what.blocks[network])
    matched = {place: fall_at_matched_loss(runs, (network, 0.0), place, column) for place in places}
    ends = {place: fall_at_end(runs, (network, 0.0), place, column) for place in places}
    top = places[-1]
    if not matched[top]:
        raise NotMeasuredError("no seed has a train loss that both reach")
    seeds = _paired_seeds(runs, (network, 0.0), top)
    beside = {"the same at the end": ends[top]}
    for place in places[:-1]:
        beside |= {
            f"{_words(place)}, matched": matched[place],
            f"{_words(place)}, end": ends[place],
        }
    return Finding(
        effects=matched[top],
        detail=(
            f"{_words(top)}: {len(matched[top])} of {len(seeds)} seeds have a train loss that both "
            f"reach. Mean rank at the end {_mean(runs, top, column):.1f}, of plain training "
            f"{_mean(runs, (network, 0.0), column):.1f}."
        ),
        resolution=_one_rank(runs, network, column),
        beside=beside,
    )


def plain_lowers_rank(runs: Runs, what: Measured, network: str) -> Finding:
    """1 - R at the end / R at initialisation of plain training."""

    def effect(name: str) -> Effects:
        column = rank_column(what.blocks[name])
        return {
            seed: relative_fall(run.start(column), run.final(column))
            for seed, run in runs_of(runs, (name, 0.0)).items()
        }

    other = MLP if network == RESNET else RESNET
    return Finding(
        effects=effect(network),
        resolution=_one_rank(runs, network, rank_column(what.blocks[network])),
        beside={f"{other} network": effect(other)},
    )


def lowers(
    runs: Runs, what: Measured, network: str, cause: str, column: str, start: str = ""
) -> Finding:
    """1 - a column of the strongest level over that of plain training, at the end."""
    strongest = [a for a in of_cause(network, cause, what.arms) if _there(runs, (a.group, 0.0))]
    if not strongest:
        raise NotMeasuredError("no run has this cause")
    plain, top = (network, 0.0), (strongest[-1].group, 0.0)
    values = [_mean(runs, place, column) for place in (plain, top)]
    beside = {
        _words((arm.group, 0.0)): fall_at_end(runs, plain, (arm.group, 0.0), column)
        for arm in strongest[:-1]
    }
    rhos = runs.rhos(network)
    beside[f"SAM, ρ = {rhos[-1]:g}"] = fall_at_end(runs, plain, (network, rhos[-1]), column)
    first = f"; {_mean(runs, plain, start):.3f} at initialisation" if start else ""
    return Finding(
        effects=fall_at_end(runs, plain, top, column),
        detail=f"Mean {values[0]:.3f} in plain training, {values[1]:.3f} {_words(top)}{first}.",
        beside=beside,
    )


def plain_makes_sparse(runs: Runs, what: Measured) -> Finding:
    """1 - share of active pairs at the end over that at initialisation, plain training."""

    def effect(network: str) -> Effects:
        return {
            seed: relative_fall(run.final(columns.START_POSITIVE), run.final(columns.POSITIVE))
            for seed, run in runs_of(runs, (network, 0.0)).items()
        }

    share = _mean(runs, (MLP, 0.0), columns.POSITIVE)
    return Finding(
        effects=effect(MLP),
        detail=f"Mean share active at the end {share:.1%}.",
        beside={"residual network": effect(RESNET)},
    )


def norm_rises_with_rho(runs: Runs, what: Measured) -> Finding:
    """Weight norm at the largest ρ over that of plain training, minus 1."""

    def rise(network: str) -> Effects:
        top = runs.rhos(network)[-1]
        falls = fall_at_end(runs, (network, 0.0), (network, top), columns.WEIGHT_NORM)
        return {seed: -fall for seed, fall in falls.items()}

    return Finding(effects=rise(RESNET), beside={"fully connected network": rise(MLP)})


def decay_is_no_substitute(runs: Runs, what: Measured) -> Finding:
    """SAM's fall at the end minus weight decay's, each at the level that validation chooses."""
    column = rank_column(what.blocks[RESNET])
    sam = [(RESNET, rho) for rho in runs.rhos(RESNET)[1:]]
    decay = [(arm.group, 0.0) for arm in of_cause(RESNET, DECAY, what.arms)]
    decay = [place for place in decay if _there(runs, place)]
    if not decay:
        raise NotMeasuredError("no run has weight decay")
    chosen = [_choose(runs, places) for places in (sam, decay)]
    both = sorted(set(chosen[0]) & set(chosen[1]))

    def difference(column: str, sign: float) -> Effects:
        found = {}
        for seed in both:
            with_sam, with_decay = (runs.final(*places[seed], seed, column) for places in chosen)
            plain = runs.final(RESNET, 0.0, seed, column)
            falls = [
                relative_fall(plain, value) if sign > 0 else plain - value
                for value in (with_sam, with_decay)
            ]
            found[seed] = falls[0] - falls[1]
        return found

    levels = {seed: rho for seed, (_, rho) in chosen[0].items()}
    counts = sorted({group for group, _ in chosen[1].values()})
    return Finding(
        effects=difference(column, 1.0),
        detail=f"Weight decay chosen: {'; '.join(counts)}.{chosen_words(levels)}",
        resolution=_one_rank(runs, RESNET, column),
        beside={
            "test error that SAM saves beyond weight decay": difference(columns.TEST_ERROR, -1.0)
        },
    )


def interaction(runs: Runs, what: Measured, cause: str) -> Finding:
    """Difference of differences: fall with ρ together with a cause minus fall with ρ without."""
    arms = [a for a in of_cause(RESNET, cause, what.arms) if a.rhos == "ends"]
    column = rank_column(what.blocks[RESNET])
    group = arms[0].group if arms else ""
    top = runs.rhos(group)[-1]
    alone = fall_at_end(runs, (RESNET, 0.0), (RESNET, top), column)
    joint = fall_at_end(runs, (group, 0.0), (group, top), column)
    errors = {
        place: {s: r.final(columns.TEST_ERROR) for s, r in runs_of(runs, place).items()}
        for place in ((RESNET, 0.0), (RESNET, top), (group, 0.0), (group, top))
    }
    both = sorted(set(alone) & set(joint))
    saved = {
        seed: (errors[group, 0.0][seed] - errors[group, top][seed])
        - (errors[RESNET, 0.0][seed] - errors[RESNET, top][seed])
        for seed in both
    }
    return Finding(
        effects={seed: joint[seed] - alone[seed] for seed in both},
        detail=f"{_words((group, top))}: ρ = {top:g} against 0, with and without.",
        resolution=_one_rank(runs, RESNET, column),
        beside={
            f"fall with {cause}": joint,
            "fall without": alone,
            "the same of the test error that ρ saves": saved,
        },
    )


def collapse_over_training(runs: Runs, what: Measured) -> Finding:
    """1 - NC1 at the end over NC1 half-way, of plain training."""
    column = rank_column(what.last[RESNET])

    def fall(rho: float, first: str) -> Effects:
        return {
            seed: relative_fall(
                run.final(collapse_column(first)), run.final(collapse_column("end"))
            )
            for seed, run in runs_of(runs, (RESNET, rho)).items()
        }

    top = runs.rhos(RESNET)[-1]
    means = {t: _mean(runs, (RESNET, 0.0), collapse_column(t)) for t in columns.TIMES}
    words = ", ".join(f"{value:.3g} at {time}" for time, value in means.items())
    ranks = [_mean(runs, (RESNET, rho), column) for rho in (0.0, top)]
    return Finding(
        effects=fall(0.0, "half"),
        detail=(
            f"NC1 of plain training: {words}. Rank at {what.last[RESNET]} at the end "
            f"{ranks[0]:.1f}, with ρ = {top:g} {ranks[1]:.1f}; {what.classes} classes."
        ),
        beside={
            "from initialisation": fall(0.0, "start"),
            f"half-way, ρ = {top:g}": fall(top, "half"),
        },
    )


def rank_and_error(runs: Runs, what: Measured) -> Finding:
    """Kendall's τ between rank and test error over all arms of the residual network, per seed."""
    column = rank_column(what.blocks[RESNET])
    places = comparable(runs, what)
    if len(places) < 3:
        raise NotMeasuredError("an order needs three arms or more")
    seeds = sorted(set.intersection(*(set(runs_of(runs, place)) for place in places)))

    def taus(chosen: list[Place]) -> Effects:
        return {
            seed: kendall(
                *([runs.final(*p, seed, c) for p in chosen] for c in (column, columns.TEST_ERROR))
            )
            for seed in seeds
        }

    rhos = [(RESNET, rho) for rho in runs.rhos(RESNET)]
    return Finding(
        effects=taus(places),
        detail=f"{len(places)} arms of the residual network on the same data, per seed.",
        resolution=4 / (len(places) * (len(places) - 1)),
        beside={"over ρ alone": taus(rhos)} if len(rhos) > 2 else {},
    )


def sharpness_and_error(runs: Runs, what: Measured) -> Finding:
    """Kendall's τ between one-step sharpness and test minus train error over the same arms."""
    places = comparable(runs, what)
    if len(places) < 3:
        raise NotMeasuredError("an order needs three arms or more")
    seeds = sorted(set.intersection(*(set(runs_of(runs, place)) for place in places)))

    def taus(chosen: list[Place], of: Callable[[Run], float]) -> Effects:
        found = {}
        for seed in seeds:
            held = [runs.run(*place, seed) for place in chosen]
            sharp = [run.final(columns.SHARPNESS) for run in held]
            found[seed] = kendall(sharp, [of(run) for run in held])
        return found

    def gap(run: Run) -> float:
        return run.final(columns.TEST_ERROR) - run.final(columns.TRAIN_ERROR)

    def test(run: Run) -> float:
        return run.final(columns.TEST_ERROR)

    rhos = [(RESNET, rho) for rho in runs.rhos(RESNET)]
    return Finding(
        effects=taus(places, gap),
        detail=f"{len(places)} arms of the residual network on the same data, per seed.",
        resolution=4 / (len(places) * (len(places) - 1)),
        beside={
            "test error alone": taus(places, test),
            **({"over ρ alone": taus(rhos, gap)} if len(rhos) > 2 else {}),
        },
    )


def comparable(runs: Runs, what: Measured) -> list[Place]:
    """Every arm and ρ of the residual network on all classes that has been run."""
    groups = [
        arm.group for arm in what.arms if arm.network == RESNET and arm.cause not in (FEW, MANY)
    ]
    return [(group, rho) for group in groups for rho in runs.radii(group)]


def adapts_to_data(runs: Runs, what: Measured) -> Finding:
    """1 - R on few classes over R on all of them, both at the largest ρ, as many images."""
    groups = [_only(what, cause).group for cause in (MANY, FEW)]
    column = rank_column(what.blocks[RESNET])
    rhos = runs.rhos(groups[0])

    def fall(rho: float) -> Effects:
        return fall_at_end(runs, (groups[0], rho), (groups[1], rho), column)

    means = [_mean(runs, (group, rhos[-1]), column) for group in groups]
    return Finding(
        effects=fall(rhos[-1]),
        detail=(
            f"Mean rank at ρ = {rhos[-1]:g}: {means[0]:.1f} on all classes, {means[1]:.1f} on few."
        ),
        beside={"the same of plain training": fall(0.0)},
    )


def _only(what: Measured, cause: str) -> Arm:
    return next(arm for arm in what.arms if arm.cause == cause)


def _there(runs: Runs, place: Place) -> bool:
    return place[1] in runs.radii(place[0])


def runs_of(runs: Runs, place: Place) -> dict[int, Run]:
    """The runs of a place by seed; only seeds of which every ρ of the group is there."""
    group, rho = place
    if rho not in runs.radii(group):
        raise NotMeasuredError(f"there are no runs of {group} at ρ = {rho:g}")
    return {seed: runs.run(group, rho, seed) for seed in runs.whole_seeds(group, runs.radii(group))}


def _paired_seeds(runs: Runs, first: Place, second: Place) -> list[int]:
    return sorted(set(runs_of(runs, first)) & set(runs_of(runs, second)))


def _paired(
    runs: Runs, first: Place, second: Place, effect: Callable[[Run, Run], float | None]
) -> dict[int, float]:
    one, two = runs_of(runs, first), runs_of(runs, second)
    found = {seed: effect(one[seed], two[seed]) for seed in sorted(set(one) & set(two))}
    return {seed: value for seed, value in found.items() if value is not None}


def fall_at_end(runs: Runs, plain: Place, other: Place, column: str) -> dict[int, float]:
    return _paired(runs, plain, other, lambda a, b: relative_fall(a.final(column), b.final(column)))


def fall_at_matched_loss(runs: Runs, plain: Place, other: Place, column: str) -> dict[int, float]:
    """Seeds without a common train loss are missing; a diverged run is NaN."""

    def effect(a: Run, b: Run) -> float | None:
        if a.diverged or b.diverged:
            return math.nan
        values = at_equal_loss([a, b], column, loss=columns.TRAIN_LOSS)
        return None if values is None else relative_fall(*values)

    return _paired(runs, plain, other, effect)


def _choose(runs: Runs, places: list[Place]) -> dict[int, Place]:
    """The place with the lowest mean validation error over the other seeds, per seed."""
    errors = {
        float(i): {
            s: run.final(columns.VALIDATION_ERROR) for s, run in runs_of(runs, place).items()
        }
        for i, place in enumerate(places)
    }
    chosen = choose_left_out(errors)
    if not chosen:
        raise NotMeasuredError("one seed cannot choose: the choice is made on the others")
    return {seed: places[int(i)] for seed, i in chosen.items()}


def _mean(runs: Runs, place: Place, column: str) -> float:
    return mean([run.final(column) for run in runs_of(runs, place).values()])


def _one_rank(runs: Runs, network: str, column: str) -> float:
    return 1 / max(_mean(runs, (network, 0.0), column), 1.0)


def _words(place: Place) -> str:
    group, rho = place
    return f"{group}, ρ = {rho:g}" if rho else group
