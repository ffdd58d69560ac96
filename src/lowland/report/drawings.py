"""Figures that a study lays out itself, as plotly specifications, and its own tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from lowland.report import words
from lowland.report.figures import (
    AXIS,
    DASHES,
    FONT,
    INK,
    MARKERS,
    Figure,
    Spec,
    colour,
    log_ticks,
    palette,
)
from lowland.report.series import rhos
from lowland.report.tables import Rows

HEIGHT = 320
UPRIGHT = 32
"""Letters of a title that stands upright beside a figure of that height."""
DIVERGING = ((0.0, "#d65454"), (0.5, "#ffffff"), (1.0, "#3b4cc0"))
RISING = ((0.0, "#ffffff"), (1.0, "#008a94"))


def drawings(results: Mapping[str, Any]) -> list[Figure]:
    """A figure for every drawing in the record."""
    colours = palette(rhos(results["runs"]))
    return [
        Figure(
            name=f"drawing-{number}",
            title=drawing["title"],
            note=drawing["note"],
            spec=_heat(drawing) if "values" in drawing else _spec(drawing, colours),
        )
        for number, drawing in enumerate(results.get("drawings", ()))
    ]


def sheet(table: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Heading and rows of a table in the record, in words."""
    return list(table["head"]), [[_cell(value) for value in row] for row in table["rows"]]


def _cell(value: Any) -> str:
    """A cell: whole numbers whole, others with four digits.

    >>> _cell(12800), _cell(0.123456), _cell(None), _cell("ViT")
    ('12800', '0.1235', '–', 'ViT')
    """
    if value is None:
        return words.DASH
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _heat(drawing: Mapping[str, Any]) -> Spec:
    """Cells with their numbers in them, so that the figure is its own table."""
    cells = [_scaled(row, drawing) for row in drawing["values"]]
    known = [value for row in cells for value in row if value is not None]
    end = max((abs(value) for value in known), default=1.0) or 1.0
    suffix = "%" if drawing["percent"] else ""
    ends = {"zmin": -end, "zmax": end} if drawing["signed"] else {}
    trace: Spec = {
        "type": "heatmap",
        "x": list(drawing["columns"]),
        "y": list(drawing["rows"]),
        "z": cells,
        "text": [[_cell_text(value) for value in row] for row in cells],
        "texttemplate": "%{text}",
        "hovertemplate": f"%{{y}}, %{{x}}: %{{z:.4g}}{suffix}<extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
        "colorscale": [list(stop) for stop in (DIVERGING if drawing["signed"] else RISING)],
        "colorbar": {
            "title": {"text": _upright(drawing["value_title"]), "side": "right"},
            "thickness": 12,
        },
        **ends,
    }
    axes = {
        f"{letter}axis": {
            **AXIS,
            "showgrid": False,
            "title": {"text": title, "standoff": 6},
            "type": "category",  # or plotly would read numbers out of the words
        }
        for letter, title in (
            ("x", drawing["column_title"]),
            ("y", _upright(drawing["row_title"])),
        )
    }
    return {"data": [trace], "layout": {**_layout(), "showlegend": False, **axes}}


def _cell_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}".replace("-", "−")


def _upright(title: str) -> str:
    """In lines that fit beside the figure: what is longer than it is high would be cut."""
    return "<br>".join(textwrap.wrap(title, UPRIGHT))


def _layout() -> Spec:
    """What all of these figures have in common."""
    return {
        "font": FONT,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "height": HEIGHT,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "#ffffff", "font": FONT},
    }


def _spec(drawing: Mapping[str, Any], colours: Mapping[float, str]) -> Spec:
    lines, free = drawing["lines"], [ln for ln in drawing["lines"] if ln["rho"] not in colours]
    data = []
    for index, line in enumerate(lines):
        ink = colours.get(line["rho"])
        if ink is None:
            ink = INK if len(free) == 1 else colour(free.index(line), len(free))
        data.append(_trace(line, ink, index, drawing))
    return {
        "data": data,
        "layout": {
            **_layout(),
            "hovermode": "closest",
            "showlegend": len(lines) > 1,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": _axis(drawing["x"], [v for line in lines for v in line["x"]]),
            "yaxis": _axis(
                {**drawing["y"], "title": _upright(drawing["y"]["title"])},
                [v for line in lines for v in _heights(line)],
            ),
        },
    }


def _heights(line: Mapping[str, Any]) -> list[float | None]:
    """Values of a line and the ends of their bars."""
    return [v for part in ("y", "low", "high") for v in line[part] or ()]


def _axis(axis: Mapping[str, Any], values: Sequence[float | None]) -> Spec:
    made: Spec = {**AXIS, "title": {"text": axis["title"], "standoff": 6}}
    if axis["percent"]:
        made["ticksuffix"] = "%"
    if axis["log"]:
        made.update(log_ticks([value for value in values if value is not None]))
    if axis["ticks"]:
        made.update(
            tickmode="array",
            tickvals=[place for place, _ in axis["ticks"]],
            ticktext=[label for _, label in axis["ticks"]],
        )
    return made


def _trace(line: Mapping[str, Any], ink: str, index: int, drawing: Mapping[str, Any]) -> Spec:
    x, y = _scaled(line["x"], drawing["x"]), _scaled(line["y"], drawing["y"])
    suffix = "%" if drawing["y"]["percent"] else ""
    trace: Spec = {
        "x": x,
        "y": y,
        "name": line["name"],
        "mode": line["mode"],
        "line": {"color": ink, "width": 2, "dash": DASHES[index % len(DASHES)]},
        "marker": {"size": 7, "color": ink, "symbol": MARKERS[index % len(MARKERS)]},
        "hovertemplate": f"<b>{line['name']}</b><br>%{{x:.4g}}: %{{y:.4g}}{suffix}<extra></extra>",
    }
    if line["low"] is not None and line["high"] is not None:
        lows, highs = (_scaled(line[end], drawing["y"]) for end in ("low", "high"))
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [_gap(v, high) for v, high in zip(y, highs, strict=True)],
            "arrayminus": [_gap(low, v) for v, low in zip(y, lows, strict=True)],
            "thickness": 1.2,
            "width": 3,
            "color": ink,
        }
    return trace


def _scaled(values: Sequence[float | None], axis: Mapping[str, Any]) -> list[float | None]:
    return [100 * v if v is not None and axis["percent"] else v for v in values]


def _gap(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else high - low
