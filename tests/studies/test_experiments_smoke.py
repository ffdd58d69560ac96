"""All experiments at smoke size, through the runner, and their plans at every size."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from pathlib import Path

import pytest

from lowland import studies
from lowland.studies.methods.experiments import EXPERIMENTS
from lowland.studies.study import Choice, Plan, Study
from lowland.train import Event, Experiment, Launcher, Outcome, Runnable, Watch

CLAIMS = tuple(claim for module in EXPERIMENTS for claim in module.claims())


def plan(choice: Choice) -> Plan:
    runs = tuple(run for m in EXPERIMENTS for run in m.planned(choice.size, range(2)))
    return Plan(runs=runs, claims=CLAIMS, panels=(), fingerprint="digits")


STUDY = Study(
    name="experiments",
    title="all experiments",
    source="here",
    shows="that they run",
    sizes={"smoke": "seconds"},
    settings={"minimal": "none"},
    plan=plan,
)


class Here:
    """Runs in this process, one after the other."""

    name, side_by_side = "here", 1

    def check(self) -> None: ...

    def launch(self, recipes: list[Runnable], root: Path, watch: Watch) -> list[Outcome]:
        outcomes = {}
        for recipe in dict.fromkeys(recipes):
            outcomes[recipe] = Outcome(recipe=recipe, folder=recipe.run(root))
            watch.on_event(Event(recipe=recipe, outcome=outcomes[recipe]))
        return [outcomes[recipe] for recipe in recipes]


@pytest.mark.slow
def test_every_experiment_runs_and_measures_its_claims(tmp_path: Path) -> None:
    launcher: Launcher = Here()  # type: ignore[assignment]
    begun = time.process_time()
    choice = studies.Choice(size="smoke")
    results = studies.execute(STUDY, choice, tmp_path / "study", launcher=launcher)
    spent = time.process_time() - begun
    assert results["failures"] == []
    assert [claim["name"] for claim in results["claims"]] == [claim.name for claim in CLAIMS]
    for claim in results["claims"]:
        assert claim["n"] == 2, claim["why"]
        assert math.isfinite(claim["estimate"]), claim["name"]
        assert claim["beside"]
        for other in claim["beside"]:
            assert math.isfinite(other["estimate"]), other["label"]
    json.dumps(results, allow_nan=False)
    assert not any(run["diverged"] for run in results["runs"])
    distinct = {run["name"] for run in results["runs"]}
    assert len(list((tmp_path / "study" / "runs").iterdir())) == len(distinct)
    assert len(distinct) < len(results["runs"])  # plain training is shared
    seconds = Counter[str]()
    for run in {run["name"]: run for run in results["runs"]}.values():
        seconds[run["group"].partition("/")[0]] += run["seconds"]
    assert spent < 60  # a second each; the rest is the first import of everything
    assert set(seconds) == {"universal", "mup", "imbalance", "federated", "adversarial"}


@pytest.mark.parametrize("size", ["smoke", "default", "paper"])
def test_plans_have_every_place_once_for_the_seeds_that_were_asked_for(size: str) -> None:
    for module in EXPERIMENTS:
        runs = module.planned(size, [3, 7])
        places = Counter((run.group, run.recipe.rho, run.recipe.seed) for run in runs)
        assert set(places.values()) == {1}
        assert {seed for _, _, seed in places} == {3, 7}
        assert [run.recipe.seed for run in runs] == sorted(run.recipe.seed for run in runs)
        for run in {run.group: run for run in runs}.values():
            assert isinstance(run.recipe, Experiment)
            run.recipe.check()


def test_claims_have_different_names_and_say_where_they_come_from() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.source
        assert claim.published
        assert claim.reason.endswith(".")
        assert claim.sentence.endswith(".")
