"""The table of arms: what a study has put side by side (``comparison`` of its results)."""

from __future__ import annotations

from collections.abc import Mapping
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
    first, second = compared["protocols"]
    error, rank, *others = compared["measures"]
    head = ["arm"]
    if not short:
        head += ["passes", "ρ"]
    head += [f"{error['title']}, {first}", f"{error['title']}, {second}", rank["title"]]
    if not short:
        head += [measure["title"] for measure in others]
    head += ["time"] if short else ["time per step", "memory"]
    rows = []
    for arm in compared["arms"]:
        at, longer = arm[first], arm[second]
        row = [arm["name"]]
        if not short:
            row += [f"{arm['passes']:.3g}", chosen(at)]
        row += [measured(at, error), measured(longer, error), measured(at, rank)]
        if not short:
            row += [measured(at, measure) for measure in others]
        row.append(spread(arm["time"]))
        if not short:
            row.append(words.DASH if arm["memory"] is None else f"{arm['memory']:.2f}")
        rows.append(row)
    return head, rows


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
    panel = {"percent": percent}
    half = number(value["high"] - value["estimate"], panel, like=value["estimate"])
    return f"{number(value['estimate'], panel)} ±{half.removesuffix('%')}"


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
