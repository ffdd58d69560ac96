"""Figures and tables of the study of workloads: gaps and best ρ against size, width by ρ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lowland.report.intervals import t_interval
from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Axis, Drawing, Effects, HeatMap, Line, Panel, Sheet
from lowland.studies.tuned import differences
from lowland.studies.workloads.findings import best_radii, gap, tunings
from lowland.studies.workloads.kinds import (
    TEST_ERROR,
    TRAIN_ERROR,
    TRAIN_LOSS,
    VALIDATION_ERROR,
    Sweep,
)

PARAMETERS = Axis(title="parameters", log=True)


def panels(sweeps: Sequence[Sweep]) -> tuple[Panel, ...]:
    """What training did in the widest networks of each workload."""
    return tuple(
        panel
        for sweep in sweeps
        for panel in (
            Panel(
                title=f"{sweep.workload.title}, widest: validation error",
                column=VALIDATION_ERROR,
                group=sweep.groups[-1],
                percent=True,
            ),
            Panel(
                title=f"{sweep.workload.title}, widest: train loss",
                column=TRAIN_LOSS,
                group=sweep.groups[-1],
                log=True,
            ),
        )
    )


def figures(runs: Runs, sweeps: Sequence[Sweep]) -> list[Drawing | HeatMap]:
    """Gaps and best ρ against parameters, all workloads in one; a map for each workload."""
    return [
        _gaps(runs, sweeps, VALIDATION_ERROR, "validation"),
        _gaps(runs, sweeps, TEST_ERROR, "test"),
        _best(runs, sweeps),
        *(_map(runs, sweep) for sweep in _measured(runs, sweeps)),
    ]


def _gaps(runs: Runs, sweeps: Sequence[Sweep], column: str, split: str) -> Drawing:
    lines = [
        _line(sweep, [gap(tuned, column) for tuned in tunings(runs, sweep)])
        for sweep in _measured(runs, sweeps)
    ]
    return Drawing(
        title=f"Gain of SAM in {split} error against the size of the network",
        x=PARAMETERS,
        y=Axis(title=f"{split} error of SGD minus SAM, points", percent=True),
        lines=lines,
        note="Paired by seed, with 95% intervals; SAM at the ρ > 0 that the validation error of "
        "the other seeds chooses for each width. Above zero SAM is better.",
    )


def _best(runs: Runs, sweeps: Sequence[Sweep]) -> Drawing:
    lines = [
        _line(
            sweep,
            [best_radii(runs, name, VALIDATION_ERROR) for name in sweep.groups],
            shown=lambda value: 10**value,
        )
        for sweep in _measured(runs, sweeps)
    ]
    return Drawing(
        title="Best ρ against the size of the network",
        x=PARAMETERS,
        y=Axis(title="best ρ", log=True),
        lines=lines,
        note="The ρ > 0 with the lowest validation error of each seed; geometric mean with a 95% "
        "interval.",
    )


def _line(
    sweep: Sweep, by_width: Sequence[Effects], *, shown: Callable[[float], float] = float
) -> Line:
    intervals = [t_interval(list(of.values())) for of in by_width]
    return Line(
        name=sweep.workload.title,
        x=list(sweep.parameters.values()),
        y=[None if i is None else shown(i.mean) for i in intervals],
        low=[None if i is None else shown(i.low) for i in intervals],
        high=[None if i is None else shown(i.high) for i in intervals],
    )


def _map(runs: Runs, sweep: Sweep) -> HeatMap:
    rhos = runs.rhos(sweep.groups[0])[1:]
    values = []
    for rho in rhos:
        row: list[float | None] = []
        for name in sweep.groups:
            seeds = runs.seeds(name)
            plain, sam = (
                {s: runs.final(name, r, s, VALIDATION_ERROR) for s in seeds} for r in (0.0, rho)
            )
            row.append(mean(list(differences(plain, sam).values())))
        values.append(row)
    return HeatMap(
        title=f"Gain of SAM over width and ρ: {sweep.workload.title}",
        columns=[f"{width} ({count:,})" for width, count in sweep.parameters.items()],
        rows=[f"{rho:g}" for rho in rhos],
        column_title=f"{sweep.workload.width} (parameters)",
        row_title="ρ",
        values=values,
        value_title="validation error of SGD minus SAM, points",
        percent=True,
        signed=True,
        note="Means over paired seeds.",
    )


def tables(runs: Runs, sweeps: Sequence[Sweep]) -> list[Sheet]:
    """Every width of every workload."""
    rows = [row for sweep in _measured(runs, sweeps) for row in _rows(runs, sweep)]
    return [
        Sheet(
            title="Every width",
            head=[
                "network",
                "width",
                "parameters",
                "train error % (SGD)",
                "validation error %",
                "test error %",
                "with SAM: validation",
                "test",
            ],
            rows=rows,
            note="Means over seeds; SAM at the ρ that the validation error of the other seeds "
            "chooses.",
        )
    ]


def _rows(runs: Runs, sweep: Sweep) -> Iterator[list[str | float | int | None]]:
    for (width, count), tuned in zip(sweep.parameters.items(), tunings(runs, sweep), strict=True):
        plain = [
            _percent(tuned.plain(column)) for column in (TRAIN_ERROR, VALIDATION_ERROR, TEST_ERROR)
        ]
        sam = [_percent(tuned.values(column)) for column in (VALIDATION_ERROR, TEST_ERROR)]
        yield [sweep.workload.title, width, count, *plain, *sam]


def _percent(values: Effects) -> float:
    return round(100 * mean(list(values.values())), 2)


def _measured(runs: Runs, sweeps: Sequence[Sweep]) -> list[Sweep]:
    """Workloads of which every width is there, in two seeds or more."""
    found = []
    for sweep in sweeps:
        try:
            tunings(runs, sweep)
        except NotMeasuredError:
            continue
        found.append(sweep)
    if not found:
        raise NotMeasuredError("no workload has every width in two seeds")
    return found
