"""What the report shows: probe error against train loss, shares of the gradient, flatness."""

from __future__ import annotations

import math
from collections.abc import Callable

from lowland.studies.balance import columns
from lowland.studies.balance.columns import Setup, group_of
from lowland.studies.drawing import Axis, Cell, Drawing, Line, Sheet
from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Panel


def panels(setup: Setup) -> tuple[Panel, ...]:
    """Probe errors, share of the gradient and worst group over training, by network and setting."""
    if not setup.over_time:
        return ()
    found = []
    for group in setup.groups:
        found += [
            Panel(
                title=f"Hard-feature probe error: {group}",
                column=columns.HARD,
                group=group,
                percent=True,
                x=columns.STEP,
                log_x=True,
            ),
            Panel(
                title=f"Share of the hard feature in the gradient: {group}",
                column=columns.SHARE,
                group=group,
                percent=True,
                note="of the gradient that is descended, at w + ε for SAM",
                x=columns.STEP,
                log_x=True,
            ),
        ]
    return tuple(found)


def figures(runs: Runs, setup: Setup) -> list[Drawing]:
    """Every figure whose runs are there."""
    makers: list[Callable[[], list[Drawing]]] = []
    for network in setup.networks:
        for setting in setup.settings:
            group = group_of(network, setting)
            if setup.over_time:
                makers.append(lambda g=group: _against_loss(runs, g))  # type: ignore[misc]
            makers.append(lambda g=group: [_flatness(runs, g)])  # type: ignore[misc]
    drawings = []
    for make in makers:
        try:
            drawings += make()
        except NotMeasuredError:
            continue
    return drawings


def _against_loss(runs: Runs, group: str) -> list[Drawing]:
    names = {columns.HARD: "Hard", columns.EASY: "Simple"}
    return [
        Drawing(
            title=f"{words} feature: probe error against train loss, {group}",
            x=Axis(title="train loss", log=True),
            y=Axis(title="probe error, %", percent=True),
            lines=[
                Line(
                    name=f"ρ = {rho:g}" if rho else "plain training",
                    x=_means(runs, group, rho, columns.TRAIN, log=True),
                    y=_means(runs, group, rho, column),
                    rho=rho,
                )
                for rho in runs.rhos(group)
            ],
            note="Means over seeds at each evaluation, of the loss in its logarithm; training "
            "goes from right to left.",
        )
        for column, words in names.items()
    ]


def _means(runs: Runs, group: str, rho: float, column: str, *, log: bool = False) -> list[float]:
    curves = [runs.curve(group, rho, seed, column) for seed in runs.seeds(group)]
    if not curves:
        raise NotMeasuredError("no whole seed")
    if not log:
        return [mean(values) for values in zip(*curves, strict=True)]
    return [math.exp(mean([_log(v) for v in values])) for values in zip(*curves, strict=True)]


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _flatness(runs: Runs, group: str) -> Drawing:
    lines = []
    for rho in runs.rhos(group)[1:]:
        x, y = [], []
        for seed in runs.seeds(group):
            plain, sam = runs.run(group, 0.0, seed), runs.run(group, rho, seed)
            x.append(sam.final(columns.SHARPNESS))
            y.append(plain.final(columns.HARD) - sam.final(columns.HARD))
        lines.append(Line(name=f"ρ = {rho:g}", x=x, y=y, mode="markers", rho=rho))
    return Drawing(
        title=f"Gain in the hard feature against λ_max, {group}",
        x=Axis(title="λ_max of the train loss", log=True),
        y=Axis(title="fall of the probe error, points", percent=True),
        lines=lines,
        note="A mark is a seed. Within one ρ there is no slope if flatness does not matter.",
    )


def tables(runs: Runs, setup: Setup) -> list[Sheet]:
    """Every arm at the end."""
    kept = (
        columns.TRAIN,
        columns.HARD,
        columns.EASY,
        columns.WORST,
        columns.SHARE,
        columns.SHARPNESS,
    )
    rows: list[list[Cell]] = []
    alone = [group_of(net, setup.alone) for net in setup.networks] if setup.alone else []
    for group in [*setup.groups, *alone]:
        for rho in runs.radii(group):
            seeds = runs.whole_seeds(group, [rho])
            rows.append([group, rho, *(_end(runs, group, rho, seeds, name) for name in kept)])
    return [
        Sheet(
            title="Every arm at the end",
            head=[
                "arm",
                "ρ",
                "train loss",
                "hard, probe error %",
                "simple, probe error %",
                "worst group, error %",
                "share of the hard, %",
                "λ_max",
            ],
            rows=rows,
            note="Means over seeds. Where both features always agree, labels of the test images "
            "whose features disagree are those of the hard one: the worst group means nothing.",
        )
    ]


def _end(runs: Runs, group: str, rho: float, seeds: list[int], column: str) -> Cell:
    try:
        value = mean([runs.final(group, rho, seed, column) for seed in seeds])
    except NotMeasuredError:
        return None
    shares = (columns.HARD, columns.EASY, columns.WORST, columns.SHARE)
    return float(f"{value * (100 if column in shares else 1):.3g}")
