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
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowland.core.errors import InputError
from lowland.core.files import write_json
from lowland.core.provenance import provenance, source_hash
from lowland.data import places
from lowland.data.stamp import stamp
from lowland.report.page import write_page
from lowland.report.results import RESULTS, read_results
from lowland.studies.folder import claimed, clear_errors
from lowland.studies.results import assemble, read_runs
from lowland.studies.runs import Run
from lowland.studies.study import Choice, Plan, Study
from lowland.train import (
    Event,
    Launcher,
    Local,
    LoggerFactory,
    Outcome,
    Runnable,
    Tracking,
    Watch,
    check_any,
)
from lowland.train.tracking import EVERY

CODE = (
    "core",
    "data",
    "embeddings",
    "inspection",
    "measure",
    "models",
    "optim",
    "report",
    "studies",
    "train",
)


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a study is.

    Attributes:
        done: finished runs.
        total: all runs.
        share: share of all updates done, in [0, 1].
        note: a line for people to read, or None.
    """

    done: int
    total: int
    share: float
    note: str | None = None


Tell = Callable[[Status], object]


def execute(
    study: Study,
    choice: Choice,
    out: Path,
    *,
    launcher: Launcher | None = None,
    loggers: LoggerFactory | None = None,
    log_every: int = EVERY,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Bring the study's folder to where `choice` is answered, and return its results.

    With nothing to do, nothing is written. A run that fails is in ``failures`` of the results and
    is tried again by the next call; the other runs count.

    Args:
        study: what to run.
        choice: size, data, settings.
        out: the study's folder; made if it is not there.
        launcher: where the runs happen; processes on this machine if None.
        loggers: makes the loggers of each run (see `lowland.train.run`), for example a
            `lowland.train.Tracking`; what they get is no part of the results.
        log_every: updates between two points.
        tell: called with `Status` now and then.

    Raises:
        InputError: unusable choice; the folder belongs to something else, is in use or cannot be
            written; no run succeeded.
    """
    _require("lightning_fabric", "plotly", "pyarrow", "safetensors")
    study.check(choice)
    launcher = launcher or Local()
    launcher.check()
    if log_every < 1:
        raise InputError(f"log every must be 1 or more, not {log_every}")
    glance = _glance(study, choice)
    results = _finished(out, "glance", glance)
    plan = study.plan(choice) if results is None else None
    with clear_errors(out), claimed(out, study, choice):
        if plan is not None:
            keys = {"key": _key(study, choice, plan), "glance": glance}
            results = _finished(out, "key", keys["key"])
            if results is None:
                counter = _Counter([planned.recipe for planned in plan.runs], tell)
                watch = Watch(on_event=counter, loggers=loggers, log_every=log_every)
                results = _work(study, choice, plan, out, keys, launcher, watch)
        assert results is not None
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
    keys: Mapping[str, str | None],
    launcher: Launcher,
    watch: Watch,
) -> dict[str, Any]:
    """Train what is missing, judge, and write the results."""
    begun = time.perf_counter()
    _check(plan)
    if isinstance(watch.loggers, Tracking):
        watch.loggers.prepare()
    recipes = [planned.recipe for planned in plan.runs]
    outcomes = launcher.launch(recipes, out / "runs", watch)
    failures = _failures(plan, outcomes)
    if len(failures) == len(outcomes):
        raise InputError(failures[0]["error"])
    runs = [
        run
        for planned, outcome in zip(plan.runs, outcomes, strict=True)
        if outcome.folder is not None
        for run in read_runs(planned, outcome.folder)
    ]
    results = assemble(
        study,
        plan,
        runs,
        keys=keys,
        asked=_asked(choice, plan, runs),
        failures=failures,
        provenance={
            **provenance(),
            "launcher": launcher.name,
            "workers": launcher.side_by_side,
            "seconds": round(time.perf_counter() - begun, 1),
        },
    )
    write_json(out / RESULTS, results)
    return results


def _check(plan: Plan) -> None:
    """Refuse data that no part of the grid can be run on before processes are started for it."""
    refused: list[InputError] = []
    parts = {planned.group: planned.recipe for planned in plan.runs}
    for recipe in parts.values():
        try:
            check_any(recipe)
        except InputError as error:
            refused.append(error)
    if len(refused) == len(parts):
        raise refused[0]


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


def _asked(choice: Choice, plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """The choice with the study's defaults filled in."""
    places = {(run.rho, run.seed) for run in runs if run.group not in plan.aside}
    grid = [planned for planned in plan.runs if planned.group not in plan.aside]
    places |= {(p.recipe.rho, p.recipe.seed) for p in grid if not p.many}
    return {
        **dataclasses.asdict(choice),
        "overrides": list(choice.overrides),
        "rhos": sorted({rho for rho, _ in places}),
        "seeds": sorted({seed for _, seed in places}),
    }


def _key(study: Study, choice: Choice, plan: Plan) -> str:
    """Hash of all that decides the results: what is asked, the data, lowland's code, and torch.

    Files beside the data, as ``transfer_data`` names them, count by size and time of change.
    """
    runs = [[planned.group, planned.recipe.to_dict()] for planned in plan.runs]
    files = {place for planned in plan.runs for place in planned.recipe.files}
    others = stamp(sorted(files - set(places(choice.data))))
    return _hash(study, choice, {"runs": runs, "data": plan.fingerprint, "files": others})


def _glance(study: Study, choice: Choice) -> str | None:
    """The same from a look at the data's file, so that it need not be decoded to do nothing.

    None where there is no single file, or a setting names a further one.
    """
    path = Path(choice.data.partition(":")[2])
    if not path.is_file() or any(_names_a_file(setting) for setting in choice.overrides):
        return None
    seen = path.stat()
    return _hash(study, choice, {"size": seen.st_size, "changed": seen.st_mtime_ns})


def _names_a_file(setting: str) -> bool:
    words = re.split("[=,:]", setting.partition("=")[2])
    return any(word.strip() and Path(word.strip()).expanduser().exists() for word in words)


def _hash(study: Study, choice: Choice, facts: Mapping[str, Any]) -> str:
    asked = {"study": study.name, "choice": dataclasses.asdict(choice)}
    code = {"code": source_hash(CODE), "torch": torch.__version__}
    text = json.dumps({**asked, **code, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _finished(out: Path, name: str, value: str | None) -> dict[str, Any] | None:
    """The results in the folder if their key of that name has that value, and no run failed."""
    if value is None or not (out / RESULTS).exists():
        return None
    results = read_results(out)
    return results if results.get(name) == value and not results["failures"] else None


class _Counter:
    """Turns news of single runs into the state of the study."""

    def __init__(self, recipes: Sequence[Runnable], tell: Tell | None) -> None:
        self._share = dict.fromkeys(recipes, 0.0)
        self._done: set[Runnable] = set()
        self._tell = tell or (lambda status: None)

    def __call__(self, event: Event) -> None:
        if event.progress is not None:
            self._share[event.recipe] = event.progress.step / event.progress.steps
        if event.outcome is not None:
            self._share[event.recipe] = 1.0
            self._done.add(event.recipe)
        share = sum(self._share.values()) / len(self._share)
        done, total = len(self._done), len(self._share)
        self._tell(Status(done=done, total=total, share=share, note=event.note))
