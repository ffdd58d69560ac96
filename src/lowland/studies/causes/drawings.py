"""What the report of the study of causes draws and lists."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from lowland.report.intervals import t_interval
from lowland.studies.causes import columns, findings
from lowland.studies.causes.arms import FEW, MANY, MLP, RESNET
from lowland.studies.causes.columns import Measured, rank_column
from lowland.studies.drawing import Axis, Cell, Drawing, Line, Sheet
from lowland.studies.effects import mean, relative_fall
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Panel

_HEAD = (
    "arm",
    "rank",
    "fall at the end",
    "fall at matched loss",
    "test error",
    "train loss",
    "weight norm",
    "rank of weights",
)


def panels(what: Measured) -> tuple[Panel, ...]:
    """Curves of plain training and SAM of either network."""
    block, last = what.blocks[RESNET], what.last[RESNET]
    return (
        Panel(title=f"Feature rank, {block}", column=rank_column(block), group=RESNET),
        Panel(
            title=f"Feature rank, {last}",
            column=rank_column(last),
            group=RESNET,
            note=f"neural collapse takes it toward {what.classes}, the number of classes",
        ),
        Panel(title="Test error", column=columns.TEST_ERROR, group=RESNET, percent=True),
        Panel(title="Train loss", column=columns.TRAIN_LOSS, group=RESNET, log=True),
        Panel(
            title=f"Feature rank, fully connected network, {what.blocks[MLP]}",
            column=rank_column(what.blocks[MLP]),
            group=MLP,
        ),
    )


def figures(runs: Runs, what: Measured) -> Sequence[Drawing]:
    """The fall of the rank by cause, and rank against error."""
    found = []
    for network in (RESNET, MLP):
        places = _places(runs, what, network)
        if len(places) > 1:
            found.append(_by_cause(runs, what, network, places))
    with contextlib.suppress(NotMeasuredError):
        found.append(_rank_against_error(runs, what))
    return found


def tables(runs: Runs, what: Measured) -> Sequence[Sheet]:
    """Every arm beside plain training."""
    found = []
    for network in (RESNET, MLP):
        rows = [_row(runs, what, network, place) for place in _places(runs, what, network)]
        if rows:
            found.append(
                Sheet(
                    title=f"Every arm, {network}, {what.blocks[network]}",
                    head=_HEAD,
                    rows=rows,
                    note="means over seeds; falls are against plain training of the same seed",
                )
            )
    return found


def _places(runs: Runs, what: Measured, network: str) -> list[findings.Place]:
    """Arms and ρ of a network on all classes that have two seeds or more."""
    groups = [a.group for a in what.arms if a.network == network and a.cause not in (FEW, MANY)]
    places = [(group, rho) for group in groups for rho in runs.radii(group)]
    several = [p for p in places if len(runs.whole_seeds(p[0], runs.radii(p[0]))) > 1]
    return several if (network, 0.0) in several else []


def _by_cause(runs: Runs, what: Measured, network: str, places: list[findings.Place]) -> Drawing:
    column = rank_column(what.blocks[network])
    plain = (network, 0.0)
    rest = [place for place in places if place != plain]
    lines = []
    for name, effect in (
        ("at the end", findings.fall_at_end),
        ("at matched train loss", findings.fall_at_matched_loss),
    ):
        falls = [list(effect(runs, plain, place, column).values()) for place in rest]
        intervals = [t_interval(values) for values in falls]
        lines.append(
            Line(
                name=name,
                x=[float(i) for i in range(len(rest))],
                y=[None if each is None else each.mean for each in intervals],
                low=[None if each is None else each.low for each in intervals],
                high=[None if each is None else each.high for each in intervals],
                mode="markers",
            )
        )
    ticks = [(float(i), _short(place, network)) for i, place in enumerate(rest)]
    return Drawing(
        title=f"Fall of the rank by cause, {network}, {what.blocks[network]}",
        x=Axis(title="cause and level", ticks=ticks),
        y=Axis(title="share below plain training", percent=True),
        lines=lines,
        note="mean over seeds with 95% intervals; below 0 the rank is higher",
    )


def _rank_against_error(runs: Runs, what: Measured) -> Drawing:
    column = rank_column(what.blocks[RESNET])
    places = findings.comparable(runs, what)
    if not places:
        raise NotMeasuredError("nothing was run")
    lines = []
    for words, chosen in (
        ("SAM, no other cause", [p for p in places if p[0] == RESNET]),
        ("other causes", [p for p in places if p[0] != RESNET and not p[1]]),
        ("SAM with another cause", [p for p in places if p[0] != RESNET and p[1]]),
    ):
        points = [
            (run.final(column), run.final(columns.TEST_ERROR))
            for p in chosen
            for run in findings.runs_of(runs, p).values()
        ]
        points = [point for point in points if all(map(math.isfinite, point))]
        lines.append(
            Line(name=words, x=[x for x, _ in points], y=[y for _, y in points], mode="markers")
        )
    return Drawing(
        title=f"Rank at {what.blocks[RESNET]} against test error",
        x=Axis(title="feature rank"),
        y=Axis(title="test error", percent=True),
        lines=lines,
        note="one mark for each run of the residual network",
    )


def _row(runs: Runs, what: Measured, network: str, place: findings.Place) -> list[Cell]:
    column, plain = rank_column(what.blocks[network]), (network, 0.0)
    chosen = findings.runs_of(runs, place).values()

    def average(name: str) -> float:
        return mean([run.final(name) for run in chosen])

    matched = list(findings.fall_at_matched_loss(runs, plain, place, column).values())
    end = relative_fall(
        mean([run.final(column) for run in findings.runs_of(runs, plain).values()]),
        average(column),
    )
    return [
        "plain training" if place == plain else _short(place, network),
        _cell(average(column), "{:.1f}"),
        None if place == plain else _cell(end, "{:.1%}"),
        None if place == plain or not matched else _cell(mean(matched), "{:.1%}"),
        _cell(average(columns.TEST_ERROR), "{:.2%}"),
        _cell(average(columns.TRAIN_LOSS), "{:.3g}"),
        _cell(average(columns.WEIGHT_NORM), "{:.1f}"),
        _cell(average(columns.WEIGHT_RANK), "{:.3f}"),
    ]


def _cell(value: float, form: str) -> Cell:
    return form.format(value) if math.isfinite(value) else None


def _short(place: findings.Place, network: str) -> str:
    group, rho = place
    words = group.removeprefix(network).removeprefix(", ")
    sam = f"ρ = {rho:g}" if rho else ""
    return ", ".join(word for word in (words, sam) if word) or "plain training"
