"""The tables of the page: means by ρ, every run, and where it all comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from lowland.report import words
from lowland.report.series import Point, at_end, rhos

Rows = list[list[str]]


def html_table(head: Sequence[str], rows: Rows) -> str:
    """A table; every cell is escaped."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def by_rho(results: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Mean ± half of the 95% interval at the end, by ρ and panel."""
    panels = [panel for panel in results["panels"] if at_end(results["runs"], panel)]
    columns = [{point.x: point for point in at_end(results["runs"], panel)} for panel in panels]
    rows = [
        [f"{rho:g}", *(cell(c.get(rho), p) for c, p in zip(columns, panels, strict=True))]
        for rho in rhos(results["runs"])
    ]
    return ["ρ", *(panel["title"] for panel in panels)], rows


def by_run(results: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Final values of every single run."""
    panels = results["panels"]
    rows = []
    for run in results["runs"]:
        values = [
            number(value, panel) if value is not None and run["group"] == panel["group"] else ""
            for panel in panels
            for value in [run["history"].get(panel["column"], [None])[-1]]
        ]
        place = [run["group"], f"{run['rho']:g}", str(run["seed"])]
        rows.append([*place, *values, words.seconds(run["seconds"]), run["name"]])
    head = ["runs", "ρ", "seed", *(panel["title"] for panel in panels), "time", "directory"]
    return head, rows


def facts(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Provenance as pairs of a name and words."""
    made, asked = results["provenance"], results["asked"]
    yield "made", str(made["time"])
    commit = made["commit"] or "not from a git checkout"
    yield "lowland", f"{made['lowland'] or ''} {commit}{' (modified)' * bool(made['modified'])}"
    if judged := made.get("judged"):
        at = judged["commit"] or "not from a git checkout"
        yield "judged again", f"{judged['time']}, {at}{' (modified)' * bool(judged['modified'])}"
    yield "versions", f"torch {made['torch']}, numpy {made['numpy']}, Python {made['python']}"
    yield "hardware", f"{made['cpu']}, {made['cores']} cores; {made['gpu'] or 'no GPU'}"
    yield "platform", str(made["platform"])
    runs = results["runs"]
    times = {run["name"]: run["seconds"] for run in runs}  # one may stand in two groups
    total = words.seconds(sum(times.values()))
    yield "runs", f"{len(times)} runs, {total} in all; {made['workers']} at a time"
    yield "wall time of the last call", words.seconds(made["seconds"])
    yield "seeds", ", ".join(map(str, asked["seeds"]))
    if asked["overrides"]:
        yield "changed by --set", " ".join(asked["overrides"])
    yield "recipe", _recipe(runs)
    yield "record", f"results.json beside this page; key {results['key']}"


def _recipe(runs: Sequence[Mapping[str, Any]]) -> str:
    """What all runs have in common."""
    first = runs[0]["recipe"]
    same = {
        name: value
        for name, value in first.items()
        if value is not None and all(run["recipe"].get(name) == value for run in runs)
    }
    return ", ".join(f"{name}={_plain(value)}" for name, value in same.items())


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def cell(point: Point | None, panel: Mapping[str, Any]) -> str:
    """Mean ± half of the interval, or median (quartiles); one seed is never shown as a result."""
    if point is None:
        return words.DASH
    if point.interval is None:
        return "one seed"
    if panel.get("median"):
        middle, low, high = (
            f"{value:.3g}" for value in (point.mean, point.interval.low, point.interval.high)
        )
        return f"{middle} ({low} to {high})"
    half = point.interval.high - point.mean
    return f"{number(point.mean, panel)} ±{number(half, panel, like=point.mean)}"


def number(value: float, panel: Mapping[str, Any], *, like: float | None = None) -> str:
    """A value of a panel, with the more decimals the smaller it is (or the value it goes `like`).

    >>> number(0.01234, {"percent": True}), number(131.25, {"percent": False})
    ('1.23%', '131.2')
    >>> number(0.0336, {"percent": False}, like=2.27)
    '0.03'
    """
    if panel["percent"]:
        return f"{100 * value:.2f}%"
    size = abs(value if like is None else like)
    return f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3}f}"
