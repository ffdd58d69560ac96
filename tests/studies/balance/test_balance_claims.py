"""Claims of the study on runs whose effects are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
from made_runs import make_runs

from lowland.studies.balance import columns
from lowland.studies.balance.claims import claims
from lowland.studies.balance.columns import ALONE, REDUNDANT, Setting, Setup, group_of
from lowland.studies.balance.drawings import figures, panels, tables
from lowland.studies.balance.paired import by_validation, means_at_equal_losses
from lowland.studies.runs import Run, Runs
from lowland.studies.study import Finding, assess
from lowland.studies.verdict import Verdict

SETTINGS = (Setting(REDUNDANT, "d:1"), Setting("spurious 0.95", "d:0.95"))
SETUP = Setup("digit-dominoes", {"mlp": "MLP"}, SETTINGS, Setting(ALONE, "d:none"), True, 568)
RHOS, SEEDS = (0.0, 0.1, 0.4), (0, 1, 2, 3)
Value = Callable[[str, float, int, int], dict[str, float]]


def usual(rho: float, step: int) -> dict[str, float]:
    """Train losses 1, e⁻², e⁻⁴, ...; SAM's are e⁻¹ behind."""
    late = 0.5 if rho and step else 0.0
    return {
        columns.TRAIN: math.exp(-2 * (step - late)),
        columns.VALIDATION: 0.0,
        columns.VALIDATION_LOSS: 0.5 if rho == 0.4 else 0.6,
        columns.HARD: 0.3,
        columns.EASY: 0.01,
        columns.HARD_STRONG: 0.4,
        columns.ORACLE_PROBE: 0.3,
        columns.ORACLE_WORST: 0.5,
        columns.TEST: 0.2,
        columns.WORST: 0.5,
        columns.EASY_EFFECT: float(step),
        columns.SHARE: 0.2,
        columns.SHARE_HERE: 0.2,
        columns.SHARPNESS: 1.0,
    }


def study(value: Value, *, setup: Setup = SETUP, seeds: tuple[int, ...] = SEEDS) -> Runs:
    found: list[Run] = []
    for group in [*setup.groups, *(group_of(n, SETUP.alone) for n in setup.networks)]:  # type: ignore[arg-type]

        def row(rho: float, seed: int, step: int, group: str = group) -> dict[str, float]:
            return usual(rho, step) | value(group, rho, seed, step)

        rhos = (0.0,) if ALONE in group else RHOS
        found += make_runs(row, group=group, rhos=rhos, seeds=seeds, evaluations=4)
    return Runs(found)


def judged(name: str, runs: Runs, setup: Setup = SETUP) -> tuple[Finding, Verdict]:
    by_name = {claim.name: claim for claim in claims(setup)}
    return assess(by_name[name], runs, family=len(by_name))


def test_plain_training_falls_for_the_simple_feature() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        start = 0.05 if step == 0 else 0.0
        return {columns.HARD: (0.04 if ALONE in group else 0.12) + start * (ALONE not in group)}

    finding, verdict = judged("mlp-falls-redundant", study(value))
    assert list(finding.effects.values()) == pytest.approx([0.08] * 4)
    assert verdict.word == "holds"
    assert list(finding.beside["at equal train loss"].values()) == pytest.approx([0.08] * 4)
    start = finding.beside["before training, by the inputs alone"]
    assert list(start.values()) == pytest.approx([0.13] * 4)


def test_gain_is_that_at_the_rho_that_validation_chooses() -> None:
    """The validation errors are equal, so the loss decides for the largest ρ."""

    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        return {columns.HARD: {0.0: 0.2, 0.1: 0.25, 0.4: 0.17}[rho], columns.EASY: 0.02 - rho / 100}

    finding, verdict = judged("mlp-improves-spurious-0.95", study(value))
    assert list(finding.effects.values()) == pytest.approx([0.03] * 4)
    assert verdict.word == "holds"
    assert "ρ = 0.4 (4 of 4 seeds)" in finding.detail
    assert list(finding.beside["ρ = 0.1"].values()) == pytest.approx([-0.05] * 4)
    assert list(finding.beside["the simple feature"].values()) == pytest.approx([0.004] * 4)
    # the oracle's column is the same at all ρ: the smallest
    oracle = finding.beside["at the ρ of an oracle, chosen on balanced validation data"]
    assert list(oracle.values()) == pytest.approx([-0.05] * 4)
    assert "by last-layer retraining's probe" not in finding.beside, "it was not measured"
    assert finding.resolution == 1 / 568


def test_the_error_comes_before_the_loss() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        return {columns.VALIDATION: 0.004 if rho == 0.4 else 0.0}

    pairs = by_validation(study(value), "mlp, redundant")
    assert set(pairs.rho.values()) == {0.1}


def test_worst_group_is_judged_where_the_simple_feature_misleads() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        return {columns.WORST: 0.5 - rho / 4, columns.TEST: 0.3 + rho / 10}

    names = [claim.name for claim in claims(SETUP)]
    assert "mlp-worst-group-redundant" not in names
    finding, verdict = judged("mlp-worst-group-spurious-0.95", study(value))
    assert list(finding.effects.values()) == pytest.approx([0.1] * 4)
    assert verdict.word == "holds"
    assert list(finding.beside["the mean over groups"].values()) == pytest.approx([-0.04] * 4)


def test_shares_are_compared_at_equal_losses() -> None:
    """The share is a function of log loss, 3 points higher with SAM: the lag does not show."""

    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        done = -math.log(usual(rho, step)[columns.TRAIN])
        share = 0.5 - 0.05 * done + (0.03 if rho else 0.0)
        return {columns.SHARE: share, columns.SHARE_HERE: share - (0.01 if rho else 0.0)}

    finding, verdict = judged("mlp-suppresses-redundant", study(value))
    assert list(finding.effects.values()) == pytest.approx([0.03] * 4)
    assert verdict.word == "holds"
    same = finding.beside["at the same weights, w + ε against w"]
    assert list(same.values()) == pytest.approx([0.01] * 4)


def test_a_seed_without_a_common_loss_is_never_dropped_from_the_shares() -> None:
    """SAM of seed 2 diverged after its first evaluation at every ρ; the other three agree."""

    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        row = {columns.SHARE: 0.25 if rho else 0.2}
        if rho and step and seed == 2:
            row |= {columns.TRAIN: math.nan}
        return row

    finding, verdict = judged("mlp-suppresses-redundant", study(value))
    assert math.isnan(finding.effects[2])
    assert verdict.word == "cannot tell"
    assert [finding.effects[s] for s in (0, 1, 3)] == pytest.approx([0.05] * 3)
    for name in ("mlp-improves-redundant", "mlp-balances"):
        beside = judged(name, study(value))[0].beside["at equal train loss"]
        assert math.isnan(beside[2]), "a mean of the other three would be one of survivors"


def test_plain_training_that_never_learns_is_no_survivor() -> None:
    """Seed 1 starts at the lowest loss that it has: no loss is first reached by both."""

    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        stuck = seed == 1 and ALONE not in group
        return {columns.TRAIN: 1.0 + step} if stuck else {}

    beside = judged("mlp-falls-redundant", study(value))[0].beside["at equal train loss"]
    assert math.isnan(beside[1])
    assert math.isfinite(beside[0])


def test_mean_over_equal_losses_is_over_levels_that_both_reach() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        return {columns.SHARE: -math.log(usual(rho, step)[columns.TRAIN])}

    runs = study(value)
    plain, sam = (runs.run("mlp, redundant", rho, 0) for rho in (0.0, 0.4))
    found = means_at_equal_losses(plain, sam, columns.SHARE)
    assert found is not None
    # evenly in the log from 0.9 of the loss at the start down to e⁻⁵
    assert found == pytest.approx([(5 - math.log(0.9)) / 2] * 2)


def test_adaptive_suppression_grows_with_what_is_learned() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        rise = 0.01 * step if "redundant" in group else -0.01 * step
        return {columns.SHARE: 0.2 + (rise if rho == 0.4 else 0.0)}

    finding, _ = judged("mlp-adaptive", study(value))
    assert list(finding.beside["τ: mlp, redundant"].values()) == [1.0] * 4
    assert list(finding.beside["τ: mlp, spurious 0.95"].values()) == [-1.0] * 4
    assert list(finding.effects.values()) == [0.0] * 4


def test_balance_is_the_gap_between_both_features() -> None:
    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        worse = 0.02 if rho else 0.0
        return {columns.HARD: 0.3 - worse, columns.EASY: 0.01 + worse}

    finding, verdict = judged("mlp-balances", study(value))
    assert list(finding.effects.values()) == pytest.approx([0.04] * 4)
    assert verdict.word == "holds"
    assert list(finding.beside["at equal train loss"].values()) == pytest.approx([0.04] * 4)


def test_named_data_have_rows_that_say_how_to_give_them() -> None:
    nothing: Value = lambda *_: {}  # noqa: E731
    for name, place in (("cifar-mnist", "mnist=PATH"), ("waterbirds", "FOLDER")):
        _, verdict = judged(f"on-{name}", study(nothing))
        assert verdict.word == "no data here"
        assert place in verdict.reason
    found = Setup("waterbirds", {"mlp": "net"}, (Setting("as given", "w"),), None, False, 100)
    finding, verdict = judged("on-waterbirds", study(nothing, setup=found), found)
    assert len(finding.effects) == 4
    _, verdict = judged("mlp-falls-as-given", study(nothing, setup=found), found)
    assert (verdict.word, "hard feature alone" in verdict.reason) == ("no data here", True)


def test_what_was_read_at_the_end_alone_has_no_curves() -> None:
    """Recipes measure probes at the end: no equal loss, no shares."""

    def value(group: str, rho: float, seed: int, step: int) -> dict[str, float]:
        return {columns.HARD: 0.2 - rho / 10}

    def last(run: Run) -> Run:
        kept = {columns.HARD, columns.EASY, columns.WORST}
        history = {
            name: [*[None] * (len(values) - 1), values[-1]] if name in kept else values
            for name, values in run.history.items()
            if name not in (columns.SHARE, columns.SHARE_HERE)
        }
        return dataclasses.replace(run, history=history)

    runs = Runs([last(run) for run in study(value)._runs.values()])
    finding, verdict = judged("mlp-improves-redundant", runs)
    assert list(finding.effects.values()) == pytest.approx([0.04] * 4)
    assert "at equal train loss" not in finding.beside
    _, verdict = judged("mlp-suppresses-redundant", runs)
    assert verdict.word == "no data here"


def test_figures_and_tables_of_what_there_is() -> None:
    runs = study(lambda *_: {})
    drawn = figures(runs, SETUP)
    assert len(drawn) == 6
    assert drawn[0].lines[0].x == pytest.approx([1.0, math.exp(-2), math.exp(-4), math.exp(-6)])
    (table,) = tables(runs, SETUP)
    assert [row[0] for row in table.rows][-1] == "mlp, hard alone"
    assert table.rows[0][3] == 30.0
    assert len(panels(SETUP)) == 4


def test_claims_have_names_of_their_own_and_reasons() -> None:
    all_claims = claims(SETUP)
    assert len({claim.name for claim in all_claims}) == len(all_claims)
    assert all(claim.reason and claim.sentence.endswith(".") for claim in all_claims)
