"""A claim's interval against its threshold, as a small drawing that needs no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from lowland.report import words

_WIDTH, _HEIGHT, _SIDE = 300, 46, 14
_MIDDLE = 18


def strip(claim: Mapping[str, Any]) -> str:
    """SVG: the region where the claim holds shaded, zero marked, seeds as ticks, the interval.

    Empty where there is no interval.
    """
    if claim["estimate"] is None:
        return ""
    within = claim["kind"] == "within"
    limits = [-claim["threshold"], claim["threshold"]] if within else [claim["threshold"]]
    effects = [e for e in claim["effects"].values() if e is not None and math.isfinite(e)]
    place = _scale([0.0, *limits, claim["low"], claim["high"], *effects])
    left = place(limits[0])
    right = place(limits[1]) if within else float(_WIDTH)
    parts = [
        f'<rect class="needed" x="{left:.1f}" y="4" width="{right - left:.1f}" height="28"/>',
        *(_upright("limit", place(limit), 4, 32) for limit in limits),
        _upright("zero", place(0.0), 4, 32),
        *(f'<circle class="seed" cx="{place(e):.1f}" cy="{_MIDDLE}" r="2.6"/>' for e in effects),
        f'<line class="interval" x1="{place(claim["low"]):.1f}" x2="{place(claim["high"]):.1f}" '
        f'y1="{_MIDDLE}" y2="{_MIDDLE}"/>',
        *(_upright("interval", place(claim[e]), _MIDDLE - 6, _MIDDLE + 6) for e in ("low", "high")),
        _diamond(place(claim["estimate"])),
        *_labels(claim, place, limits[-1]),
    ]
    said = escape(f"{words.effect(claim)}; needs {words.threshold(claim)}")
    return (
        f'<svg class="strip" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">'
        f"{''.join(parts)}</svg>"
    )


def _scale(values: Sequence[float]) -> Callable[[float], float]:
    low, high = min(values), max(values)
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return _SIDE + (value - low) / width * (_WIDTH - 2 * _SIDE)

    return place


def _upright(kind: str, x: float, top: float, bottom: float) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'


def _diamond(x: float) -> str:
    corners = ((x, _MIDDLE - 6), (x + 6, _MIDDLE), (x, _MIDDLE + 6), (x - 6, _MIDDLE))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    return f'<polygon class="estimate" points="{points}"/>'


def _labels(claim: Mapping[str, Any], place: Callable[[float], float], limit: float) -> list[str]:
    """Zero and the threshold below the line, unless they would run into each other."""
    labels = [(limit, words.amount(limit, claim["unit"]).removesuffix(" points"))]
    if abs(place(limit) - place(0)) > 34:
        labels.append((0.0, "0"))
    return [
        f'<text x="{min(max(place(value), 16), _WIDTH - 20):.1f}" y="{_HEIGHT - 2}" '
        f'text-anchor="middle">{escape(text)}</text>'
        for value, text in labels
    ]
