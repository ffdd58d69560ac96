"""Every claim of the low-rank study on runs whose effects are known."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from made_runs import make_runs

from lowland.studies.low_rank.claims import claims
from lowland.studies.low_rank.columns import GROUPS, Measured, knn_column, rank_column
from lowland.studies.runs import Run, Runs
from lowland.studies.study import Claim, Finding, assess
from lowland.studies.verdict import Verdict

WHAT = Measured(block="block2", others=("block1",), test_images=1000, transfer_images=500)
CLAIMS = {claim.name: claim for claim in claims(WHAT)}
RANK = rank_column("block2")
KNN_VALIDATION, KNN_TEST = knn_column("block2", "validation"), knn_column("block2", "test")


def measured(name: str, runs: list[Run]) -> tuple[Finding, Verdict]:
    return assess(CLAIMS[name], Runs(runs), family=len(CLAIMS))


def ranks(rho: float, seed: int, step: int) -> dict[str, float]:
    """Rank 100 at the start, then 80 + seed at ρ = 0 and lower in proportion to ρ."""
    return {RANK: 100.0 if step == 0 else (80 + seed) * (1 - rho)}


def test_names_and_thresholds_are_what_they_were_when_the_study_was_fixed() -> None:
    found = {name: dataclasses.astuple(claim.rule)[0] for name, claim in CLAIMS.items()}
    assert found == {
        "rank-at-end": 0.05,
        "rank-throughout": 0.05,
        "rank-from-initialisation": 0.05,
        "rank-at-other-blocks": 0.05,
        "test-error": 0.0025,
        "knn-error": 0.0025,
        "rank-on-test": 0.05,
        "rank-falls-on-test": 0.05,
        "order-across-thresholds": 0.2,
        "rank-at-matched-loss": 0.05,
        "error-at-large-rho": 0.0025,
        "rank-in-both-settings": 0.05,
        "rank-on-test-post-activation": 0.05,
        "sudden-drop": 0.05,
        "gradual-increase": 0.05,
        "drop-with-large-steps": 0.05,
        "drop-by-rho-and-step": 0.05,
        "augmentation-reveals": 0.05,
        "decay-is-not-enough": 0.05,
        "collapse-at-last-block": 0.5,
        "collapse-interferes": 0.05,
        "collapse-in-a-cascade": 0.5,
    }


def test_rank_at_the_end() -> None:
    finding, verdict = measured("rank-at-end", make_runs(ranks))
    assert finding.effects == pytest.approx({0: 0.4, 1: 0.4, 2: 0.4})
    assert verdict.word == "holds"
    assert verdict.interval is not None
    assert verdict.interval.low < 0.4 < verdict.interval.high  # agreeing seeds are no point
    assert "81.0 at 0," in finding.detail
    assert "τ of falling order with ρ, mean over seeds: 1.00" in finding.detail
    assert finding.beside == {}  # nothing else was measured


def test_rank_throughout_is_the_weaker_half_without_initialisation() -> None:
    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100 * (1 - rho * step)}

    runs = make_runs(values, rhos=(0.0, 0.1), evaluations=5)
    finding, _ = measured("rank-throughout", runs)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.15))  # of .1, .2
    assert finding.beside["second half of training"][0] == pytest.approx(0.35)  # of .3, .4
    assert finding.beside["all of training"][0] == pytest.approx(0.25)
    assert "12 of 12 evaluations" in finding.detail
    one = make_runs(values, rhos=(0.0, 0.1), evaluations=2)
    assert measured("rank-throughout", one)[1].word == "no data here"


def test_a_rank_that_is_lower_at_the_end_alone_is_not_lower_throughout() -> None:
    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100 * (1 - (rho if step == 4 else 0))}

    finding, verdict = measured("rank-throughout", make_runs(values, evaluations=5))
    assert finding.beside["all of training"][0] == pytest.approx(0.1)
    assert verdict.word == "does not hold"


def test_other_blocks_count_by_the_smallest_fall() -> None:
    other, last = rank_column("block1"), rank_column("pool")

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100.0, other: 100 - 50 * rho, last: 100.0}

    what = dataclasses.replace(WHAT, others=("block1", "pool"))
    found = {claim.name: claim for claim in claims(what)}
    finding, _ = assess(found["rank-at-other-blocks"], Runs(make_runs(values)), family=9)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.2))
    alone = dataclasses.replace(WHAT, others=("pool",))
    found = {claim.name: claim for claim in claims(alone)}
    _, verdict = assess(found["rank-at-other-blocks"], Runs(make_runs(values)), family=9)
    assert verdict.word == "no data here"


def test_the_fall_on_test_images_is_judged_apart() -> None:
    on_test = rank_column("block2", split="test")

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100 * (1 - rho), on_test: 100.0 + seed}

    finding, verdict = measured("rank-falls-on-test", make_runs(values))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.0))
    assert finding.beside["on as many train images"][0] == pytest.approx(0.4)
    assert verdict.word == "does not hold"


@pytest.mark.parametrize(
    ("plain", "sam", "weaker"), [(80.0, 40.0, 0.2), (50.0, 45.0, 0.1), (120.0, 60.0, -0.2)]
)
def test_initialisation_takes_the_weaker_part(plain: float, sam: float, weaker: float) -> None:
    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100.0 if step == 0 else sam if rho else plain}

    finding, _ = measured("rank-from-initialisation", make_runs(values))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), weaker))
    assert finding.beside["plain training alone"][0] == pytest.approx(1 - plain / 100)
    assert finding.beside["SAM on top"][0] == pytest.approx(1 - sam / plain)


def errors(rho: float, seed: int, step: int) -> dict[str, float]:
    """ρ = 0.1 is best on validation; 0.4 would be best on test."""
    return {
        "validation/error": {0.0: 0.05, 0.1: 0.02, 0.4: 0.03}[rho],
        "test/error": {0.0: 0.06, 0.1: 0.04, 0.4: 0.01}[rho] + 0.001 * seed,
        KNN_VALIDATION: {0.0: 0.2, 0.1: 0.3, 0.4: 0.1}[rho],
        KNN_TEST: {0.0: 0.20, 0.1: 0.30, 0.4: 0.15}[rho],
    }


def test_rho_is_chosen_on_validation_never_on_test() -> None:
    finding, _ = measured("test-error", make_runs(errors))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.02))
    assert "ρ = 0.1 (3 of 3 seeds)" in finding.detail
    assert finding.beside["at ρ = 0.4"][0] == pytest.approx(0.05)
    assert finding.resolution == 1 / 1000

    def other_test(rho: float, seed: int, step: int) -> dict[str, float]:
        return {**errors(rho, seed, step), "test/error": 0.5 - rho}

    moved, _ = measured("test-error", make_runs(other_test))
    assert "ρ = 0.1 (3 of 3 seeds)" in moved.detail


def test_neighbours_have_a_choice_of_their_own() -> None:
    runs = make_runs(errors, group="transfer")
    finding, _ = measured("knn-error", runs)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.05))
    assert "ρ = 0.4 (3 of 3 seeds)" in finding.detail
    assert finding.resolution == 1 / 500


def test_ranks_on_test_that_are_off_both_ways_are_not_close() -> None:
    on_test = rank_column("block2", split="test")

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100.0, on_test: {0.0: 130.0, 0.1: 100.0, 0.4: 70.0}[rho]}

    finding, verdict = measured("rank-on-test", make_runs(values))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.2))
    assert finding.beside["with its sign"] == pytest.approx(dict.fromkeys(range(3), 0.0), abs=1e-12)
    assert verdict.word == "does not hold"
    assert "30.0%" in finding.detail


def test_order_across_thresholds() -> None:
    columns = {
        (center, v): rank_column("block2", center=center, variance=v)
        for center in ("unit", "example")
        for v in (0.95, 0.99, 0.999)
    }

    def same(rho: float, seed: int, step: int) -> dict[str, float]:
        return {name: 1000 * v * (1 - rho) for (_, v), name in columns.items()}

    finding, verdict = measured("order-across-thresholds", make_runs(same, seeds=tuple(range(6))))
    assert set(finding.effects.values()) == {0.0}
    assert finding.resolution == pytest.approx(1 / 3)
    assert verdict.interval is not None
    assert verdict.interval.high > 0.1  # three values of ρ can show little

    def one_reversed(rho: float, seed: int, step: int) -> dict[str, float]:
        return {
            name: 1000 * (1 + rho if v == 0.95 else 1 - rho) for (_, v), name in columns.items()
        }

    finding, verdict = measured("order-across-thresholds", make_runs(one_reversed))
    assert set(finding.effects.values()) == {1.0}  # τ is -1 and 1, mean 0
    assert verdict.word != "holds"


def test_matched_loss_undoes_a_delay() -> None:
    """ρ only slows training down: at equal steps the rank differs, at equal loss it does not."""

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        time = step * (1 - rho)
        return {RANK: 1000 - 100 * time, "train/loss": math.exp(-time)}

    runs = make_runs(values, rhos=(0.0, 0.5), evaluations=9)
    at_end, _ = measured("rank-at-end", runs)
    matched, verdict = measured("rank-at-matched-loss", runs)
    assert at_end.effects[0] == pytest.approx(1 - 600 / 200)
    assert matched.effects == pytest.approx(dict.fromkeys(range(3), 0.0), abs=1e-12)
    assert verdict.word == "does not hold"
    assert "3 of 3 seeds" in matched.detail


def test_seeds_without_a_common_loss_are_counted() -> None:
    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        stuck = seed == 0 and rho > 0
        return {RANK: 100 * (1 - rho), "train/loss": 2.0 if stuck else math.exp(-step)}

    finding, verdict = measured("rank-at-matched-loss", make_runs(values))
    assert sorted(finding.effects) == [1, 2]
    assert "2 of 3 seeds" in finding.detail
    assert verdict.n == 2

    def all_stuck(rho: float, seed: int, step: int) -> dict[str, float]:
        return {RANK: 100.0, "train/loss": 2.0}

    _, verdict = measured("rank-at-matched-loss", make_runs(all_stuck))
    assert verdict.word == "no data here"
    assert "no seed has a train loss" in verdict.reason


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_nothing_measured_is_no_data_here(claim: Claim) -> None:
    for runs in ([], make_runs(lambda rho, seed, step: {"weight-norm": 1.0})):
        _, verdict = assess(claim, Runs(runs), family=8)
        assert (verdict.word, verdict.interval) == ("no data here", None)
        assert verdict.reason


def everything(rho: float, seed: int, step: int) -> dict[str, float]:
    columns: dict[str, Any] = {
        rank_column(block, split=split, center=center, variance=v): 100 * v * (1 - rho) + seed
        for block in ("block1", "block2", "pool")
        for split in ("train", "test")
        for center in ("unit", "example")
        for v in (0.95, 0.99, 0.999)
    }
    pool = {rank_column("pool"): 100.0 - 60.0 * (step > 0)}
    return {**columns, **pool, **errors(rho, seed, step), "train/loss": math.exp(-step)}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_one_seed_is_never_a_result(claim: Claim) -> None:
    runs = [
        run
        for group in GROUPS
        for run in make_runs(everything, group=group, seeds=(0,), evaluations=5)
    ]
    _, verdict = assess(claim, Runs(runs), family=8)
    assert verdict.interval is None
    assert verdict.word in ("cannot tell", "no data here")
    assert "one seed" in verdict.reason


@pytest.mark.parametrize("name", [name for name in CLAIMS if "error" not in name])
def test_a_diverged_run_is_not_dropped(name: str) -> None:
    runs = [run for group in GROUPS for run in make_runs(everything, group=group, evaluations=5)]
    # these are of plain training, all else of the largest ρ too
    lost = 0.0 if name.startswith(("collapse", "drop-with")) else 0.4
    history = {"epoch": [0.0, 1.0], "train/loss": [2.0, None]}
    runs = [
        dataclasses.replace(run, history=history, diverged=True)
        if (run.rho, run.seed) == (lost, 2)
        else run
        for run in runs
    ]
    _, verdict = measured(name, runs)
    assert (verdict.word, verdict.interval) == ("cannot tell", None)
    assert "1 of 3 seeds gave no finite effect" in verdict.reason


def test_other_definitions_are_beside() -> None:
    finding, _ = measured("rank-at-end", make_runs(everything))
    assert list(finding.beside) == [
        "published centring",
        "at 95% of the variance",
        "at 99.9% of the variance",
        "at block1",
    ]
