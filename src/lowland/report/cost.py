"""Test error against cost, one mark per arm and protocol; and errors along m or ρ.

Cost is that of the whole training over plain training's at equal epochs, in measured time and in
passes. What kind of method an arm is shows in colour and shape; equal epochs are filled marks,
equal compute open ones, joined where both are of one arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lowland.report.arms import chosen, ratio
from lowland.report.figures import AXIS, FONT, INK, Figure, Spec

Record = Mapping[str, Any]
Mark = dict[str, Any]

PLAIN = "plain training"
KINDS = {
    PLAIN: (INK, "star"),
    "perturbation": ("#3b4cc0", "circle"),
    "combination": ("#7e57c2", "square"),
    "plan": ("#008a94", "diamond"),
    "loss term": ("#e6911e", "triangle-up"),
    "base optimizer": ("#d65454", "x"),
}
LINES = ("#3b4cc0", "#008a94", "#e6911e", "#d65454")
_TICKS = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def cost_figures(results: Mapping[str, Any]) -> list[Figure]:
    """Error against time, and against passes; nothing where no arm has an error."""
    compared = results["comparison"]
    rows = (
        (
            "time",
            "time of training, over plain training's",
            "measured while other runs work beside",
        ),
        ("passes", "passes of training, over plain training's", "arms of one cost side by side"),
    )
    figures = []
    for cost, title, note in rows:
        marks = list(_marks(compared, cost))
        if not marks:
            continue
        if cost == "passes":
            _set_apart(marks)
        spec = _scatter(marks, title)
        figures.append(
            Figure(name=f"cost-{cost}", title=f"Test error against {cost}", note=note, spec=spec)
        )
    return figures


def sweep_figures(results: Mapping[str, Any]) -> list[Figure]:
    """Errors along m, and along ρ."""
    return [
        Figure(name=f"sweep-{i}", title=sweep["title"], note="mean and 95% interval", spec=spec)
        for i, sweep in enumerate(results["comparison"]["sweeps"])
        if (spec := _sweep(sweep))["data"]
    ]


def _marks(compared: Record, cost: str) -> Iterator[Mark]:
    """One per arm and protocol that has an error and a cost."""
    first = compared["protocols"][0]
    for arm in compared["arms"]:
        known = [p for p in compared["protocols"] if _has_error(arm[p])]
        # runs that serve for both protocols are one mark
        if len(known) == 2 and arm[known[0]]["epochs"] == arm[known[1]]["epochs"]:
            known = known[:1]
        for protocol in known:
            at = arm[protocol]
            if cost == "time" and arm["time"] is None:
                continue
            one = arm["time"]["median"] if cost == "time" else arm["passes"]
            yield {
                "name": arm["name"],
                "kind": arm["kind"] or PLAIN,
                "protocol": protocol,
                "filled": protocol == first,
                "x": one * at["epochs"] / arm[first]["epochs"],
                "error": at["error"],
                "hover": _hover(arm, at, protocol),
            }


def _has_error(at: Record | None) -> bool:
    return at is not None and at["error"] is not None and at["error"]["estimate"] is not None


def _hover(arm: Record, at: Record, protocol: str) -> str:
    error, time = at["error"], arm["time"]
    lines = [
        f"<b>{arm['name']}</b>, {protocol}: {at['epochs']} epochs",
        f"test error {100 * error['estimate']:.2f}% "
        f"[{100 * error['low']:.2f}, {100 * error['high']:.2f}]",
        f"{arm['passes']:.3g} passes per step",
    ]
    if time is not None:
        lines.append(f"time per step {ratio(time)} of plain")
    if arm["memory"] is not None:
        lines.append(f"memory {arm['memory']:.2f} of plain")
    if arm["scale"]:
        lines.append(f"ρ = {chosen(at)}")
    return "<br>".join(lines)


def _set_apart(marks: Sequence[Mark]) -> None:
    """Marks of one cost, side by side around it, best first."""
    for place in {round(mark["x"], 3) for mark in marks}:
        beside = [mark for mark in marks if round(mark["x"], 3) == place]
        beside.sort(key=lambda mark: mark["error"]["estimate"])
        for i, mark in enumerate(beside):
            mark["x"] *= 1 + 0.007 * (i - (len(beside) - 1) / 2)


def _scatter(marks: Sequence[Mark], title: str) -> Spec:
    data = [*_joints(marks), *_groups(marks), _labels(marks)]
    layout = _layout(title, [mark["x"] for mark in marks], height=430)
    layout["legend"] = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    layout["margin"]["t"] = 40
    return {"data": data, "layout": layout}


def _joints(marks: Sequence[Mark]) -> Iterator[Spec]:
    """A thin line between the two marks of an arm."""
    for name in dict.fromkeys(mark["name"] for mark in marks):
        both = [mark for mark in marks if mark["name"] == name]
        if len(both) == 2:
            yield {
                "x": [mark["x"] for mark in both],
                "y": [100 * mark["error"]["estimate"] for mark in both],
                "mode": "lines",
                "line": {"color": "#c5cbd3", "width": 1, "dash": "dot"},
                "hoverinfo": "skip",
                "showlegend": False,
            }


def _groups(marks: Sequence[Mark]) -> Iterator[Spec]:
    """The marks of one kind and protocol, with their intervals."""
    for kind, (colour, symbol) in KINDS.items():
        shown = False
        for filled in (True, False):
            group = [m for m in marks if m["kind"] == kind and m["filled"] == filled]
            if not group:
                continue
            errors = [mark["error"] for mark in group]
            yield {
                "x": [mark["x"] for mark in group],
                "y": [100 * error["estimate"] for error in errors],
                "error_y": {
                    "type": "data",
                    "array": [100 * (error["high"] - error["estimate"]) for error in errors],
                    "thickness": 0.8,
                    "width": 0,
                    "color": colour + "66",
                },
                "text": [mark["hover"] for mark in group],
                "hovertemplate": "%{text}<extra></extra>",
                "mode": "markers",
                "name": kind,
                "legendgroup": kind,
                "showlegend": not shown,
                "marker": {
                    "size": 13 if kind == PLAIN else 9,
                    "symbol": symbol if filled else f"{symbol}-open",
                    "color": colour,
                    "line": {"width": 1.5, "color": colour},
                },
            }
            shown = True


def _labels(marks: Sequence[Mark]) -> Spec:
    """Names beside the marks that no other mark is both cheaper and better than, and SAM's."""
    named = [m for m in marks if m["name"] in ("plain", "sam") or _on_front(m, marks)]
    return {
        "x": [mark["x"] for mark in named],
        "y": [100 * mark["error"]["estimate"] for mark in named],
        "text": [f"  {mark['name']}" for mark in named],  # clear of the mark
        "mode": "text",
        "textposition": "bottom right",
        "textfont": {**FONT, "size": 11},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _on_front(mark: Mark, marks: Sequence[Mark]) -> bool:
    error = mark["error"]["estimate"]
    return not any(
        other["x"] <= mark["x"] and other["error"]["estimate"] < error for other in marks
    )


def _sweep(sweep: Record) -> Spec:
    data = []
    for line, colour in zip(sweep["lines"], LINES, strict=False):
        points = [point for point in line["points"] if point["estimate"] is not None]
        if len(points) < 2:
            continue
        data.append(
            {
                "x": [point["x"] for point in points],
                "y": [100 * point["estimate"] for point in points],
                "error_y": {
                    "type": "data",
                    "array": [100 * (point["high"] - point["estimate"]) for point in points],
                    "thickness": 1.4,
                    "width": 4,
                    "color": colour,
                },
                "text": [f"{line['name']}, {_place(point, sweep)}" for point in points],
                "hovertemplate": "%{text}<br>%{y:.2f}% ± %{error_y.array:.2f}<extra></extra>",
                "mode": "lines+markers",
                "name": line["name"],
                "line": {"color": colour, "width": 2},
                "marker": {"size": 8, "color": colour},
            }
        )
    layout = _layout(sweep["x"], [x for line in data for x in line["x"]] or [1.0], height=300)
    layout["xaxis"].update(tickmode="array", tickvals=data[0]["x"] if data else [])
    layout["xaxis"]["ticktext"] = [f"{x:g}" for x in layout["xaxis"]["tickvals"]]
    layout["showlegend"] = len(data) > 1
    layout["legend"] = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    layout["margin"]["t"] = 30
    return {"data": data, "layout": layout}


def _place(point: Record, sweep: Record) -> str:
    return f"ρ = {point['rho']:g}" if "rho" in point else f"{sweep['x']} = {point['x']:g}"


def _layout(x: str, values: Sequence[float], *, height: int) -> Spec:
    low, high = min(values), max(values)
    ticks = [tick for tick in _TICKS if 0.9 * low <= tick <= 1.1 * high]
    return {
        "font": FONT,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "#ffffff", "font": FONT, "align": "left"},
        "hovermode": "closest",
        "xaxis": {
            **AXIS,
            "title": {"text": x, "standoff": 6},
            "type": "log",
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [f"{tick:g}" for tick in ticks],
        },
        "yaxis": {**AXIS, "ticksuffix": "%", "rangemode": "nonnegative"},
    }
