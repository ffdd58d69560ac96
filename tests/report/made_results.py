"""A record of results made by hand: reports are made from such a record alone."""

from __future__ import annotations

import copy
import math
from typing import Any

RHOS, SEEDS, EPOCHS = (0.0, 0.1, 0.4), (0, 1, 2), (0.0, 5.0, 10.0, 20.0)


def _claim(name: str, verdict: str, **facts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "sentence": f"The sentence of {name} & more <b>.",
        "source": "Fig. 1",
        "published": "shape: falls",
        "effect": "a share",
        "unit": "percent",
        "kind": "at least",
        "threshold": 0.05,
        "reason": "A twentieth.",
        "verdict": verdict,
        "why": "",
        "n": 3,
        "estimate": 0.2,
        "low": 0.1,
        "high": 0.3,
        "effects": {"0": 0.15, "1": 0.2, "2": 0.25},
        "detail": "Some detail.",
        "beside": [{"label": "at block1", "n": 3, "estimate": 0.1, "low": -0.1, "high": 0.3}],
        **facts,
    }


def _run(group: str, rho: float, seed: int) -> dict[str, Any]:
    return {
        "name": f"{group}-{rho}-{seed}",
        "group": group,
        "method": "sam" if rho else "none",
        "rho": rho,
        "seed": seed,
        "seconds": 3.0,
        "diverged": False,
        "recipe": {"lr": 0.1, "rho": rho, "labels": None, "variances": [0.99, 0.95]},
        "provenance": {"torch": "2"},
        "history": {
            "epoch": list(EPOCHS),
            "test/error": [0.9 * math.exp(-e / 5) + 0.01 * seed for e in EPOCHS],
            "rank": [100.0 - rho * e - seed for e in EPOCHS],
            "train/loss": [math.exp(-e / 5) * (1 + 0.1 * seed) for e in EPOCHS],
            "knn": [None, None, None, 0.05 + 0.01 * seed],
        },
    }


RESULTS: dict[str, Any] = {
    "format": "lowland-study",
    "version": 1,
    "key": "abc",
    "study": {"name": "low-rank", "title": "A title", "source": "A paper", "shows": "ranks"},
    "asked": {
        "size": "default",
        "data": "digits",
        "setting": "minimal",
        "method": "sam",
        "rhos": list(RHOS),
        "seeds": list(SEEDS),
        "overrides": ["epochs=20"],
    },
    "rule": {"words": "The rule in words.", "confidence": 0.95, "family": 4},
    "claims": [
        _claim("first", "holds"),
        _claim("second", "does not hold", unit="points", estimate=-0.01, low=-0.02, high=0.0),
        _claim("third", "cannot tell", kind="within", threshold=0.15),
        _claim(
            "fourth",
            "no data here",
            n=0,
            estimate=None,
            low=None,
            high=None,
            why="nothing was measured",
            effects={},
            detail="",
            beside=[],
        ),
    ],
    "panels": [
        {"title": t, "column": c, "group": g, "percent": p, "log": log, "note": "a note"}
        for t, c, g, p, log in (
            ("Test error", "test/error", "main", True, False),
            ("kNN error", "knn", "transfer", True, False),
            ("Rank", "rank", "main", False, False),
            ("Train loss", "train/loss", "main", False, True),
            ("Not measured", "nothing", "main", False, False),
        )
    ],
    "notes": ["A note on <data>."],
    "runs": [_run(g, r, s) for g in ("main", "transfer") for r in RHOS for s in SEEDS],
    "failures": [{"group": "main", "rho": 0.4, "seed": 7, "error": "it <died>"}],
    "provenance": {
        "lowland": "0.1.0",
        "commit": "c0ffee",
        "modified": True,
        "torch": "2",
        "numpy": "2",
        "python": "3.11",
        "platform": "Linux",
        "cpu": "A CPU",
        "cores": 2,
        "gpu": None,
        "time": "2026-01-01T00:00:00+00:00",
        "workers": 2,
        "seconds": 100.0,
    },
}


def made_results() -> dict[str, Any]:
    """A fresh copy of the record."""
    return copy.deepcopy(RESULTS)
