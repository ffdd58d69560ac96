"""A study of recipes and experiments: one grid, one judgement, one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowland import InputError, studies
from lowland.studies.runner import Status
from lowland.studies.runs import Runs
from lowland.studies.study import Claim, Finding, Plan, Planned, Study
from lowland.studies.verdict import AtLeast
from lowland.train import Experiment, Local, Outcome, Recipe, Watch

SMOKE = studies.Choice(size="smoke")


def made(seed: int, rho: float, **settings: Any) -> Experiment:
    rows = {"rows": [0.0, 1.0 + rho * (seed + 1)]}
    function = "made_experiments:fixed"
    return Experiment(function=function, rho=rho, seed=seed, settings={**rows, **settings})


def grows(runs: Runs) -> Finding:
    values = {s: [runs.final("made", r, s, "value") for r in (0.0, 1.0)] for s in (0, 1)}
    return Finding(effects={seed: after - before for seed, (before, after) in values.items()})


CLAIM = Claim(
    name="grows",
    sentence="It grows.",
    source="here",
    published="none",
    effect="growth",
    unit="",
    rule=AtLeast(0.0),
    reason="none",
    find=grows,
)


def study(*more: Planned) -> Study:
    grid = [Planned(group="made", recipe=made(s, r)) for s in (0, 1) for r in (0.0, 1.0)]
    again = Planned(group="the same again", recipe=made(0, 0.0))
    plan = Plan(runs=(*grid, again, *more), claims=(CLAIM,), panels=(), fingerprint="none")
    return Study(
        name="made",
        title="made",
        source="here",
        shows="nothing",
        sizes={"smoke": "now"},
        settings={"minimal": "none"},
        plan=lambda choice: plan,
    )


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(self: Local, recipes: Any, root: Path, watch: Watch) -> list[Outcome]:
        from lowland.train.pool import Event
        from lowland.train.worker import Task, attempt

        outcomes = {}
        for recipe in dict.fromkeys(recipes):
            task = Task(recipe=recipe, root=root, checkpoint_seconds=1.0)
            outcomes[recipe] = attempt(task, lambda news: None)
            watch.on_event(Event(recipe=recipe, outcome=outcomes[recipe]))
        return [outcomes[recipe] for recipe in recipes]

    monkeypatch.setattr(Local, "launch", launch)


@pytest.mark.usefixtures("in_process")
def test_experiments_are_judged_and_reported_beside_recipes(tmp_path: Path) -> None:
    recipe = Recipe(model="mlp", width=8, limit=60, batch_size=20, epochs=1, evaluations=1)
    seen: list[Status] = []
    whole = study(Planned(group="trained", recipe=recipe))
    results = studies.execute(whole, SMOKE, tmp_path / "study", tell=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].share) == (5, 5, 1.0)
    assert results["failures"] == []
    assert results["claims"][0]["effects"] == {"0": 1.0, "1": 2.0}
    assert results["asked"]["rhos"] == [0.0, 1.0]
    first, *_, same, trained = results["runs"]
    assert (first["group"], same["group"]) == ("made", "the same again")
    assert first["name"] == same["name"]
    assert first["history"] == {"value": [0.0, 1.0], "large": [0, 0]}
    assert first["recipe"]["function"] == "made_experiments:fixed"
    assert trained["recipe"]["model"] == "mlp"
    assert len(list((tmp_path / "study" / "runs").iterdir())) == 5
    assert (tmp_path / "study" / "report.html").stat().st_size > 1_000_000
    json.dumps(results, allow_nan=False)


@pytest.mark.usefixtures("in_process")
def test_a_number_that_is_not_finite_is_null_and_the_run_diverged(tmp_path: Path) -> None:
    infinite = Experiment(function="made_experiments:infinite", seed=4)
    whole = study(Planned(group="infinite", recipe=infinite))
    results = studies.execute(whole, SMOKE, tmp_path / "study")
    *finite, last = results["runs"]
    assert last["history"] == {"value": [1.0, None]}
    assert last["diverged"] is True
    assert not any(run["diverged"] for run in finite)


@pytest.mark.usefixtures("in_process")
def test_an_experiment_that_fails_is_one_line_and_leaves_the_others(tmp_path: Path) -> None:
    broken = Experiment(function="made_experiments:breaks", seed=4)
    whole = study(Planned(group="broken", recipe=broken))
    results = studies.execute(whole, SMOKE, tmp_path / "study")
    assert results["failures"] == [
        {"group": "broken", "rho": 0.0, "seed": 4, "error": "RuntimeError: a bug of theirs"}
    ]
    assert results["claims"][0]["n"] == 2


def test_experiments_that_cannot_be_are_refused_before_a_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Local, "launch", None)
    wrong = Planned(group="made", recipe=made(0, 0.0, stride=1))
    refused = study()
    plan = Plan(runs=(wrong,), claims=(CLAIM,), panels=(), fingerprint="none")
    object.__setattr__(refused, "plan", lambda choice: plan)
    with pytest.raises(InputError, match="settings do not fit made_experiments:fixed"):
        studies.execute(refused, SMOKE, tmp_path / "study")
