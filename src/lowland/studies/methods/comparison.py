"""All arms side by side, as plain values: what the report's table and its plots show.

    protocols   "equal epochs" and "equal compute"
    arms        per arm: name, method, kind, source, options, passes, scale of its ρ and why,
                time (ratio to plain training: {"median", "low", "high"} with quartiles, or null),
                memory (ratio, or null), and per protocol epochs, n seeds, chosen (ρ → number of
                seeds) and every measure; null where nothing ran
    measures    key, title, unit ("percent" or ""), and how to read it
    sweeps      test errors along m, and along ρ where an arm has a range of its own

A number over seeds is {"estimate", "low", "high"} with its 95% interval, not corrected; low and
high are null for one seed, which has no estimate either.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lowland.optim import METHODS
from lowland.report.intervals import t_interval
from lowland.studies.methods.arms import Arm
from lowland.studies.methods.columns import (
    EQUAL_COMPUTE,
    EQUAL_EPOCHS,
    SHARPNESS,
    TEST_ERROR,
    TRAIN_LOSS,
    Setup,
)
from lowland.studies.methods.findings import shards
from lowland.studies.methods.readings import Readings
from lowland.studies.runs import NotMeasuredError, Runs

Record = dict[str, Any]


def comparison(runs: Runs, setup: Setup) -> Record:
    """Everything in one record; see the module."""
    read = Readings(runs, setup)
    measures = _measures(setup)
    return {
        "protocols": [EQUAL_EPOCHS, EQUAL_COMPUTE],
        "measures": [{k: v for k, v in m.items() if k != "column"} for m in measures],
        "arms": [_arm(read, arm, measures) for arm in setup.arms],
        "sweeps": [sweep for sweep in (_by_m(read), _by_rho(read)) if sweep["lines"]],
    }


def _measures(setup: Setup) -> list[dict[str, str]]:
    rows = (
        ("error", "test error", "percent", TEST_ERROR, "at the ρ chosen on validation error"),
        ("rank", "feature rank", "", setup.rank, f"99% of the variance, {setup.block}"),
        ("active", "active units", "", setup.active, f"above 5% of the largest, {setup.block}"),
        ("sharpness", "sharpness", "", SHARPNESS, "L(w + ρg/‖g‖) − L(w) at ρ = 0.05, train"),
        ("train loss", "train loss", "", TRAIN_LOSS, "at the end"),
    )
    keys = ("key", "title", "unit", "column", "note")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _arm(read: Readings, arm: Arm, measures: Sequence[Mapping[str, str]]) -> Record:
    method = METHODS.get(arm.method)
    return {
        "name": arm.name,
        "method": arm.method,
        "kind": method.kind if method else "",
        "source": method.source if method else "",
        "options": dict(arm.options),
        "passes": arm.passes,
        "scale": arm.scale,
        "why": arm.why,
        "time": quartiles(read.time_ratios(arm)),
        "memory": read.memory_ratio(arm),
        **{
            protocol: _or_nothing(lambda p=protocol: _tuned(read, arm, p, measures))
            for protocol in (EQUAL_EPOCHS, EQUAL_COMPUTE)
        },
    }


def _tuned(
    read: Readings, arm: Arm, protocol: str, measures: Sequence[Mapping[str, str]]
) -> Record:
    chosen = read.chosen(arm, protocol)
    step = 1 / read.setup.test_images
    return {
        "epochs": read.setup.epochs_of(arm, protocol),
        "n": len(chosen),
        "chosen": {
            f"{rho:g}": list(chosen.values()).count(rho) for rho in sorted(set(chosen.values()))
        },
        **{
            m["key"]: _or_nothing(
                lambda m=m: interval(
                    read.tuned(arm, protocol, m["column"]),
                    resolution=step if m["key"] == "error" else 0.0,
                )
            )
            for m in measures
        },
    }


def _by_m(read: Readings) -> Record:
    """Test error at the chosen ρ against m."""
    record: Record = {"title": "m-SAM: test error against m", "x": "m", "lines": []}
    try:
        by_m = shards(read.setup)
        points = [{"x": m, **interval(read.tuned(arm, EQUAL_EPOCHS))} for m, arm in by_m.items()]
    except NotMeasuredError:
        return record
    return {**record, "lines": [{"name": "m-sam", "points": points}]}


def _by_rho(read: Readings) -> Record:
    """Test error against ρ, of the arms with a range of their own, over its largest ρ."""
    lines = []
    for arm in read.setup.arms:
        if not arm.rhos:
            continue
        try:
            points = [
                {
                    "x": rho / max(arm.rhos),
                    "rho": rho,
                    **interval(read.at(arm, EQUAL_EPOCHS, rho, TEST_ERROR)),
                }
                for rho in read.radii(arm, EQUAL_EPOCHS)
            ]
        except NotMeasuredError:
            continue
        lines.append({"name": arm.name, "points": points})
    return {"title": "LightSAM: test error against ρ", "x": "ρ over its largest", "lines": lines}


def interval(values: Mapping[int, float], *, resolution: float = 0.0) -> Record:
    """Mean and 95% interval over seeds; nothing of a single seed."""
    found = t_interval(list(values.values()), resolution=resolution)
    if found is None:
        return {"estimate": None, "low": None, "high": None}
    return {"estimate": found.mean, "low": found.low, "high": found.high}


def quartiles(values: Sequence[float]) -> Record | None:
    """Median and quartiles; None of nothing.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'low': 2.0, 'high': 4.0}
    """
    if not values:
        return None
    ends = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return {"median": statistics.median(values), "low": ends[0], "high": ends[2]}


def _or_nothing(make: Any) -> Any:
    try:
        return make()
    except NotMeasuredError:
        return None
