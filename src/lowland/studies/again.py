"""Judging a record's runs again, by the claims as they are now: nothing is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError, unknown
from lowland.core.files import locked, write_json
from lowland.core.provenance import provenance
from lowland.report.results import RESULTS, read_results
from lowland.studies.results import assemble
from lowland.studies.runs import Run
from lowland.studies.study import Choice, Plan, Study


def judge_again(folder: Path, studies: Mapping[str, Study]) -> dict[str, Any]:
    """Judge the runs in a folder's `results.json` by today's claims, and write it anew.

    Histories, seconds, failures and provenance of the runs stay as they are; claims, verdicts,
    panels, figures, tables and notes are made anew. ``provenance`` gets ``judged``: commit,
    whether it was modified, and time. A claim that needs what the runs did not measure is *no data
    here*. The keys are emptied, so that `lowland study` on the folder works as after any change of
    the code.

    Args:
        folder: of a study; run directories are not needed, the data are.
        studies: by name.

    Returns:
        The new results.

    Raises:
        InputError: no results, a study that there is no more, data that are not there, or runs
            that the study as it is now would not plan: then nothing is written.
    """
    results = read_results(folder)
    name = results["study"]["name"]
    if name not in studies:
        raise unknown("study", name, studies)
    study = studies[name]
    plan = _planned_as(study, results, folder)
    now = provenance()
    judged = {part: now[part] for part in ("lowland", "commit", "modified", "time")}
    with locked(folder):
        results = assemble(
            study,
            plan,
            [Run(**run) for run in results["runs"]],
            keys={"key": None, "glance": None},
            asked=results["asked"],
            failures=results["failures"],
            provenance={**results["provenance"], "judged": judged},
        )
        write_json(folder / RESULTS, results)
    return results


def _planned_as(study: Study, results: Mapping[str, Any], folder: Path) -> Plan:
    """The plan that these runs were made by.

    A record has the radii and seeds that ran, whether they were asked for or are the study's own,
    and claims may differ between the two: the plan is the one that has exactly these runs.
    """
    for choice in _choices(results["asked"]):
        plan = study.plan(choice)
        if _same(plan, results):
            return plan
    raise InputError(
        f"{folder}: {study.name} as it is now plans other runs than these: run the study again"
    )


def _choices(asked: Mapping[str, Any]) -> Iterator[Choice]:
    names = {field.name for field in dataclasses.fields(Choice)}
    given = {name: value for name, value in asked.items() if name in names}
    radii, seeds = tuple(given.pop("rhos")), given.pop("seeds")
    given["overrides"] = tuple(given["overrides"])
    for rhos in (None, radii):
        for count in (None, len(seeds)):
            yield Choice(**given, rhos=rhos, seeds=count)


def _same(plan: Plan, results: Mapping[str, Any]) -> bool:
    """Whether every planned run is there or failed, and every one that is there was planned."""
    planned: dict[tuple[str, float, int], list[Mapping[str, Any]]] = {}
    for one in plan.runs:
        place = (one.group, float(one.recipe.rho), one.recipe.seed)
        planned.setdefault(place, []).append(one.recipe.to_dict())
    made = {run["name"]: run for run in results["runs"]}
    unmade = {(f["group"], float(f["rho"]), f["seed"]) for f in results["failures"]}
    found = {(run["group"], run["name"]): run["recipe"] for run in results["runs"]}
    for (group, _), recipe in found.items():
        place = (group, float(recipe["rho"]), recipe["seed"])
        if not any(_agree(recipe, other) for other in planned.get(place, ())):
            return False
    count = sum(len(recipes) for place, recipes in planned.items() if place not in unmade)
    return bool(made) and len(found) == count


def _agree(recorded: Any, planned: Any) -> bool:
    """Whether settings that both have are the same: newer ones were at their defaults then."""
    if isinstance(recorded, Mapping) and isinstance(planned, Mapping):
        return all(_agree(recorded[name], planned[name]) for name in recorded if name in planned)
    if isinstance(recorded, list | tuple) and isinstance(planned, list | tuple):
        return len(recorded) == len(planned) and all(map(_agree, recorded, planned))
    if recorded == planned:
        return True
    # the recipe that an experiment is about is one of its settings, written as JSON
    texts = _written(recorded), _written(planned)
    return None not in texts and _agree(*texts)


def _written(value: Any) -> dict[str, Any] | None:
    """The record that a text is; None if it is none."""
    try:
        found = json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
