"""Figures and tables of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowland.report.intervals import t_interval
from lowland.studies.domains import columns
from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Axis, Drawing, Line, Panel, Sheet
from lowland.studies.tuned import Tuned

KINDS = {
    columns.INSIDE: "training domains",
    columns.OUTSIDE: "domain left out",
    columns.RETRAINED: "left out, last layer retrained",
    columns.READ_OFF: "left out, last layer fitted there",
}


def panels(group: str) -> tuple[Panel, ...]:
    """Errors inside and outside over training, of the first domain left out."""
    return tuple(
        Panel(
            title=f"Error on the {KINDS[column]} ({group})",
            column=column,
            group=group,
            percent=True,
        )
        for column in (columns.INSIDE, columns.OUTSIDE)
    )


def figures(runs: Runs, kinds: Mapping[str, Sequence[str]]) -> list[Drawing]:
    """For each kind of domains, every error against the domain left out, plain and SAM."""
    return [
        _by_domain(runs, kind, groups, column)
        for kind, groups in kinds.items()
        if any(runs.radii(group) for group in groups)
        for column in (columns.OUTSIDE, columns.RETRAINED)
    ]


def _by_domain(runs: Runs, kind: str, groups: Sequence[str], column: str) -> Drawing:
    there = [group for group in groups if runs.radii(group)]
    rhos = sorted({rho for group in there for rho in runs.radii(group)})
    ticks = [(float(i), group.removeprefix(f"{kind} ")) for i, group in enumerate(there)]
    return Drawing(
        title=f"Error on the {KINDS[column]}, {kind}",
        note="Means over seeds with 95% t intervals, for each ρ.",
        x=Axis(title="domain left out", ticks=ticks),
        y=Axis(title="error", percent=True),
        lines=[_line(runs, there, rho, column) for rho in rhos],
    )


def _line(runs: Runs, groups: Sequence[str], rho: float, column: str) -> Line:
    y, low, high = [], [], []
    for group in groups:
        values = _values(runs, group, rho, column)
        interval = t_interval(values) if len(values) > 1 else None
        y.append(mean(values) if values else None)
        low.append(interval.low if interval else None)
        high.append(interval.high if interval else None)
    x = [float(i) for i in range(len(groups))]
    return Line(name=f"ρ = {rho:g}", x=x, y=y, low=low, high=high, rho=rho)


def _values(runs: Runs, group: str, rho: float, column: str) -> list[float]:
    found: list[Run] = [runs.run(group, rho, s) for s in runs.whole_seeds(group, [rho])]
    return [run.final(column) for run in found]


def tables(runs: Runs, kinds: Mapping[str, Sequence[str]]) -> list[Sheet]:
    """Every error of every domain left out, plain and SAM at the chosen ρ, in percent."""
    rows: list[list[str | float]] = []
    for group in (group for groups in kinds.values() for group in groups):
        try:
            tuned = Tuned.of(runs, group)
        except NotMeasuredError:
            continue
        for name, values in (("plain", tuned.plain), ("SAM", tuned.values)):
            rows.append([group, name, *(100 * mean(list(values(c).values())) for c in KINDS)])
    if not rows:
        return []
    return [
        Sheet(
            title="Errors by domain left out",
            head=["domain left out", "training", *(f"{words}, %" for words in KINDS.values())],
            rows=rows,
            note="Means over seeds. SAM at the ρ that the training domains of other seeds choose.",
        )
    ]
