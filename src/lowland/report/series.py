"""Means over seeds with intervals, from the runs in a record: what figures and tables show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowland.report.intervals import Interval, quartiles, t_interval

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Values of all seeds at one place.

    Attributes:
        x: epoch, or another time, or ρ.
        values: one number per seed that has one.
        seeds: which seeds those are.
        interval: mean with its 95% interval, or the median with the quartiles where the panel asks
            for that; None for fewer than two seeds.
    """

    x: float
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    interval: Interval | None

    @property
    def mean(self) -> float:
        """Mean over seeds, or the median where the panel asks for that."""
        if self.interval is not None:
            return self.interval.mean
        return sum(self.values) / len(self.values)


def rhos(runs: Sequence[Record], group: str | None = None) -> list[float]:
    """All ρ of a group of runs, or of all, ascending."""
    return sorted({run["rho"] for run in runs if group in (None, run["group"])})


def over_training(runs: Sequence[Record], panel: Record, rho: float) -> list[Point]:
    """The column of a panel at one ρ, evaluation by evaluation, where it was measured."""
    time = panel.get("x", "epoch")
    columns = {panel["column"], time}
    chosen = [run for run in _of(runs, panel, rho) if columns <= run["history"].keys()]
    found = []
    for index in range(max((len(run["history"][time]) for run in chosen), default=0)):
        at = [run for run in chosen if index < len(run["history"][time])]
        place = at[0]["history"][time][index]
        point = _point(
            place,
            [(run["seed"], run["history"][panel["column"]][index]) for run in at],
            panel,
        )
        if point is not None and not (panel.get("log_x") and place <= 0):
            found.append(point)
    return found


def at_end(runs: Sequence[Record], panel: Record) -> list[Point]:
    """The last value of a panel's column against ρ."""
    found = []
    for rho in rhos(runs, panel["group"]):
        pairs = [
            (run["seed"], run["history"].get(panel["column"], [None])[-1])
            for run in _of(runs, panel, rho)
        ]
        point = _point(rho, pairs, panel)
        if point is not None:
            found.append(point)
    return found


def _of(runs: Sequence[Record], panel: Record, rho: float) -> Iterator[Record]:
    return (run for run in runs if run["group"] == panel["group"] and run["rho"] == rho)


def _point(x: float, pairs: Sequence[tuple[int, float | None]], panel: Record) -> Point | None:
    there = [(seed, value) for seed, value in pairs if value is not None]
    if not there:
        return None
    seeds, values = zip(*there, strict=True)
    interval = quartiles if panel.get("median") else t_interval
    return Point(x=x, values=values, seeds=seeds, interval=interval(values))
