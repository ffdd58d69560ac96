"""Whether λ_max predicts the gain: τ within ρ, its jackknife, and runs whose order is known."""

from __future__ import annotations

import math

import pytest
from made_runs import make_runs

from lowland.studies.balance import columns
from lowland.studies.balance.columns import REDUNDANT, Setting, Setup, group_of
from lowland.studies.balance.flatness import predicts, pseudo_values
from lowland.studies.effects import kendall, mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.verdict import Within, judge

SETTING = Setting(REDUNDANT, "")
SETUP = Setup("digit-dominoes", {"mlp": "MLP"}, (SETTING,), None, True, 568)
GROUP = group_of("mlp", SETTING)


def made(gain: dict[float, list[float]], seeds: int) -> Runs:
    """λ_max of SAM is e⁻ˢ that of plain training, at seed s; the gains are given."""

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        sharp = 2.718281828459045**-seed if rho else 1.0
        return {
            columns.SHARPNESS: sharp,
            columns.HARD: 0.3 - (gain[rho][seed] if rho else 0.0),
        }

    return Runs(
        make_runs(values, group=GROUP, rhos=(0.0, *gain), seeds=tuple(range(seeds)), evaluations=2)
    )


def test_flatter_with_larger_gain_is_predicted_wholly() -> None:
    found = predicts(made({0.1: [0.0, 0.1, 0.15, 0.2, 0.25]}, 5), SETUP, "mlp")
    assert list(found.effects.values()) == pytest.approx([1.0] * 5)
    assert "at ρ = 0.1" in found.detail


def test_gains_in_opposite_orders_cancel_over_rho() -> None:
    up = [0.0, 0.1, 0.15, 0.2, 0.25]
    found = predicts(made({0.1: up, 0.2: up[::-1]}, 5), SETUP, "mlp")
    assert list(found.effects.values()) == pytest.approx([0.0] * 5)


def test_the_mean_of_pseudo_values_is_tau_where_the_jackknife_is_unbiased() -> None:
    x, y = [0.3, 0.1, 0.9, 0.5, 0.7, 0.2], [1.0, 5.0, 3.0, 2.0, 6.0, 4.0]
    values = pseudo_values([(x, y)])
    assert mean(values) == pytest.approx(kendall(x, y)), "τ without ties is a U-statistic"
    assert len(set(values)) > 1


def test_equal_gains_tell_no_order() -> None:
    """No order is no evidence that there is none: neither alone nor beside one that tells."""
    found = predicts(made({0.1: [0.1] * 5}, 5), SETUP, "mlp")
    assert judge(list(found.effects.values()), Within(1 / 3), family=1).word == "cannot tell"
    up = [0.0, 0.1, 0.15, 0.2, 0.25]
    found = predicts(made({0.1: [0.1] * 5, 0.2: up}, 5), SETUP, "mlp")
    assert list(found.effects.values()) == pytest.approx([1.0] * 5)
    assert "1 of 2" in found.detail


def test_a_run_that_diverged_is_never_hidden_by_equal_ones() -> None:
    gains = {0.1: [0.1, 0.1, 0.1, 0.1, math.nan]}
    found = predicts(made(gains, 5), SETUP, "mlp")
    assert judge(list(found.effects.values()), Within(1 / 3), family=1).word == "cannot tell"


def test_over_rho_the_order_is_seen_beside() -> None:
    gain = {0.1: [0.0] * 4, 0.2: [0.1] * 4}

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        return {
            columns.SHARPNESS: 1 / (1 + rho),
            columns.HARD: 0.3 - (gain[rho][seed] if rho else 0.0),
        }

    runs = Runs(make_runs(values, group=GROUP, rhos=(0.0, 0.1, 0.2), seeds=(0, 1, 2, 3)))
    found = predicts(runs, SETUP, "mlp")
    assert list(found.beside["over ρ, within each seed"].values()) == [1.0] * 4
    assert all(map(math.isnan, found.effects.values())), "within a ρ nothing differs"


def test_three_seeds_are_too_few() -> None:
    with pytest.raises(NotMeasuredError, match="four of them"):
        predicts(made({0.1: [0.0, 0.1, 0.2]}, 3), SETUP, "mlp")
