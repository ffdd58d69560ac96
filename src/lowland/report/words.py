"""Numbers and verdicts in words, the same in the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"

VERDICTS: Mapping[str, str] = {
    "holds": "\N{CHECK MARK}",
    "does not hold": "\N{MULTIPLICATION X}",
    "cannot tell": "?",
    "no data here": DASH,
}
"""Every verdict with a mark that tells it apart without colour."""


def amount(value: float | None, unit: str) -> str:
    """An effect in its unit: shares as percent, differences of shares as points.

    >>> amount(-0.1234, "percent"), amount(0.0025, "points"), amount(0.2, "")
    ('−12.3%', '0.25 points', '0.20')
    """
    if value is None or not math.isfinite(value):
        return DASH
    if unit == "percent":
        return signed(f"{100 * value:.1f}") + "%"
    if unit == "points":
        return signed(f"{100 * value:.2f}") + " points"
    return signed(f"{value:.2f}")


def signed(text: str) -> str:
    """A number with a proper minus sign, and without one where it is zero as shown."""
    if not text.strip("-0."):
        return text.lstrip("-")
    return text.replace("-", MINUS)


def span(low: float | None, high: float | None, unit: str) -> str:
    """An interval in brackets, the unit left to the estimate beside it; empty without one."""
    if low is None or high is None:
        return ""
    ends = (amount(end, unit).removesuffix(" points").removesuffix("%") for end in (low, high))
    return "[{}, {}]".format(*ends)


def effect(claim: Mapping[str, Any]) -> str:
    """Estimate, interval and number of seeds of a claim, or why there is none."""
    if claim["estimate"] is None:
        return str(claim["why"])
    estimate = amount(claim["estimate"], claim["unit"])
    interval = span(claim["low"], claim["high"], claim["unit"])
    return f"{estimate} {interval}, {seeds(claim['n'])}"


def threshold(claim: Mapping[str, Any]) -> str:
    """What the claim needs."""
    limit = amount(claim["threshold"], claim["unit"])
    return f"within ±{limit}" if claim["kind"] == "within" else f"at least {limit}"


def seeds(n: int) -> str:
    """``"5 seeds"``."""
    return f"{n} seed" if n == 1 else f"{n} seeds"


def summary(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims got which verdict.

    >>> summary([{"verdict": "holds"}, {"verdict": "cannot tell"}, {"verdict": "holds"}])
    '3 claims: 2 hold, 1 cannot tell'
    """
    several = {"holds": "hold", "does not hold": "do not hold"}
    counts = {word: sum(claim["verdict"] == word for claim in claims) for word in VERDICTS}
    parts = [f"{n} {several.get(word, word) if n > 1 else word}" for word, n in counts.items() if n]
    return f"{len(claims)} claim{'s' * (len(claims) != 1)}: {', '.join(parts)}"


def seconds(value: float) -> str:
    """A duration as people say it."""
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def radius(rho: float) -> str:
    """``"ρ = 0.1"``."""
    return f"ρ = {rho:g}"
