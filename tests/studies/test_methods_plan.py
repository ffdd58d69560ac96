"""The runs of the methods study: what is run at each size, for how long, and what is refused."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lowland import InputError, studies
from lowland.studies.methods.arms import ARMS, PLAIN, SAM
from lowland.studies.study import Plan, Planned
from lowland.train import Experiment, Recipe

STUDY = studies.get("methods")
MODULE = importlib.import_module("lowland.studies.methods.plan")


def planned(**choice: Any) -> Plan:
    chosen = STUDY.choose(**choice)
    STUDY.check(chosen)
    return STUDY.plan(chosen)


def recipes(plan: Plan, group: str | None = None) -> list[Recipe]:
    runs = [run for run in plan.runs if group in (None, run.group)]
    return [run.recipe for run in runs if isinstance(run.recipe, Recipe)]


@pytest.fixture(scope="module", autouse=True)
def without_experiments() -> Iterator[None]:
    """They have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "EXPERIMENTS", ())
        yield


@pytest.fixture(scope="module")
def default(without_experiments: None) -> Plan:
    return planned()


def test_every_arm_has_the_same_grid_in_its_own_scale(default: Plan) -> None:
    assert {r.seed for r in recipes(default)} == set(range(6))
    for arm in ARMS.values():
        runs = recipes(default, arm.name)
        places = {(r.rho, r.seed) for r in runs if r.rho or arm.name == PLAIN}
        assert places == {(rho, s) for rho in arm.radii((0.05, 0.1, 0.2)) for s in range(6)}
        assert {r.epochs for r in runs} == {6}
        assert {r.method for r in runs if r.rho} <= {arm.method}


def test_equal_compute_is_as_many_passes_as_sam_has(default: Plan) -> None:
    groups = {run.group for run in default.runs}
    for arm in ARMS.values():
        longer = f"{arm.name}, equal compute"
        assert (longer in groups) == (arm.epochs_at_equal_compute(6) != 6)
        for recipe in recipes(default, longer):
            assert abs(recipe.epochs * arm.passes - 12) <= arm.passes / 2
    assert {r.epochs for r in recipes(default, "plain, equal compute")} == {12}
    assert {r.epochs for r in recipes(default, "looksam, equal compute")} == {10}


def test_nothing_is_trained_twice_but_to_stand_in_two_groups(default: Plan) -> None:
    counts = Counter(run.recipe for run in default.runs)
    twice = {recipe for recipe, count in counts.items() if count > 1}
    assert twice == set(recipes(default, PLAIN))
    assert {r.rho for r in recipes(default, SAM)} == {0.0, 0.05, 0.1, 0.2}


def test_whole_seeds_come_first_and_memory_last(default: Plan) -> None:
    kinds = [isinstance(run.recipe, Recipe) for run in default.runs]
    assert kinds == sorted(kinds, reverse=True)
    seeds = [r.seed for r in recipes(default)]
    assert seeds == sorted(seeds)
    footprints = [run for run in default.runs if isinstance(run.recipe, Experiment)]
    assert [run.group for run in footprints] == [f"{name}, memory" for name in ARMS]


def test_methods_that_bring_their_base_have_their_own_learning_rate(default: Plan) -> None:
    for name in ("adasam", "lightsam II", "bayesian-sam"):
        found = {(r.lr, r.momentum, r.weight_decay) for r in recipes(default, name)}
        assert found == {(ARMS[name].own["lr"], 0.0, 0.0)}
    assert {(r.lr, r.weight_decay) for r in recipes(default, "asam")} == {(0.2, 5e-4)}
    assert any("adasam, lightsam I, lightsam II" in note for note in default.notes)


def test_smoke_is_small_and_paper_is_the_published_network() -> None:
    small = recipes(planned(size="smoke"))
    assert {r.seed for r in small} == {0, 1}
    assert max(r.epochs for r in small) == 2
    assert {r.rho for r in small if r.method == "sam"} == {0.1}
    assert {r.rho for r in small if r.method == "lightsam"} == {0.0001, 0.01, 1.0}
    paper = recipes(planned(size="paper", method="asam", overrides=("batch_size=64",)))
    assert {(r.model, r.width, r.epochs) for r in paper} == {
        ("preact-resnet18", 64, 200), ("preact-resnet18", 64, 400)
    }  # fmt: skip
    assert {r.rank_block for r in paper} == {"block3"}


def test_some_methods_and_radii_of_ones_own() -> None:
    plan = planned(size="smoke", method="asam", rhos=(0.02,), seeds=3, overrides=("epochs=3",))
    assert {run.group for run in plan.runs if isinstance(run.recipe, Recipe)} == {
        "plain", "plain, equal compute", "sam", "asam"
    }  # fmt: skip
    assert {r.rho for r in recipes(plan, "asam")} == {0.1}
    assert {r.epochs for r in recipes(plan)} == {3, 6}
    assert {r.seed for r in recipes(plan)} == {0, 1, 2}
    assert [claim.name for claim in plan.claims] == [
        "sam-equal-epochs", "sam-equal-compute", "asam-on-sam"
    ]  # fmt: skip


def test_experiments_join_with_their_runs_and_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def runs(size: str, seeds: list[int]) -> list[Planned]:
        seen.append((size, seeds))
        return [Planned(group="other", recipe=Experiment(function="a:b"))]

    claim = planned(size="smoke").claims[0]
    made = SimpleNamespace(planned=runs, claims=lambda: (claim,))
    monkeypatch.setattr(MODULE, "EXPERIMENTS", (made,))
    plan = planned(size="smoke", seeds=3)
    assert seen == [("smoke", [0, 1, 2])]
    assert plan.runs[-1].group == "other"
    assert plan.claims[-1] is claim
    assert plan.notes[-1].startswith("Claims on widths")
    assert "other" not in {run.group for run in planned(size="smoke", method="sam").runs}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"setting": "minimal"}, "unknown setting 'minimal': known: standard"),
        ({"method": "saam"}, "unknown method 'saam': did you mean 'sam'"),
        ({"method": "fedsam"}, "fedsam has no arm"),
        ({"overrides": ("rho=1",)}, "use --rho"),
        ({"overrides": ("method_options=k=3",)}, "the study sets method_options itself"),
        ({"overrides": ("rank_block=block*",)}, "matches 3 blocks: name one"),
        ({"overrides": ("batch_size=61",)}, "60 examples make no whole batch of 61"),
        ({"rhos": (0.0,)}, "rho needs a value above 0"),
    ],
)
def test_bad_choices_are_named(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        planned(**{"size": "smoke", **choice})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
