"""Results with arms side by side, made by hand."""

from __future__ import annotations

from typing import Any

from made_results import made_results

FIRST, SECOND = "equal epochs", "equal compute"


def value(estimate: float, half: float) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def _at(epochs: int, error: float, rho: str) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "n": 8,
        "chosen": {rho: 5, "0.4": 3} if rho != "0" else {"0": 8},
        "error": value(error, 0.004),
        "rank": value(75.0, 2.0),
        "sharpness": value(0.05, 0.01),
    }


def _arm(name: str, kind: str, passes: float, errors: tuple[float, float | None]) -> dict[str, Any]:
    first = _at(10, errors[0], "0.1" if kind else "0")
    second = errors[1]
    return {
        "name": name,
        "method": name,
        "kind": kind,
        "source": "2010.01412",
        "options": {},
        "passes": passes,
        "scale": 1.0 if kind else 0.0,
        "why": "SAM's",
        "time": {"median": 1.05 * passes, "low": passes, "high": 1.1 * passes},
        "memory": 1.0 + 0.05 * passes,
        FIRST: first,
        SECOND: first if second is None else _at(round(20 / passes), second, "0.1"),
    }


def made_comparison() -> dict[str, Any]:
    """A record whose ``comparison`` has five arms and two sweeps."""
    points = [{"x": m, **value(0.02 + 0.001 * m, 0.003)} for m in (64, 32, 16)]
    by_rho = [{"x": x, "rho": x / 100, **value(0.03, 0.002)} for x in (0.01, 1.0)]
    arms = [
        _arm("plain", "", 1.0, (0.05, 0.045)),
        _arm("sam", "perturbation", 2.0, (0.03, None)),
        _arm("looksam", "plan", 1.2, (0.04, 0.035)),
        _arm("worse <x>", "perturbation", 2.0, (0.06, None)),
        _arm("adasam", "base optimizer", 2.0, (0.055, None)),
    ]
    results = made_results()
    results["comparison"] = {
        "protocols": [FIRST, SECOND],
        "measures": [
            {"key": "error", "title": "test error", "unit": "percent", "note": ""},
            {"key": "rank", "title": "feature rank", "unit": "", "note": ""},
            {"key": "sharpness", "title": "sharpness", "unit": "", "note": ""},
        ],
        "arms": arms,
        "sweeps": [
            {"title": "By m", "x": "m", "lines": [{"name": "m-sam", "points": points}]},
            {
                "title": "By ρ",
                "x": "ρ over its largest",
                "lines": [{"name": f"lightsam {i}", "points": by_rho} for i in ("I", "II")],
            },
        ],
    }
    return results
