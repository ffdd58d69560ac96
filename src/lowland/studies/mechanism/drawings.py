"""What the report shows: Lorenz curves, probe error of the arms against train loss, shares."""

from __future__ import annotations

import math

from lowland.report.intervals import t_interval
from lowland.studies.drawing import Axis, Cell, Drawing, Line, Sheet
from lowland.studies.effects import mean
from lowland.studies.mechanism import columns, findings
from lowland.studies.mechanism.arms import LSAM
from lowland.studies.mechanism.columns import POINTS, TRAINED, WORDS, Place, lorenz_column, of
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Panel


def panels(places: tuple[Place, ...]) -> tuple[Panel, ...]:
    """Probe error of last-layer SAM, and uniformity, over training."""
    return tuple(
        Panel(
            title=f"{title}: {place.name}",
            column=of(LSAM, column),
            group=place.name,
            percent=percent,
            x=columns.STEP,
            log_x=True,
            note="last-layer SAM",
        )
        for place in places
        for title, column, percent in (
            ("Hard-feature probe error", columns.HARD, True),
            ("Gini coefficient of λ", columns.GINI, False),
            ("Share of the hard feature in the head", columns.HEAD, True),
        )
    )


def figures(runs: Runs, places: tuple[Place, ...]) -> list[Drawing]:
    """Every figure whose runs are there."""
    drawings = []
    for place in places:
        for make in (_lorenz, _arms):
            try:
                drawings.append(make(runs, place))
            except NotMeasuredError:
                continue
    return drawings


def _lorenz(runs: Runs, place: Place) -> Drawing:
    rho = runs.rhos(place.name)[-1]
    seeds = runs.seeds(place.name)
    share = [k / (POINTS - 1) for k in range(POINTS)]
    lines = [Line(name="all equal", x=[0.0, 1.0], y=[0.0, 1.0], mode="lines")]
    for name, column in (("λ at w", columns.LORENZ), ("λ̃ at the phantom", columns.LORENZ_PHANTOM)):
        y = [
            mean(
                [runs.final(place.name, rho, s, of(LSAM, lorenz_column(column, k))) for s in seeds]
            )
            for k in range(POINTS)
        ]
        lines.append(Line(name=name, x=share, y=y, mode="lines"))
    return Drawing(
        title=f"Lorenz curves of importance, {place.name}",
        x=Axis(title="share of the train examples, the least important first, %", percent=True),
        y=Axis(title="share of all importance, %", percent=True),
        lines=lines,
        note=f"End of training with last-layer SAM, ρ = {rho:g}, mean over seeds.",
    )


def _arms(runs: Runs, place: Place) -> Drawing:
    rho = runs.rhos(place.name)[-1]
    lines = [_curve(runs, place.name, 0.0, LSAM, "plain SGD")]
    lines += [_curve(runs, place.name, rho, arm, WORDS[arm]) for arm in TRAINED]
    if place.sam and len(runs.radii(place.sam)) > 1:
        top = runs.rhos(place.sam)[-1]
        lines.append(_curve(runs, place.sam, top, "", f"SAM, ρ = {top:g}"))
    return Drawing(
        title=f"The arms: hard-feature probe error against train loss, {place.name}",
        x=Axis(title="train loss", log=True),
        y=Axis(title="probe error, %", percent=True),
        lines=lines,
        note=f"Means over seeds at each evaluation, arms at ρ = {rho:g}; training goes from right "
        "to left.",
    )


def _curve(runs: Runs, group: str, rho: float, arm: str, name: str) -> Line:
    train, hard = (of(arm, c) if arm else c for c in (columns.TRAIN, columns.HARD))
    seeds = runs.seeds(group)
    losses, errors = (
        list(zip(*(runs.curve(group, rho, seed, c) for seed in seeds), strict=True))
        for c in (train, hard)
    )
    return Line(
        name=name,
        x=[math.exp(mean([math.log(v) if v > 0 else math.nan for v in at])) for at in losses],
        y=[mean(at) for at in errors],
    )


def tables(runs: Runs, places: tuple[Place, ...]) -> list[Sheet]:
    """How much of last-layer SAM's gain each effect has."""
    rows: list[list[Cell]] = []
    for place in places:
        try:
            pairs = findings.by_validation(runs, place)
        except NotMeasuredError:
            continue
        gains = {arm: pairs.fall(of(arm, columns.HARD)) for arm in TRAINED}
        means = {arm: 100 * mean(list(effects.values())) for arm, effects in gains.items()}
        whole = t_interval(list(gains[LSAM].values()))
        told = whole is not None and not whole.low <= 0 <= whole.high
        shares = [round(means[arm] / means[LSAM], 2) if told else None for arm in TRAINED[:2]]
        rows.append([place.name, *(round(means[arm], 2) for arm in TRAINED), *shares])
    return [
        Sheet(
            title="How much of the gain of last-layer SAM each effect has",
            head=[
                "where",
                *(f"{WORDS[arm]}, points" for arm in TRAINED),
                "importance weighting, share",
                "learning-rate scaling, share",
            ],
            rows=rows,
            note="Falls of the hard feature's probe error, at the ρ that validation data choose "
            "for last-layer SAM. Ratios of means, given only where the 95% interval of the whole "
            "gain leaves 0 out. Shares need not add up to 1.",
        )
    ]
