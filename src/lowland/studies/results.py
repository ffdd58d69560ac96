"""Everything that a study found, as one plain record: the content of `results.json`.

    format, version   "lowland-study", 1
    key, glance       hashes of all that decides the content: with either unchanged nothing is to
                      do ("glance" has the data file's size and time in place of its content, and
                      is null where there is no single file)
    study             name, title, source, shows
    asked             size, data, setting, method, rhos, seeds, overrides
    rule              the decision rule in words, confidence, family, confidence of each interval
    claims            each claim with thresholds, verdict, interval, effect per seed, and the same
                      effect under other definitions ("beside")
    comparison        arms side by side, for studies that have them (`lowland.studies.methods`), or
                      null
    panels            what to draw: titles and columns
    drawings, tables  further figures and tables (`lowland.studies.drawing`), as plain values
    notes             sentences that a reader needs
    runs              per run: place in the grid, recipe, seconds, and the whole history by column
    failures          runs that ended with an error
    provenance        of the judging process; each run has its own

Nothing in it is not finite: such numbers are null.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.report.intervals import CONFIDENCE, Interval, t_interval
from lowland.report.results import FORMAT, VERSION
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Claim, Effects, Finding, Plan, Planned, Study, assess, describe
from lowland.studies.verdict import RULE, Verdict, confidence_each
from lowland.train import Row, read_history, read_record


def read_runs(planned: Planned, folder: Path) -> list[Run]:
    """A finished run directory as a `Run` of the study, or as the many that it holds."""
    record, rows = read_record(folder), read_history(folder / "history.parquet")
    recipe = planned.recipe
    common: dict[str, Any] = {
        "name": folder.name,
        "group": planned.group,
        "method": recipe.method,
        "recipe": recipe.to_dict(),
        "provenance": record["sessions"][-1],
    }
    seconds = math.fsum(record["seconds"].values())
    if not planned.many:
        common |= {"rho": recipe.rho, "seed": recipe.seed, "seconds": seconds}
        return [Run(**common, history=_history(rows), diverged=bool(record["diverged"]))]
    places: dict[tuple[float, int], list[Row]] = {}
    for row in rows:
        places.setdefault((float(row["rho"] or 0), int(row["seed"] or 0)), []).append(row)
    return [
        Run(
            **common,
            rho=rho,
            seed=seed,
            history=_history(held),
            diverged=not all(math.isfinite(v) for row in held for v in row.values() if v),
            seconds=seconds / len(places),
        )
        for (rho, seed), held in places.items()
    ]


def _history(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_finite(row.get(name)) for row in rows] for name in names}


def assemble(
    study: Study,
    plan: Plan,
    runs: Sequence[Run],
    *,
    keys: Mapping[str, str | None],
    asked: Mapping[str, Any],
    failures: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Judge every claim on the runs, and put everything into one plain record."""
    family = len(plan.claims)
    held = Runs(runs)
    each = confidence_each(family)
    return {
        "format": FORMAT,
        "version": VERSION,
        **keys,
        "study": {name: getattr(study, name) for name in ("name", "title", "source", "shows")},
        "asked": dict(asked),
        "rule": {
            "words": RULE.format(family=family, each=each),
            "confidence": CONFIDENCE,
            "correction": "Bonferroni",
            "family": family,
            "confidence_each": each,
        },
        "claims": [judged(claim, held, family=family) for claim in plan.claims],
        "comparison": None if plan.compare is None else plan.compare(held),
        "panels": [dataclasses.asdict(panel) for panel in plan.panels],
        "drawings": _drawn(plan.figures, held),
        "tables": _drawn(plan.tables, held),
        "notes": list(plan.notes),
        "runs": [_run(run) for run in runs],
        "failures": [dict(failure) for failure in failures],
        "provenance": dict(provenance),
    }


def _drawn(make: Callable[[Runs], Sequence[Any]] | None, runs: Runs) -> list[dict[str, Any]]:
    """Figures or tables as plain values; none where what they need was not measured."""
    if make is None:
        return []
    try:
        return [_plain(dataclasses.asdict(made)) for made in make(runs)]
    except NotMeasuredError:
        return []


def _plain(value: Any) -> Any:
    """The same as JSON has it: lists, and null for what is not finite."""
    if isinstance(value, Mapping):
        return {name: _plain(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return _finite(value) if isinstance(value, float) else value


def judged(claim: Claim, runs: Runs, *, family: int) -> dict[str, Any]:
    """A claim with its verdict, as plain values."""
    finding, verdict = assess(claim, runs, family=family)
    shown = verdict.n > 1  # one seed is never a result, not in passing either
    return {
        **describe(claim),
        "verdict": verdict.word,
        "why": verdict.reason,
        "n": verdict.n,
        **_interval(verdict.interval),
        "effects": _effects(finding.effects),
        "detail": finding.detail if shown else "",
        "beside": _beside(finding, verdict) if shown else [],
    }


def _beside(finding: Finding, verdict: Verdict) -> list[dict[str, Any]]:
    """The effect under other definitions, with intervals as wide as those that are judged."""
    confidence = verdict.interval.confidence if verdict.interval else CONFIDENCE
    return [
        {
            "label": label,
            "n": len(effects),
            **_interval(t_interval(list(effects.values()), confidence=confidence)),
        }
        for label, effects in finding.beside.items()
    ]


def _interval(interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {"estimate": None, "low": None, "high": None}
    return {"estimate": interval.mean, "low": interval.low, "high": interval.high}


def _effects(effects: Effects) -> dict[str, float | None]:
    return {str(seed): _finite(effect) for seed, effect in effects.items()}


def _run(run: Run) -> dict[str, Any]:
    return dataclasses.asdict(run)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
