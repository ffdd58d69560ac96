"""Effects of the claims on runs whose effects are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from made_overparam import WHAT, Columns, study, tens

from lowland.studies.overparam.arms import Arm
from lowland.studies.overparam.claims import claims
from lowland.studies.overparam.drawings import figures, panels, tables
from lowland.studies.overparam.slopes import slope
from lowland.studies.runs import Runs
from lowland.studies.study import Drawing, Finding, assess
from lowland.studies.verdict import Verdict

CLAIMS = {claim.name: claim for claim in claims(WHAT)}


def measured(name: str, runs: Runs) -> tuple[Finding, Verdict]:
    return assess(CLAIMS[name], runs, family=len(CLAIMS))


def effect(name: str, columns: Columns) -> dict[int, float]:
    return dict(measured(name, study(columns))[0].effects)


def all_of(value: float) -> Mapping[int, object]:
    return {seed: pytest.approx(value) for seed in range(3)}


def growing(arm: Arm, rho: float, seed: int) -> dict[str, float]:
    """At ρ = 0.2 the gain is 0.01 for every ten times the parameters, at 0.1 none, at 0.4 a loss.

    On test images it is half as much; with label noise ten times.
    """
    gain = {0.0: 0.0, 0.1: 0.0, 0.2: 0.01 * tens(arm), 0.4: -0.1}[rho]
    if arm.noise:
        gain *= 25 * arm.noise
    return {
        "validation/error": 0.6 + 0.01 * seed - gain,
        "test/error": 0.6 - gain / 2,
        "stopped": 0.3 - gain / 4,
    }


def test_the_gain_grows_by_the_slope_on_log_parameters() -> None:
    finding, _ = measured("gain-grows", study(growing))
    assert finding.effects == all_of(0.01)
    assert finding.beside["on test images"] == all_of(0.005)
    assert finding.beside["with early stopping"] == all_of(0.0025)
    assert finding.beside["label noise 20%"] == all_of(0.05)
    assert finding.beside["label noise 40%"] == all_of(0.1)
    assert "100-100 4." in finding.detail
    at_loss = finding.beside["at matched train loss"]
    assert at_loss == all_of(0.01), "both losses are 0.01 at the end"


def test_no_run_takes_part_in_the_choice_of_its_own_radius() -> None:
    def lucky(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        """With noise ρ = 0.4 is far better for seed 1 alone; ρ = 0.1 a little better for all."""
        if arm.noise and rho == 0.4:
            return {"validation/error": 0.05 if seed == 1 else 0.2}
        return {"validation/error": 0.1 - 0.001 * (rho == 0.1)}

    # seed 1 is judged at the 0.1 that the others choose, not at its lucky 0.4
    assert effect("label-noise", lucky) == all_of(0.0)


def test_the_best_radius_grows() -> None:
    best = (0.14, 0.2, 0.28)

    def moving(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        place = best[WHAT.sizes.index(arm.hidden)] if arm.hidden in WHAT.sizes else 0.2
        return {"validation/error": 0.1 + math.log10((rho or 0.05) / place) ** 2}

    finding, _ = measured("radius-grows", study(moving))
    x = [tens(Arm(hidden=h)) for h in WHAT.sizes]
    assert finding.effects == all_of(slope(x, [math.log10(rho) for rho in best]))
    assert "4-4 0.14, 20-20 0.2, 100-100 0.28" in finding.detail
    assert "in 0 cases" in finding.detail


def test_one_radius_has_no_best_one() -> None:
    """Between ρ = 0 and one other the slope would say where SAM gains, not how ρ* moves."""

    def wide_gains(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        return {"validation/error": 0.3 - 0.1 * rho * (tens(arm) - 3)}

    runs = study(wide_gains)
    kept = [run for (_, rho, _), run in runs._runs.items() if rho in (0.0, 0.1)]
    finding, verdict = measured("radius-grows", Runs(kept))
    assert verdict.word == "no data here"
    assert "two values above 0" in verdict.reason
    assert measured("radius-grows", runs)[1].word != "no data here"
    assert not finding.effects


def test_matched_train_loss_stands_beside_every_gain() -> None:
    """All train losses are equal at all times, so that it is the gain at the end."""
    for name in (
        "gain-grows",
        "label-noise",
        "label-noise-growth",
        "sparse-random",
        "sparse-snip",
    ):
        finding, _ = measured(name, study(growing))
        beside = finding.beside["at matched train loss"]
        assert beside == {s: pytest.approx(v) for s, v in finding.effects.items()}, name
    for name in ("regularisation-growth", "regularisation-gain"):
        finding, _ = measured(name, study(growing))
        beside = finding.beside["weight decay, at matched train loss"]
        assert beside == {s: pytest.approx(v) for s, v in finding.beside["weight decay"].items()}


def test_plain_training_that_is_best_is_counted_and_stands_below_the_grid() -> None:
    def none(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        return {"validation/error": 0.1 + rho}

    finding, _ = measured("radius-grows", study(none))
    assert finding.effects == all_of(0.0)
    assert "in 9 cases" in finding.detail
    assert "4-4 0.05" in finding.detail


def test_effects_that_agree_to_the_last_digit_still_have_an_interval() -> None:
    """Errors move in steps of an image, and ρ* by steps of the grid where it is at an end."""
    x = [tens(Arm(hidden=h)) for h in WHAT.sizes]
    spread = sum((a - sum(x) / 3) ** 2 for a in x)
    most = max(abs(a - sum(x) / 3) for a in x) / spread
    runs = study(growing)
    assert measured("gain-grows", runs)[0].resolution == pytest.approx(0.01 * most)
    assert measured("label-noise", runs)[0].resolution == 0.01
    finding, verdict = measured("radius-grows", runs)
    assert finding.resolution == pytest.approx(math.log10(2) * most)
    assert len(set(finding.effects.values())) == 1
    assert verdict.interval is not None
    assert verdict.interval.high > verdict.interval.low


def test_label_noise() -> None:
    wide = tens(Arm(hidden=WHAT.widest))
    assert effect("label-noise", growing) == all_of(0.01 * wide * 9)
    finding, _ = measured("label-noise-growth", study(growing))
    assert finding.effects == all_of(0.09)
    assert finding.beside["on test images"] == all_of(0.045)


def test_sparse_networks_are_held_against_dense_ones_at_the_same_radii() -> None:
    def sparse(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        """Masks gain 0.05, dense ones 0.02; at ρ = 0.4, which masks do not have, dense 0.09."""
        gain = (0.05 if arm.sparsity == 0.5 else 0.07) if arm.mask else 0.02
        gain = {0.0: 0.0, 0.1: 0.0, 0.2: gain, 0.4: 0.09}[rho]
        return {"validation/error": 0.3 - gain, "test/error": 0.2 - gain}

    for name in ("sparse-random", "sparse-snip"):
        finding, _ = measured(name, study(sparse))
        assert finding.effects == all_of(0.04)
        assert finding.beside["sparsity 50%"] == all_of(0.03)
        assert finding.beside["sparsity 90%"] == all_of(0.05)
        assert finding.beside["against the large network, dense"] == all_of(0.04)


def test_choices_at_the_edge_of_the_grid_are_said() -> None:
    """A gain at the largest ρ that could be chosen may be too small, and a best ρ too."""

    def ever_better(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        best = 0.4 if arm.noise else 0.2
        return {"validation/error": 0.1 + abs(rho - best)}

    runs = study(ever_better)
    (gain, _), (noisy, _) = (measured(name, runs) for name in ("gain-grows", "label-noise"))
    assert gain.detail.endswith("The largest ρ of the grid, 0.4, was chosen in 0 of 9.")
    assert "0.4, was chosen in 9 of 9; a larger one may gain more." in noisy.detail
    sparse = measured("sparse-random", runs)[0].detail
    for which in ("masked networks", "dense ones"):
        assert f"the {which}, 0.2, was chosen in 6 of 6; a larger one may gain more." in sparse
    assert "the largest ρ was in 0," in measured("radius-grows", runs)[0].detail
    top = study(lambda arm, rho, seed: {"validation/error": 0.9 - rho})
    assert "the largest ρ was in 9," in measured("radius-grows", top)[0].detail


def test_regularisation_by_decay_early_stopping_and_size() -> None:
    def regular(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        """Gain per ten times the parameters: 0.01 plain, 0.03 decay, 0.02 stopped, 0.06 both."""
        end = (0.03 if arm.decay else 0.01) * tens(arm) * (rho == 0.2)
        stopped = (0.06 if arm.decay else 0.02) * tens(arm) * (rho == 0.2)
        return {"validation/error": 0.7 - end, "test/error": 0.7 - end, "stopped": 0.5 - stopped}

    growth, _ = measured("regularisation-growth", study(regular))
    assert growth.effects == all_of(0.015)
    assert growth.beside["weight decay"] == all_of(0.02)
    assert growth.beside["early stopping"] == all_of(0.01)
    assert growth.beside["both"] == all_of(0.05)
    gain, _ = measured("regularisation-gain", study(regular))
    assert gain.effects == all_of(0.015 * tens(Arm(hidden=WHAT.widest)))


def solutions(arm: Arm, rho: float, seed: int) -> dict[str, float]:
    """ln λ is ±x around 0 at one train loss, x growing by 1 for ten times the parameters.

    SAM's λ is smaller by a factor e^(0.5x) at the end, and its distance is 0.2x of the way.
    """
    x, sign = tens(arm), (-1.0, 0.0, 1.0)[seed]
    return {
        "validation/error": 0.3 - 0.01 * x * (rho == 0.2),
        "level/lambda_max": math.exp(sign * x),
        "lambda_max": math.exp(-0.5 * x * (rho == 0.2) - x * (rho == 0.1)),
        "distance": 0.6 * x * (rho == 0.2) + 0.3 * x * (rho == 0.1),
        "travelled": 3.0,
    }


def test_the_space_of_solutions() -> None:
    finding, _ = measured("solution-space", study(solutions))
    # |±x - median of (0, ∓x)| = 1.5x, |0 - median of ±x| = 0
    assert finding.effects == {0: pytest.approx(1.5), 1: pytest.approx(0), 2: pytest.approx(1.5)}
    order, _ = measured("needs-variability", study(solutions))
    assert order.effects == all_of(1.0)


def test_sizes_that_are_not_at_the_train_loss_are_named() -> None:
    def some(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        values = solutions(arm, rho, seed)
        if arm.hidden == (4, 4) and seed == 2:
            values = {k: v for k, v in values.items() if not k.startswith("level")}
        return values

    finding, _ = measured("solution-space", study(some))
    assert finding.effects[0] == pytest.approx(1.5)
    assert "Not at that loss with every seed: 4-4." in finding.detail
    _, verdict = measured("needs-variability", study(some))
    assert verdict.word == "no data here"


def test_distance_and_sharpness() -> None:
    finding, _ = measured("bias-distance", study(solutions))
    assert finding.effects == all_of(0.2)
    sharp, _ = measured("bias-sharpness", study(solutions))
    assert sharp.effects == all_of(0.5)
    assert sharp.beside["at equal train loss, ρ = 0.2"] == all_of(0.0)


def test_a_run_that_diverged_is_never_dropped() -> None:
    def lost(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        values = growing(arm, rho, seed)
        if rho and seed == 1 and arm == Arm(hidden=WHAT.widest):
            values = dict.fromkeys(values, math.nan)
        return values

    finding, verdict = measured("gain-grows", study(lost))
    assert verdict.word == "cannot tell"
    assert math.isnan(finding.effects[1])


def test_figures_have_no_means_of_survivors() -> None:
    def lost(arm: Arm, rho: float, seed: int) -> dict[str, float]:
        gone = arm.hidden == WHAT.widest and seed == 1 and not arm.mask
        distance = math.nan if gone and rho else rho
        return {"distance": distance, "travelled": 1.0, "lambda_max": 2.0 + rho}

    by_title = {drawing.title: drawing for drawing in figures(study(lost), WHAT)}
    drawn = by_title["Distance between the ends of SAM and SGD, by ρ"]
    assert isinstance(drawn, Drawing)
    assert drawn.lines[0].y == [pytest.approx(0.1), pytest.approx(0.1), None]


def test_what_was_not_run_is_no_data() -> None:
    for name in CLAIMS:
        assert measured(name, Runs([]))[1].word == "no data here"
    assert figures(Runs([]), WHAT) == []
    assert tables(Runs([]), WHAT) == []
    one_seed = study(growing, seeds=(0,))
    assert "one seed" in measured("gain-grows", one_seed)[1].reason


def test_figures_and_tables_show_the_effects() -> None:
    runs = study(lambda arm, rho, seed: {**solutions(arm, rho, seed), **growing(arm, rho, seed)})
    drawn = {drawing.title: drawing for drawing in figures(runs, WHAT)}
    gains = drawn["Gain of SAM over SGD against parameters, at the end"]
    clean = gains.lines[0]  # type: ignore[union-attr]
    assert clean.x == [WHAT.count(h) for h in WHAT.sizes]
    assert clean.y == pytest.approx([0.01 * tens(Arm(hidden=h)) for h in WHAT.sizes])
    heat = drawn["Gain by size and ρ, 0% wrong labels"]
    assert heat.rows == ["4-4", "20-20", "100-100"]  # type: ignore[union-attr]
    assert heat.values[2] == pytest.approx([0, clean.y[2], -0.1])  # type: ignore[union-attr]
    sparse = drawn["Gain against active parameters, dense and sparse"]
    assert [len(line.x) for line in sparse.lines] == [3, 2, 2]  # type: ignore[union-attr]
    assert len(drawn) == 12
    sheets = tables(runs, WHAT)
    assert [sheet.rows[0][:2] for sheet in sheets] == [["4-4", 330]] * 3
    assert sheets[0].rows[0][5] == f"{0.01 * math.log10(330):.2%}"
    assert {panel.group for panel in panels(WHAT)} == {
        "mlp 100-100",
        "mlp 100-100, label noise 0.4",
    }
