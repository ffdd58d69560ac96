"""The grid of the study of transformer blocks, and a smoke run from it to the verdicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lowland.core.errors import InputError
from lowland.studies.results import assemble, read_runs
from lowland.studies.runs import Runs
from lowland.studies.study import Plan, assess
from lowland.studies.vit_blocks import STUDY
from lowland.train import run_any


def planned(**choice: Any) -> Plan:
    chosen = STUDY.choose(**choice)
    STUDY.check(chosen)
    return STUDY.plan(chosen)


def recipe(plan: Plan, group: str) -> Any:
    return next(p.recipe.recipe for p in plan.runs if p.group == group)  # type: ignore[attr-defined]


def test_default_is_a_vit_and_a_mixer_on_digits() -> None:
    plan = planned()
    assert {p.group for p in plan.runs} == {"vit", "mixer"}
    assert sorted({p.recipe.seed for p in plan.runs}) == [0, 1, 2, 3, 4, 5]
    vit, mixer = recipe(plan, "vit"), recipe(plan, "mixer")
    assert (vit.model, mixer.model) == ("vit-mini", "mixer-mini")
    assert {p.recipe.rho for p in plan.runs if p.recipe.method == "none"} == {0.0}


def test_paper_size_has_twelve_blocks_and_the_published_rhos() -> None:
    plan = planned(size="paper")
    assert sorted({p.recipe.rho for p in plan.runs}) == [0.0, 0.1, 0.2, 0.25, 0.3]
    assert recipe(plan, "vit").model == "vit-ti4"
    assert recipe(plan, "mixer").batch_size == 128


def test_networks_are_the_users_choice() -> None:
    plan = planned(size="smoke", overrides=("vit=vit-ti4", "width=16"))
    assert (recipe(plan, "vit").model, recipe(plan, "mixer").model) == ("vit-ti4", "mixer-mini")
    assert recipe(plan, "vit").width == 16


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("vit=vit",), "vit: a network of 6 blocks has no block after 3/4 of them"),
        (("vit=mixer-mini",), "name a network that begins with 'vit'"),
        (("vit=vit-minu",), "vit-mini"),
        (("vit=",), "write vit=VALUE"),
        (("model=mlp",), "the study sets model itself"),
        (("data=digits",), "use --data"),
        (("epoch=3",), "epochs"),
    ],
)
def test_what_makes_no_grid_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        planned(size="smoke", overrides=overrides)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_smoke_from_training_to_verdicts(tmp_path: Path) -> None:
    plan = planned(size="smoke", seeds=1, overrides=("epochs=1",))
    runs = [run for p in plan.runs for run in read_runs(p, run_any(p.recipe, tmp_path))]
    assert len(runs) == 4
    for claim in plan.claims:
        finding, verdict = assess(claim, Runs(runs), family=len(plan.claims))
        # smoke has one ρ > 0, and one seed cannot choose
        if claim.name in ("vit-larger-rho-lower-rank", "vit-test-error", "mixer-test-error"):
            assert verdict.word == "no data here"
        elif "matched" not in claim.name:
            assert verdict.n == 1, (claim.name, verdict.reason)
            assert all(map(math.isfinite, finding.effects.values())), claim.name
    results = assemble(STUDY, plan, runs, keys={}, asked={}, failures=[], provenance={})
    assert len(results["drawings"]) == 11
    assert len(results["tables"]) == 2
