"""Figures of the report as plain plotly specifications: curves over training, final values.

ρ is told apart by colour, dash and marker, so that the figures survive grey-scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowland.report.series import Point, Record, at_end, over_training, rhos
from lowland.report.words import radius

Spec = dict[str, Any]

INK = "#1d2733"
FEWEST = 3
"""A curve has so many points or more: a line between start and end says nothing of the way."""
_ANCHORS = ((59, 76, 192), (0, 138, 148), (126, 87, 194), (214, 84, 84), (230, 145, 30))
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SAMPLES = ("none", "7 4", "2 2.5", "7 3 2 3", "11 4", "11 3 2 3")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star")
FONT = {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 12, "color": INK}
AXIS = {
    "gridcolor": "#e8ebef",
    "linecolor": "#b5bcc6",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#b5bcc6",
    "ticklen": 4,
    "automargin": True,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure: where it goes on the page, its heading, and its plotly specification."""

    name: str
    title: str
    note: str
    spec: Spec


def colour(index: int, count: int) -> str:
    """Colour of the index-th of `count` radii above 0; between two named ones if there are many."""
    place = (len(_ANCHORS) - 1) * (index / max(count - 1, 1))
    if count <= len(_ANCHORS):
        place = round(place)
    left = min(int(place), len(_ANCHORS) - 2)
    share = place - left
    ends = zip(_ANCHORS[left], _ANCHORS[left + 1], strict=True)
    return "#{:02x}{:02x}{:02x}".format(*(round(a + share * (b - a)) for a, b in ends))


def palette(radii: Sequence[float]) -> dict[float, str]:
    """Colour by ρ: plain training in ink, then along one scale."""
    positive = [rho for rho in radii if rho > 0]
    colours = {rho: colour(index, len(positive)) for index, rho in enumerate(positive)}
    return {rho: colours.get(rho, INK) for rho in radii}


def line_sample(colour: str, index: int) -> str:
    """A piece of a curve for a legend outside the figures, as SVG."""
    dash = _SAMPLES[index % len(_SAMPLES)]
    return (
        '<svg class="key" viewBox="0 0 28 10" aria-hidden="true"><line x1="0" x2="28" y1="5" '
        f'y2="5" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"/></svg>'
    )


def curves(results: Record) -> list[Figure]:
    """A figure per panel that was measured all along: one curve per ρ."""
    figures = []
    colours = palette(rhos(results["runs"]))
    for number, panel in enumerate(results["panels"]):
        lines = {
            rho: points
            for rho in colours
            if len(points := over_training(results["runs"], panel, rho)) >= FEWEST
        }
        if lines:
            spec = _curves(panel, lines, colours)
            figures.append(_figure(f"curve-{number}", panel, spec))
    return figures


def finals(results: Record) -> list[Figure]:
    """A figure per panel that was measured at the end: every seed, and the mean with interval."""
    figures = []
    for number, panel in enumerate(results["panels"]):
        points = at_end(results["runs"], panel)
        if points:
            figures.append(_figure(f"final-{number}", panel, _final(panel, points)))
    return figures


def _figure(name: str, panel: Record, spec: Spec) -> Figure:
    return Figure(name=name, title=panel["title"], note=panel["note"], spec=spec)


def _curves(
    panel: Record, lines: Mapping[float, Sequence[Point]], colours: Mapping[float, str]
) -> Spec:
    scale = 100 if panel["percent"] else 1
    floor = _floor(panel, [point for points in lines.values() for point in points])
    order = list(colours)
    bands, means = [], []
    for rho, points in lines.items():
        bands.append(_band(points, colours[rho], scale, floor, rho))
        means.append(_line(points, colours[rho], order.index(rho), scale, rho, panel))
    time = panel.get("x", "epoch")
    heights = (
        [floor, _highest(lines)]
        if panel["log"]
        else [p.mean for points in lines.values() for p in points]
    )
    layout = _layout(time, panel, [scale * height for height in heights])
    if panel.get("log_x"):
        layout["xaxis"].update(log_ticks([p.x for points in lines.values() for p in points]))
    if panel["log"]:
        layout["yaxis"]["range"] = [math.log10(floor), math.log10(_highest(lines)) + 0.05]
    elif panel["percent"]:
        layout["yaxis"]["range"] = [100 * end for end in _shares(lines)]
    return {"data": [*bands, *means], "layout": layout}


def _floor(panel: Record, points: Sequence[Point]) -> float:
    """Where bands are cut off on a logarithmic axis."""
    if not panel["log"]:
        return -math.inf
    return 0.7 * min((v for p in points for v in p.values if v > 0), default=1e-3)


def _highest(lines: Mapping[float, Sequence[Point]], *, after: float = 0.0) -> float:
    """The highest end of an interval after that share of training."""
    end = max(points[-1].x for points in lines.values())
    points = [point for points in lines.values() for point in points if point.x >= after * end]
    return max(point.interval.high if point.interval else point.mean for point in points)


def _shares(lines: Mapping[float, Sequence[Point]], after: float = 0.4) -> tuple[float, float]:
    """Both ends of an axis of shares: 0, or near the lowest of shares that stay above a half.

    Every error starts near chance, which would flatten all that follows: the start is left out.
    """
    high, end = _highest(lines, after=after), max(points[-1].x for points in lines.values())
    low = min(
        point.interval.low if point.interval else point.mean
        for points in lines.values()
        for point in points
        if point.x >= after * end
    )
    margin = max(0.1 * (high - low), 0.01)
    return (low - margin, high + margin) if low > 0.5 else (0.0, high)


def _band(points: Sequence[Point], colour: str, scale: float, floor: float, rho: float) -> Spec:
    """The area between the ends of the intervals."""
    known = [(point.x, point.interval) for point in points if point.interval is not None]
    highs = [scale * interval.high for _, interval in known]
    lows = [scale * max(interval.low, floor) for _, interval in known]
    x = [x for x, _ in known]
    return {
        "x": x + x[::-1],
        "y": highs + lows[::-1],
        "fill": "toself",
        "fillcolor": colour + "22",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"rho": f"{rho:g}"},
    }


def _line(
    points: Sequence[Point], colour: str, index: int, scale: float, rho: float, panel: Record
) -> Spec:
    suffix = "%" if panel["percent"] else ""
    return {
        "x": [point.x for point in points],
        "y": [scale * point.mean for point in points],
        "customdata": [
            [scale * p.interval.low, scale * p.interval.high] if p.interval else [None, None]
            for p in points
        ],
        "name": radius(rho),
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2, "dash": DASHES[index % len(DASHES)]},
        "marker": {"size": 6, "symbol": MARKERS[index % len(MARKERS)]},
        "hovertemplate": (
            f"<b>{radius(rho)}</b>, {panel.get('x', 'epoch')} %{{x:.3g}}<br>%{{y:.4g}}{suffix}  "
            "[%{customdata[0]:.4g}, %{customdata[1]:.4g}]<extra></extra>"
        ),
        "showlegend": False,
        "meta": {"rho": f"{rho:g}"},
    }


def _final(panel: Record, points: Sequence[Point]) -> Spec:
    scale = 100 if panel["percent"] else 1
    seeds = sorted({seed for point in points for seed in point.seeds})
    data = [_seed(panel, points, seed, scale) for seed in seeds]
    known = [point for point in points if point.interval is not None]
    if known:
        data.append(_means(panel, known, scale))
    ends = [p.interval for p in known if p.interval] if panel["log"] else []
    heights = [v for p in points for v in p.values] + [
        v for end in ends for v in (end.low, end.high)
    ]
    layout = _layout("ρ", panel, [scale * height for height in heights])
    layout["xaxis"].update(tickmode="array", tickvals=[p.x for p in points])
    layout["xaxis"]["ticktext"] = [f"{point.x:g}" for point in points]
    return {"data": data, "layout": layout}


def _seed(panel: Record, points: Sequence[Point], seed: int, scale: float) -> Spec:
    """One seed at every ρ, joined, since effects are paired by seed."""
    pairs = [(p.x, scale * p.values[p.seeds.index(seed)]) for p in points if seed in p.seeds]
    return {
        "x": [x for x, _ in pairs],
        "y": [y for _, y in pairs],
        "mode": "lines+markers",
        "line": {"color": "#c5cbd3", "width": 1},
        "marker": {"size": 5, "color": "#8b95a3"},
        "hovertemplate": f"seed {seed}, ρ = %{{x:g}}<br>%{{y:.4g}}<extra></extra>",
        "showlegend": False,
    }


def _means(panel: Record, points: Sequence[Point], scale: float) -> Spec:
    ends = [point.interval for point in points if point.interval]
    return {
        "x": [point.x for point in points],
        "y": [scale * point.mean for point in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [scale * (end.high - end.mean) for end in ends],
            "arrayminus": [scale * (end.mean - end.low) for end in ends],
            "thickness": 1.8,
            "width": 5,
            "color": INK,
        },
        "mode": "lines+markers",
        "line": {"color": INK, "width": 2},
        "marker": {"size": 9, "color": "#ffffff", "line": {"color": INK, "width": 2}},
        "hovertemplate": "mean, ρ = %{x:g}<br>%{y:.4g} ± %{error_y.array:.2g}<extra></extra>",
        "showlegend": False,
    }


def log_ticks(values: Sequence[float]) -> Spec:
    """A logarithmic axis over `values`, to which the ends of bands and bars belong.

    Ticks are evenly spaced numbers within a factor of 5, 1, 2 and 5 over few powers of ten, and
    some powers over many.
    """
    positive = [v for v in values if v > 0 and math.isfinite(v)]
    low, high = (min(positive), max(positive)) if positive else (1.0, 1.0)
    decades = math.log10(high / low)
    if decades > 2.5:
        return {"type": "log", "dtick": max(1, round(decades / 6)), "exponentformat": "power"}
    plain = low >= 1e-4 and high < 1e6
    ticks = {"type": "log", "tickformat": ",.3~r" if plain else ".3~g"}
    if low < high < 5 * low:
        return {**ticks, "dtick": f"L{_step((high - low) / 4):g}"}
    return {**ticks, "dtick": "D2"}


def _step(width: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is no larger."""
    power = 10.0 ** math.floor(math.log10(width))
    return max(digit * power for digit in (1, 2, 5) if digit * power <= width * (1 + 1e-9))


def _layout(x: str, panel: Record, values: Sequence[float]) -> Spec:
    axis: Spec = {**AXIS}
    if panel["percent"]:
        axis["ticksuffix"] = "%"
    if panel["log"]:
        axis.update(log_ticks(values))
    elif min(values) >= 0:
        axis["rangemode"] = "nonnegative"
    return {
        "font": FONT,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "height": 270,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "#ffffff", "font": FONT},
        "hovermode": "closest",
        "xaxis": {**AXIS, "title": {"text": x, "standoff": 6}},
        "yaxis": axis,
    }
