"""Running a study: train what is missing, judge, write `results.json` and `report.html`.

    DIR/study.json     what the folder is for, written first; keeps other studies out
    DIR/runs/NAME/     the run directories, named by a hash of what determines them
    DIR/results.json   everything found (see `lowland.studies.results`)
    DIR/report.html    the same to look at

Runs are kept whatever is asked next, so a study that was killed goes on, and one that is asked
with more seeds trains only those.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowland.core.errors import InputError
from lowland.core.files import write_json
from lowland.core.provenance import provenance, source_hash
from lowland.report.page import write_page
from lowland.report.results import RESULTS, read_results
from lowland.studies.folder import claimed, clear_errors
from lowland.studies.results import assemble, read_run
from lowland.studies.study import Choice, Plan, Study
from lowland.train import Event, Outcome, Recipe, run_all

CODE = ("core", "data", "measure", "models", "optim", "report", "studies", "train")


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a study is.

    Attributes:
        done: finished runs.
        total: all runs.
        share: share of all updates done, in [0, 1].
    """

    done: int
    total: int
    share: float


Tell = Callable[[Status], object]


def execute(
    study: Study, choice: Choice, out: Path, *, workers: int = 2, tell: Tell | None = None
) -> dict[str, Any]:
    """Bring the study's folder to where `choice` is answered, and return its results.

    With nothing to do, nothing is written. A run that fails is in ``failures`` of the results and
    is tried again by the next call; the other runs count.

    Args:
        study: what to run.
        choice: size, data, settings.
        out: the study's folder; made if it is not there.
        workers: processes at a time, each of one thread.
        tell: called with `Status` now and then.

    Raises:
        InputError: unusable choice; the folder belongs to something else, is in use or cannot be
            written; no run succeeded.
    """
    _require("lightning_fabric", "plotly", "pyarrow", "safetensors")
    study.check(choice)
    if workers < 1:
        raise InputError(f"workers must be 1 or more, not {workers}")
    plan = study.plan(choice)
    key = _key(study, choice, plan)
    with clear_errors(out), claimed(out, study, choice):
        results = _finished(out, key)
        if results is None:
            results = _work(study, choice, plan, out, key=key, workers=workers, tell=tell)
        write_page(out, results)
    return results


def _require(*modules: str) -> None:
    """Miss what is not installed now, not after minutes of training."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _work(
    study: Study,
    choice: Choice,
    plan: Plan,
    out: Path,
    *,
    key: str,
    workers: int,
    tell: Tell | None,
) -> dict[str, Any]:
    """Train what is missing, judge, and write the results."""
    begun = time.perf_counter()
    recipes = [planned.recipe for planned in plan.runs]
    outcomes = run_all(recipes, out / "runs", workers=workers, on_progress=_Counter(recipes, tell))
    failures = _failures(plan, outcomes)
    if len(failures) == len(outcomes):
        raise InputError(failures[0]["error"])
    runs = [
        read_run(planned, outcome.folder)
        for planned, outcome in zip(plan.runs, outcomes, strict=True)
        if outcome.folder is not None
    ]
    results = assemble(
        study,
        plan,
        runs,
        key=key,
        asked=_asked(choice, plan),
        failures=failures,
        provenance={
            **provenance(),
            "workers": workers,
            "seconds": round(time.perf_counter() - begun, 1),
        },
    )
    write_json(out / RESULTS, results)
    return results


def _failures(plan: Plan, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {
            "group": planned.group,
            "rho": planned.recipe.rho,
            "seed": planned.recipe.seed,
            "error": outcome.error,
        }
        for planned, outcome in zip(plan.runs, outcomes, strict=True)
        if outcome.folder is None
    ]


def _asked(choice: Choice, plan: Plan) -> dict[str, Any]:
    """The choice with the study's defaults filled in."""
    recipes = [planned.recipe for planned in plan.runs]
    return {
        **dataclasses.asdict(choice),
        "overrides": list(choice.overrides),
        "rhos": sorted({recipe.rho for recipe in recipes}),
        "seeds": sorted({recipe.seed for recipe in recipes}),
    }


def _key(study: Study, choice: Choice, plan: Plan) -> str:
    """Hash of all that decides the results: what is asked, the data, lowland's code, and torch."""
    facts = {
        "study": study.name,
        "choice": dataclasses.asdict(choice),
        "runs": [[planned.group, planned.recipe.to_dict()] for planned in plan.runs],
        "data": plan.fingerprint,
        "code": source_hash(CODE),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    """The results in the folder if they answer `key` without failures."""
    if not (out / RESULTS).exists():
        return None
    results = read_results(out)
    return results if results["key"] == key and not results["failures"] else None


class _Counter:
    """Turns news of single runs into the state of the study."""

    def __init__(self, recipes: Sequence[Recipe], tell: Tell | None) -> None:
        self._share = dict.fromkeys(recipes, 0.0)
        self._done: set[Recipe] = set()
        self._tell = tell or (lambda status: None)

    def __call__(self, event: Event) -> None:
        if event.progress is not None:
            self._share[event.recipe] = event.progress.step / event.progress.steps
        if event.outcome is not None:
            self._share[event.recipe] = 1.0
            self._done.add(event.recipe)
        share = sum(self._share.values()) / len(self._share)
        self._tell(Status(done=len(self._done), total=len(self._share), share=share))
