"""The table of arms: what a study has put side by side (``comparison`` of its results)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lowland.report import words
from lowland.report.tables import Rows, number

Record = Mapping[str, Any]


def arm_table(results: Mapping[str, Any], *, short: bool = False) -> tuple[list[str], Rows]:
    """A row per arm: errors of both protocols, what was measured at equal epochs, and cost.

    Args:
        results: of a study that compares arms.
        short: errors, rank and time alone, for narrow places.
    """
    compared = results["comparison"]
    columns = [column for column in _columns(compared, short) if column.short or not short]
    rows = [[column.cell(arm) for column in columns] for arm in compared["arms"]]
    return [column.title for column in columns], rows


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[Record], str]
    short: bool = False


def _columns(compared: Record, short: bool) -> Iterator[_Column]:
    first, second = compared["protocols"]
    error, rank, *others = compared["measures"]
    yield _Column("arm", lambda arm: str(arm["name"]), short=True)
    yield _Column("passes", lambda arm: f"{arm['passes']:.3g}")
    yield _Column("ρ", lambda arm: chosen(arm[first]))
    for protocol in (first, second):
        yield _column(error, protocol, title=f"{error['title']}, {protocol}", short=True)
    yield _Column("time per step", lambda arm: ratio(arm["time"], short=short), short=True)
    yield _Column("memory", lambda arm: _memory(arm["memory"]))
    for measure in (rank, *others):
        yield _column(measure, first, title=measure["title"], short=measure is rank)


def _column(measure: Record, protocol: str, *, title: str, short: bool) -> _Column:
    return _Column(title, lambda arm: measured(arm[protocol], measure), short)


def _memory(value: float | None) -> str:
    return words.DASH if value is None else f"{value:.2f}"


def measured(arm: Record | None, measure: Record) -> str:
    """Mean ± half of the interval of one measure; a dash where nothing ran."""
    found = None if arm is None else arm[measure["key"]]
    return spread(found, percent=measure["unit"] == "percent")


def spread(value: Record | None, *, percent: bool = False) -> str:
    """An estimate ± half of its interval.

    >>> spread({"estimate": 0.02, "low": 0.01, "high": 0.03}, percent=True)
    '2.00% ±1.00'
    >>> spread({"estimate": None, "low": None, "high": None}), spread(None)
    ('one seed', '–')
    """
    if value is None:
        return words.DASH
    if value["estimate"] is None:
        return "one seed"
    panel, estimate = {"percent": percent}, value["estimate"]
    half = number(value["high"] - estimate, panel, like=estimate)
    return f"{number(estimate, panel)} ±{half.removesuffix('%')}"


def ratio(value: Record | None, *, short: bool = False) -> str:
    """A median with its quartiles, or the median alone.

    >>> ratio({"median": 1.98, "low": 1.9, "high": 2.063})
    '1.98 [1.90, 2.06]'
    """
    if value is None:
        return words.DASH
    ends = "" if short else f" [{value['low']:.2f}, {value['high']:.2f}]"
    return f"{value['median']:.2f}{ends}"


def chosen(arm: Record | None) -> str:
    """The ρ that most seeds chose, and how many did.

    >>> chosen({"chosen": {"0.1": 3, "0.2": 5}, "n": 8})
    '0.2 (5 of 8)'
    """
    if arm is None:
        return words.DASH
    counts = arm["chosen"]
    rho = max(counts, key=lambda rho: counts[rho])
    if float(rho) == 0:
        return words.DASH
    return f"{rho} ({counts[rho]} of {arm['n']})"
