"""Figures of an inspection: every instrument along depth, and spectra block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowland.report import inspection as words
from lowland.report.figures import AXIS, FONT, INK, Figure, Spec, colour
from lowland.report.inspection import Record

SECOND = "#d65454"
"""Colour of the second network."""


def depth_figures(record: Record) -> list[Figure]:
    """A figure per instrument that has values of two blocks or more, one curve per network."""
    figures = []
    instruments = {i["name"]: i for i in record["instruments"]}
    for number, name in enumerate(words.by_block(record)):
        traces = [_curve(record, place, name) for place in range(len(record["subjects"]))]
        drawn = [trace for trace in traces if len(trace["y"]) > 1]
        if drawn:
            spec = {"data": drawn, "layout": _layout(drawn, share=_shares(record, name))}
            note = _note(record, name) or instruments[name]["words"]
            figures.append(Figure(name=f"depth-{number}", title=name, note=note, spec=spec))
    figures += _between(record)
    return figures


def _note(record: Record, name: str) -> str:
    """The definition that was used, where options make it another than the instrument's own."""
    if not record["asked"]["options"].get(name):
        return ""
    rows = (row for subject in record["subjects"] for row in subject["blocks"].values())
    return next((str(row[name]["definition"]) for row in rows if name in row), "")


def _curve(record: Record, place: int, name: str) -> Spec:
    subject = record["subjects"][place]
    short, _ = words.short_names(list(subject["blocks"]))
    scale = 100.0 if _shares(record, name) else 1.0
    points = [
        (short[block], value * scale, _interval(row[name], value, scale))
        for block, row in subject["blocks"].items()
        if (value := words.number(row.get(name))) is not None
    ]
    ink = INK if place == 0 else SECOND
    trace: Spec = {
        "x": [x for x, _, _ in points],
        "y": [y for _, y, _ in points],
        "mode": "lines+markers",
        "name": words.titles(record)[place],
        "line": {"color": ink, "width": 2, "dash": "solid" if place == 0 else "dash"},
        "marker": {"size": 7, "color": ink, "symbol": "circle" if place == 0 else "square"},
        "hovertemplate": "%{x}: %{y:.4g}<extra></extra>",
        "showlegend": False,
    }
    if any(up or down for _, _, (up, down) in points):
        trace["error_y"] = {
            "type": "data",
            "array": [up for _, _, (up, _) in points],
            "arrayminus": [down for _, _, (_, down) in points],
            "thickness": 1.4,
            "width": 4,
            "color": ink,
        }
    return trace


def _interval(found: Record, value: float, scale: float) -> tuple[float, float]:
    """How far the bar reaches up and down: the record's own interval, else 1.96 of its errors."""
    low, high = found.get("low"), found.get("high")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return scale * (high - value), scale * (value - low)
    error = found.get("uncertainty")
    size = 1.96 * scale * error if isinstance(error, int | float) else 0.0
    return size, size


def _shares(record: Record, name: str) -> bool:
    rows = [row for subject in record["subjects"] for row in subject["blocks"].values()]
    return any(words.is_share(row[name]) for row in rows if name in row)


def _between(record: Record) -> list[Figure]:
    figures = []
    short, _ = words.short_names(words.common(record))
    for comparison in record["comparisons"]:
        name = comparison["name"]
        points = [
            (short[block], value)
            for block, row in record["between"].items()
            if (value := words.number(row.get(name))) is not None
        ]
        if len(points) < 2:
            continue
        trace: Spec = {
            "x": [x for x, _ in points],
            "y": [y for _, y in points],
            "mode": "lines+markers",
            "line": {"color": INK, "width": 2},
            "marker": {"size": 7, "color": INK},
            "hovertemplate": "%{x}: %{y:.4g}<extra></extra>",
            "showlegend": False,
        }
        spec = {"data": [trace], "layout": _layout([trace], share=False)}
        figures.append(
            Figure(name=f"between-{name}", title=name, note=comparison["words"], spec=spec)
        )
    return figures


def spectrum_figures(record: Record) -> list[Figure]:
    """For every network with spectra: the share of energy in the first k components, by block."""
    figures = []
    for place, subject in enumerate(record["subjects"]):
        curves = {
            block: points
            for block, row in subject["blocks"].items()
            if (points := _cumulative(row)) is not None
        }
        if not curves:
            continue
        title = "Energy in the first components"
        if len(record["subjects"]) > 1:
            title += f": {words.titles(record)[place]}"
        note = "share of the sum of squared singular values, against their number k"
        figures.append(
            Figure(name=f"spectrum-{place}", title=title, note=note, spec=_spectra(curves))
        )
    return figures


def _cumulative(row: Record) -> tuple[list[int], list[float]] | None:
    """k and the cumulative share, of the first record of a block that has a spectrum."""
    for found in row.values():
        spectrum = found.get("spectrum")
        if isinstance(spectrum, Mapping) and spectrum.get("cumulative"):
            index, sums = spectrum["index"], spectrum["cumulative"]
        elif isinstance(spectrum, list) and len(spectrum) > 1:
            index = list(range(len(spectrum)))
            sums, total = [], 0.0
            for energy in spectrum:
                total += float(energy)
                sums.append(total)
        else:
            continue
        if sums[-1] > 0:
            return [i + 1 for i in index], [float(s) / sums[-1] for s in sums]
    return None


def _spectra(curves: Mapping[str, tuple[list[int], list[float]]]) -> Spec:
    short, _ = words.short_names(list(curves))
    data = []
    for number, (block, (k, shares)) in enumerate(curves.items()):
        data.append(
            {
                "x": k,
                "y": [100 * share for share in shares],
                "mode": "lines",
                "line": {"color": colour(number, len(curves)), "width": 2},
                "name": short[block],
                "hovertemplate": f"<b>{short[block]}</b>, k = %{{x}}<br>%{{y:.2f}}%<extra></extra>",
                "showlegend": False,
                "meta": {"rho": block},
            }
        )
    layout = _layout(data, share=True)
    layout["xaxis"].update(type="log", title={"text": "components k", "standoff": 6}, dtick="D2")
    layout["height"] = 380
    return {"data": data, "layout": layout}


def _layout(traces: Sequence[Spec], *, share: bool) -> Spec:
    values = [y for trace in traces for y in trace["y"]]
    vertical: dict[str, Any] = {**AXIS}
    if share:
        vertical["ticksuffix"] = "%"
    if values and min(values) >= 0:
        vertical["rangemode"] = "tozero"
    names = [str(x) for trace in traces for x in trace["x"]]
    across: dict[str, Any] = {**AXIS, "type": "category"}
    if max(map(len, names), default=0) <= 3:  # numbers stay upright
        across |= {"tickangle": 0, "nticks": 9}
    return {
        "font": FONT,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "height": 270,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "#ffffff", "font": FONT},
        "hovermode": "closest",
        "xaxis": across,
        "yaxis": vertical,
    }
