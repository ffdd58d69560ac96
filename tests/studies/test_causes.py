"""The study of causes: its arms, and its claims on runs whose effects are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import make_runs

from lowland import InputError
from lowland.studies import Choice, execute
from lowland.studies.causes import STUDY
from lowland.studies.causes.arms import DECAY, INIT, MLP, RESNET, arms, of_cause
from lowland.studies.causes.claims import claims
from lowland.studies.causes.columns import Measured, collapse_column, rank_column
from lowland.studies.causes.drawings import figures, tables
from lowland.studies.causes.findings import comparable
from lowland.studies.runs import Run, Runs
from lowland.studies.study import Finding, Plan, assess
from lowland.studies.verdict import Verdict
from lowland.train import Local, Recipe, read_history

WHAT = Measured(
    arms=arms(0.2, (0, 1, 2)),
    blocks={RESNET: "block2", MLP: "block2"},
    last={RESNET: "pool", MLP: "block3"},
    classes=10,
    test_images=100,
)
RANK, LAST = rank_column("block2"), rank_column("pool")
CLAIMS = {claim.name: claim for claim in claims(WHAT)}
ELSEWHERE = {"small-m", "robust-generalization", "anisotropy", "training-stability"}
Value = Callable[[str, float, int, int], dict[str, float]]


def study(value: Value, *, skip: tuple[str, ...] = (), seeds: tuple[int, ...] = (0, 1, 2)) -> Runs:
    """Every arm, with columns by group, ρ, seed and evaluation (0 to 4)."""
    rhos = {"all": (0.0, 0.1, 0.4), "ends": (0.0, 0.4), "plain": (0.0,)}
    found: list[Run] = []
    for arm in WHAT.arms:
        if arm.group in skip:
            continue

        def row(rho: float, seed: int, step: int, group: str = arm.group) -> dict[str, float]:
            base = {"train/loss": math.exp(-step), "test/error": 0.1, "validation/error": 0.1}
            return base | value(group, rho, seed, step)

        found += make_runs(row, group=arm.group, rhos=rhos[arm.rhos], seeds=seeds, evaluations=5)
    return Runs(found)


def measured(name: str, runs: Runs) -> tuple[Finding, Verdict]:
    return assess(CLAIMS[name], runs, family=len(CLAIMS))


def planned(**choice: object) -> Plan:
    chosen = STUDY.choose(**choice)  # type: ignore[arg-type]
    STUDY.check(chosen)
    return STUDY.plan(chosen)


def recipes(plan: Plan) -> dict[str, Recipe]:
    """The recipe of each group at ρ = 0 of the first seed."""
    return {p.group: p.recipe.recipe for p in reversed(plan.runs) if p.recipe.rho == 0}  # type: ignore[attr-defined]


def test_every_arm_changes_what_it_says() -> None:
    found = recipes(planned())
    plain = found[RESNET].to_dict()
    changed = {
        group: {k: v for k, v in recipe.to_dict().items() if v != plain[k]}
        for group, recipe in found.items()
        if group.startswith(RESNET)
    }
    assert changed[RESNET] == {}
    assert changed["resnet, weight decay 0.015"] == {"weight_decay": 0.015}
    assert changed["resnet, large step size x5"] == {"lr": 1.0}
    assert changed["resnet, label noise 0.2"] == {"label_noise": 0.2}
    assert changed["resnet, depth 3 blocks"] == {"depth": 3}
    assert changed["resnet, augmentation"] == {"augment": True}
    few, many = changed["resnet, few classes"], changed["resnet, many classes"]
    assert few.pop("labels") == [0, 1, 2]
    assert few == many, "as many images, updates and measured examples"
    assert few["limit"] == found["resnet, many classes"].limit == 323
    assert found["mlp, small initialisation x0.5"].init_scale == 0.5
    assert (plain["augment"], plain["weight_decay"], plain["momentum"]) == (False, 0.0, 0.0)


def test_rhos_of_the_arms_and_seeds() -> None:
    plan = planned()
    by_group: dict[str, set[float]] = {}
    for run in plan.runs:
        by_group.setdefault(run.group, set()).add(run.recipe.rho)
    assert by_group[RESNET] == {0.0, 0.1, 0.2, 0.4}
    for group, rhos in by_group.items():
        assert rhos in ({0.0}, {0.0, 0.4}) or group == RESNET
    assert {run.recipe.seed for run in plan.runs} == set(range(6))
    assert {run.recipe.seed for run in planned(seed=1000, seeds=2).runs} == {1000, 1001}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"overrides": ("weight_decay=1",)}, "the study sets weight_decay itself"),
        ({"overrides": ("rho=1",)}, "use --rho"),
        ({"overrides": ("epoch=1",)}, "unknown setting 'epoch'"),
        ({"size": "smal"}, "unknown size 'smal': did you mean 'smoke'"),
    ],
)
def test_bad_choices_are_named(choice: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(**choice)


def test_levels_of_a_cause_are_in_order() -> None:
    assert [a.level for a in of_cause(RESNET, DECAY, WHAT.arms)] == ["0.002", "0.005", "0.015"]
    assert [a.level for a in of_cause(MLP, INIT, WHAT.arms)] == ["x0.7", "x0.5"]


def test_nothing_measured_is_no_data_here() -> None:
    for claim in CLAIMS.values():
        for runs in (Runs([]), study(lambda *_: {"train/loss": -1.0})):
            finding, verdict = assess(claim, runs, family=20)
            assert (verdict.word, dict(finding.effects)) == ("no data here", {}), claim.name
            assert verdict.reason


def test_falls_are_at_matched_loss_with_the_end_beside() -> None:
    """Weight decay is one evaluation slower: at equal loss its rank is what plain training had."""

    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        slow = group == "resnet, weight decay 0.015"
        loss = math.exp(-max(step - 1, 0)) * (1.1 if step == 0 else 1) if slow else math.exp(-step)
        rank = 100.0 - 10 * (step - 1 if slow else step)
        return {RANK: rank, "train/loss": loss}

    finding, _ = measured("weight-decay", study(value))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.0))
    assert finding.beside["the same at the end"] == pytest.approx(
        dict.fromkeys(range(3), 1 - 70 / 60)
    )


def test_sam_and_causes_are_compared_with_plain_training_of_their_network() -> None:
    ranks = {"resnet": 100.0, "mlp": 50.0}

    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        network = group.partition(",")[0]
        factor = (1 - rho / 2) * (0.9 if "x0.5" in group or "x5" in group else 1.0)
        return {RANK: ranks[network] * factor if step else ranks[network]}

    runs = study(value)
    for claim, effect in (
        ("sam", 0.2),
        ("sam-fully-connected", 0.2),
        ("small-initialisation", 0.1),
        ("large-steps", 0.1),
        ("label-noise", 0.0),
    ):
        finding, _ = measured(claim, runs)
        assert finding.effects == pytest.approx(dict.fromkeys(range(3), effect)), claim
    finding, _ = measured("plain-training", runs)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.0))


def test_interactions_are_differences_of_differences_paired_by_seed() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        fall = (0.1 + 0.01 * seed) if group == "resnet" else 0.3
        saved = 0.05 if "augmentation" in group else 0.02
        return {
            RANK: 100 * (1 - fall * (rho == 0.4)),
            "test/error": 0.2 - saved * (rho == 0.4),
        }

    finding, verdict = measured("augmentation-times-rho", study(value))
    assert finding.effects == pytest.approx({0: 0.2, 1: 0.19, 2: 0.18})
    assert finding.beside["the same of the test error that ρ saves"] == pytest.approx(
        dict.fromkeys(range(3), 0.03)
    )
    assert verdict.word == "holds"
    finding, verdict = measured("decay-times-rho", study(value))
    assert finding.effects == pytest.approx({0: 0.2, 1: 0.19, 2: 0.18})
    assert verdict.word == "does not hold", "weight decay does reveal it here"


def test_the_substitute_is_compared_at_what_validation_chooses() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        good = rho == 0.1 or group == "resnet, weight decay 0.005"
        fall = {"resnet, weight decay 0.005": 0.05}.get(group, 0.2 if rho == 0.1 else 0.5)
        plain = group == "resnet" and not rho
        return {
            RANK: 100.0 if plain else 100 * (1 - fall),
            "validation/error": 0.1 if good else 0.3,
            "test/error": 0.2 if plain else 0.12 if rho else 0.15,
        }

    finding, _ = measured("no-substitute", study(value))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.2 - 0.05))
    (beside,) = finding.beside.values()
    assert beside == pytest.approx(dict.fromkeys(range(3), 0.08 - 0.05))
    assert "weight decay 0.005" in finding.detail
    assert "ρ = 0.1 (3 of 3 seeds)" in finding.detail


def test_rank_and_error_over_all_arms_of_one_network() -> None:
    order = {place: i for i, place in enumerate(comparable(study(lambda *_: {}), WHAT))}
    assert len(order) == 4 - 1 + 3 + 1 + 2 + 2 + 2 + 2

    def value(sign: int) -> Value:
        def row(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
            place = order.get((group, rho), 0)
            return {RANK: 100.0 + place, "test/error": 0.5 + sign * 0.01 * place}

        return row

    for sign in (1, -1):
        finding, verdict = measured("side-effect", study(value(sign)))
        assert finding.effects == pytest.approx(dict.fromkeys(range(3), float(sign)))
        assert verdict.word == "does not hold", "an order is related, whichever way"


@pytest.mark.parametrize(("sign", "word"), [(1, "holds"), (-1, "does not hold")])
def test_sharpness_is_put_in_order_with_the_gap_of_errors(sign: int, word: str) -> None:
    groups = [arm.group for arm in WHAT.arms]

    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        place = 10 * groups.index(group) + rho
        # all have one test error: the gap alone is in order
        return {"sharpness/one-step": sign * place, "train/error": 0.1 - place / 10_000}

    finding, verdict = measured("sharpness-and-error", study(value))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), float(sign)))
    assert all(math.isnan(tau) for tau in finding.beside["test error alone"].values())
    assert verdict.word == word


def test_sentences_that_nothing_here_measures_are_rows_that_say_why() -> None:
    runs = study(lambda *_: {})
    for name in ELSEWHERE:
        finding, verdict = measured(name, runs)
        assert (verdict.word, dict(finding.effects)) == ("no data here", {})
        assert verdict.reason


def test_ranks_of_weights_norms_sparsity_collapse_and_classes() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        small = group in ("mlp, weight decay 0.015", "resnet, large step size x5")
        rank = 30.0 if group == "resnet, few classes" else 60.0
        return {
            RANK: rank,
            LAST: 12.0,
            "weight-rank": 0.6 if small else 0.8,
            "weight-rank/start": 0.9,
            "positive": 0.1 if small else 0.2,
            "positive/start": 0.5,
            "weight-norm": 10 * (1 + rho),
            collapse_column("start"): 8.0,
            collapse_column("quarter"): 4.0,
            collapse_column("half"): 2.0,
            collapse_column("end"): 0.5,
        }

    runs = study(value)
    for claim, effect in (
        ("weight-rank-by-decay", 0.25),
        ("weight-rank-by-initialisation", 0.0),
        ("sparse-by-large-steps", 0.5),
        ("sparse-by-training", 0.6),
        ("norm-rises", 0.4),
        ("collapse", 0.75),
        ("data-adaptive", 0.5),
    ):
        finding, _ = measured(claim, runs)
        assert finding.effects == pytest.approx(dict.fromkeys(range(3), effect)), claim
    assert "8 at start, 4 at quarter, 2 at half, 0.5 at end" in measured("collapse", runs)[0].detail
    (resnet, mlp) = tables(runs, WHAT)
    assert (len(resnet.rows), len(mlp.rows)) == (15, 6)
    assert resnet.rows[0][0] == "plain training"
    titles = [drawing.title for drawing in figures(runs, WHAT)]
    assert titles == [
        "Fall of the rank by cause, resnet, block2",
        "Fall of the rank by cause, mlp, block2",
        "Rank at block2 against test error",
    ]


def test_a_diverged_run_is_not_dropped() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100.0 - 10 * step}

    runs = study(value)
    group = "resnet, large step size x5"
    history = {"epoch": [0.0, 1.0], "train/loss": [2.0, None], RANK: [100.0, None]}
    lost = dataclasses.replace(runs.run(group, 0.0, 2), history=history, diverged=True)
    every = [lost if (run.group, run.seed) == (group, 2) else run for run in runs._runs.values()]
    _, verdict = measured("large-steps", Runs(every))
    assert (verdict.word, verdict.n) == ("cannot tell", 3)
    assert "1 of 3 seeds gave no finite effect" in verdict.reason


def test_seeds_without_a_common_loss_are_told() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        stuck = group == "resnet, label noise 0.2" and seed == 0
        return {RANK: 50.0, **({"train/loss": 2.0} if stuck else {})}

    finding, verdict = measured("label-noise", study(value))
    assert sorted(finding.effects) == [1, 2]
    assert "2 of 3 seeds" in finding.detail
    assert verdict.n == 2


@pytest.mark.slow
def test_smoke_size_measures_everything(tmp_path: Path) -> None:
    results = execute(STUDY, STUDY.choose(size="smoke"), tmp_path, launcher=Local(workers=2))
    assert results["failures"] == []
    unmeasured = {c["name"] for c in results["claims"] if c["verdict"] == "no data here"}
    unmeasured -= ELSEWHERE
    assert unmeasured <= {"small-initialisation"}, "which may not get to a common loss so soon"
    assert all(run["history"]["weight-rank"][-1] > 0 for run in results["runs"])


@pytest.mark.slow
def test_one_arm_is_read(tmp_path: Path) -> None:
    plan = planned(size="smoke", overrides=("limit=300", "epochs=1"))
    reading = next(p.recipe for p in plan.runs if p.group == RESNET and p.recipe.rho == 0)
    folder = reading.run(tmp_path)  # type: ignore[attr-defined]
    last = read_history(folder / "history.parquet")[-1]
    assert 0 < last["weight-rank"] <= 1
    assert 0 < last["positive"] < 1
    assert last[collapse_column("start")] > 0
    assert last[collapse_column("end")] > 0
    assert {rank_column("block2"), rank_column("pool")} <= set(last)


def test_choice_has_no_exact_mode() -> None:
    with pytest.raises(InputError, match="has no exact mode"):
        STUDY.check(Choice(exact=True))
