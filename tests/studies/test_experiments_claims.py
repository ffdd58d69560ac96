"""Every claim of the experiments on runs whose effects are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lowland.studies.methods.experiments import EXPERIMENTS
from lowland.studies.methods.experiments.effects import told_by_others
from lowland.studies.methods.experiments.mup.findings import WIDTHS
from lowland.studies.methods.experiments.mup.sweep import RHO
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Claim, Finding, assess
from lowland.studies.verdict import Verdict

CLAIMS: dict[str, Claim] = {c.name: c for module in EXPERIMENTS for c in module.claims()}
SEEDS = (0, 1, 2)
Row = dict[str, float]


def made(
    group: str,
    rows: Callable[[float, int], Sequence[Row]],
    rhos: Sequence[float],
    seeds: Sequence[int] = SEEDS,
    **facts: Any,
) -> list[Run]:
    runs = []
    for rho in rhos:
        for seed in seeds:
            history = rows(rho, seed)
            names = dict.fromkeys(name for row in history for name in row)
            columns = {name: [row.get(name) for row in history] for name in names}
            place = {"group": group, "rho": rho, "seed": seed, "method": "m"}
            runs.append(Run(name=f"{group}-{rho}-{seed}", history=columns, **place, **facts))
    return runs


def each(effect: float) -> dict[int, float]:
    """The same effect for every seed."""
    return dict.fromkeys(SEEDS, effect)


def measured(name: str, runs: list[Run]) -> tuple[Finding, Verdict]:
    return assess(CLAIMS[name], Runs(runs), family=len(CLAIMS))


def test_names_and_thresholds_are_what_they_were_when_the_study_was_fixed() -> None:
    found = {name: dataclasses.astuple(claim.rule)[0] for name, claim in CLAIMS.items()}
    assert found == {
        "trace-sam-lowers-its-own": 0.1,
        "det-sam-lowers-its-own": 0.1,
        "frob-sam-lowers-its-own": 0.1,
        "mup2-transfers": 1.0,
        "sam-does-not-transfer": 1.0,
        "sam-perturbs-last-layer-only": 0.3,
        "mup2-perturbs-every-layer": 0.3,
        "balanced-sam-rare-targets": 0.03,
        "balanced-sam-overall": 0.03,
        "fedsam-on-fedavg": 0.0025,
        "fedasam-on-fedavg": 0.0025,
        "mofedsam-on-fedsam": 0.0025,
        "fedsam-heterogeneity": 0.0025,
        "awp-robust-error": 0.01,
    }


def trained(rho: float, seed: int) -> list[Row]:
    """Losses 2, 1, ½ (½·1.5 at ρ = 0.2); the trace is 10·loss, and a share 1 − 2ρ of that."""
    losses = [2.0, 1.0, 0.75 if rho == 0.2 else 0.5]
    level = (1 - 2 * rho) * (1 + seed / 10)
    return [
        {"train/loss": loss, "trace": 10 * loss * level, "determinant": level, "frobenius": 3.0}
        for loss in losses
    ]


def test_the_own_functional_falls_at_the_end_and_at_equal_loss() -> None:
    """At the end: 1 − 0.6·0.75/0.5 = 0.1. At equal loss: 1 − 0.6 = 0.4, exactly in between."""
    runs = made("universal/trace-sam", trained, (0.0, 0.1, 0.2))
    finding, verdict = measured("trace-sam-lowers-its-own", runs)
    assert finding.beside["at the end"] == pytest.approx(each(0.1))
    at_loss = finding.beside["at equal train loss"]
    # the trace of plain training at loss 0.75, interpolated in log(loss) from (1, 10) to (0.5, 5)
    plain = 10 - 5 * math.log(1 / 0.75) / math.log(2)
    assert at_loss == pytest.approx(each(1 - 0.6 * 7.5 / plain))
    assert finding.effects == pytest.approx(each(0.1))
    assert finding.beside["at ρ = 0.1"] == pytest.approx(each(0.2))
    other = "the squared Frobenius norm of the Hessian, at the end"
    assert finding.beside[other] == each(0.0)
    assert verdict.word in ("holds", "cannot tell")  # the threshold itself, up to rounding
    assert "10·" not in finding.detail


def test_a_functional_that_does_not_fall_does_not_hold_and_a_divergence_is_not_dropped() -> None:
    def still(rho: float, seed: int) -> list[Row]:
        return [{**row, "frobenius": 3.0} for row in trained(0.0, seed)]

    runs = made("universal/frob-sam", still, (0.0, 0.1))
    finding, verdict = measured("frob-sam-lowers-its-own", runs)
    assert finding.effects == each(0.0)
    assert verdict.word == "does not hold"
    broken = [
        dataclasses.replace(
            run, history={**run.history, "frobenius": [3.0, 3.0, None]}, diverged=True
        )
        if (run.rho, run.seed) == (0.1, 1)
        else run
        for run in runs
    ]
    _, verdict = measured("frob-sam-lowers-its-own", broken)
    assert verdict.reason == "1 of 3 seeds gave no finite effect"
    assert measured("det-sam-lowers-its-own", runs)[1].word == "no data here"


def test_runs_that_share_no_train_loss_give_no_effect() -> None:
    def stuck(rho: float, seed: int) -> list[Row]:
        rows = trained(rho, seed)
        return [{**row, "train/loss": 2.0} for row in rows] if rho else rows

    runs = made("universal/trace-sam", stuck, (0.0, 0.2))
    finding, verdict = measured("trace-sam-lowers-its-own", runs)
    assert finding.beside["at the end"] == pytest.approx(each(0.1))
    assert all(math.isnan(effect) for effect in finding.effects.values())
    assert verdict.word == "cannot tell"


def cross(lr: float, rho: float, reach: Row) -> Callable[[float, int], list[Row]]:
    """Losses that are lowest at this learning rate and ρ, in units of the middle."""

    def rows(_: float, seed: int) -> list[Row]:
        places = [(2.0**k, 1.0) for k in (-3, -2, -1, 1)] + [(1.0, 2.0**k) for k in (-2, -1, 1, 2)]
        found: list[Row] = []
        for a, b in [*places, (1.0, 1.0)]:
            off = math.log2(a / lr) ** 2 + math.log2(b / rho) ** 2
            found.append({"lr": 0.2 * a, "rho": RHO * b, "validation/loss": 1 + off + seed})
        times = ("start", "middle", "end")
        found[-1] |= {f"change/{t}/{layer}": v for t in times for layer, v in reach.items()}
        return found

    return rows


def widths(
    kind: str, moved: tuple[float, float], reach: Callable[[int], Row], seeds: Sequence[int] = SEEDS
) -> list[Run]:
    """Optima at the middle, except at the largest width."""
    runs = []
    for width in WIDTHS["default"]:
        lr, rho = moved if width == 512 else (1.0, 1.0)
        runs += made(f"mup/{kind}/{width}", cross(lr, rho, reach(width)), (RHO,), seeds)
    return runs


def constant(width: int) -> Row:
    return {"layer1": 0.1, "layer2": 0.2, "layer3": 0.3}


def test_transfer_is_the_larger_movement_in_steps_of_the_grid() -> None:
    finding, verdict = measured("mup2-transfers", widths("mup2", (2**-0.5, 2**0.25), constant))
    assert finding.effects == pytest.approx(each(-0.5))
    assert finding.beside["ρ"] == pytest.approx(each(0.25))
    assert verdict.word == "holds"
    assert "Optima at width 64, 192, 512: learning rate 0.2, 0.2, 0.141;" in finding.detail
    _, verdict = measured("mup2-transfers", widths("mup2", (0.25, 1.0), constant))
    assert verdict.word == "does not hold"


def test_no_transfer_counts_a_fall_of_the_learning_rate_or_a_rise_of_rho() -> None:
    for moved, steps in (((0.25, 1.0), 2.0), ((1.0, 2**1.25), 1.25), ((0.25, 0.5), 2.0)):
        finding, verdict = measured("sam-does-not-transfer", widths("sam", moved, constant))
        assert finding.effects == pytest.approx(each(steps))
        assert verdict.word == "holds"
    finding, verdict = measured("sam-does-not-transfer", widths("sam", (2**0.5, 0.5), constant))
    assert finding.effects == pytest.approx(each(-0.5))
    assert verdict.word == "does not hold"


def test_optima_at_an_end_of_the_grid_move_in_whole_steps() -> None:
    inside, _ = measured("mup2-transfers", widths("mup2", (0.5, 2.0), constant))
    at_end, verdict = measured("mup2-transfers", widths("mup2", (1.0, 4.0), constant))
    assert (inside.resolution, at_end.resolution) == (0.0, 1.0)
    assert verdict.interval is not None
    assert verdict.interval.high - verdict.interval.low > 1


def test_the_hidden_layers_are_judged_beside_the_last_one() -> None:
    def reach(width: int) -> Row:
        k = width / 64
        return {"layer1": 0.1 / k, "layer2": 0.2, "layer3": 0.3 * math.sqrt(k)}

    finding, verdict = measured("sam-perturbs-last-layer-only", widths("sam", (1, 1), reach))
    assert finding.effects == pytest.approx(each(1 - 8 ** (-0.5)))  # layer 2
    assert finding.beside["layer1"] == pytest.approx(each(1 - 8 ** (-1.5)))
    assert finding.beside["layer1, start"] == pytest.approx(each(1 - 8 ** (-1.5)))
    assert verdict.word == "holds"
    assert "layer1 0.13, layer2 1.00, layer3 2.83" in finding.detail
    _, verdict = measured("sam-perturbs-last-layer-only", widths("sam", (1, 1), constant))
    assert verdict.word == "does not hold"


def test_every_layer_is_judged_by_itself_under_mup2() -> None:
    def reach(width: int) -> Row:
        return {**constant(width), "layer2": 0.2 * (0.8 if width == 512 else 1.0)}

    finding, verdict = measured("mup2-perturbs-every-layer", widths("mup2", (1, 1), reach))
    assert finding.effects == pytest.approx(each(-0.2))
    assert verdict.word == "holds"
    lost = widths("mup2", (1, 1), lambda width: {**constant(width), "layer1": 0.1 * 64 / width})
    assert measured("mup2-perturbs-every-layer", lost)[1].word == "does not hold"


def test_one_width_or_one_seed_is_no_data() -> None:
    runs = widths("mup2", (1, 1), constant)
    _, verdict = measured("mup2-transfers", [r for r in runs if r.group == "mup/mup2/64"])
    assert verdict.reason == "mup2 ran at fewer than two widths"
    _, verdict = measured("mup2-transfers", widths("mup2", (1, 1), constant, seeds=(0,)))
    assert verdict.reason == "one seed cannot tell which is extreme"


def test_an_extreme_is_told_by_the_other_seeds() -> None:
    """Without seed 2 a is the largest in the mean, with it b is."""
    by_label = {"a": {0: 3.0, 1: 3.0, 2: -9.0}, "b": {0: 1.0, 1: 1.0, 2: 1.9}}
    assert told_by_others(by_label) == {0: 1.0, 1: 1.0, 2: -9.0}
    assert told_by_others(by_label, largest=False) == {0: 3.0, 1: 3.0, 2: 1.9}
    down = {"a": {0: -3.0, 1: -3.0}, "b": {0: 1.0, 1: 1.0}}
    assert told_by_others(down, size=abs) == {0: -3.0, 1: -3.0}
    with pytest.raises(NotMeasuredError):
        told_by_others({"a": {0: 1.0}, "b": {0: 1.0}})


def regression(few: float, validation: float) -> Callable[[float, int], list[Row]]:
    """Errors on rare targets that fall by `few`·ρ; validation data prefer ρ = 0.2."""

    def rows(rho: float, seed: int) -> list[Row]:
        row = {
            "validation/error": validation + abs(rho - 0.2),
            "test/error": 50.0,
            "test/error/few": 60 * (1 - few * rho) + seed,
            "test/few": 90.0,
        }
        return [row]

    return rows


def test_balanced_sam_is_compared_at_the_chosen_radii() -> None:
    rhos = (0.0, 0.1, 0.2, 0.4)
    runs = made("imbalance/sam", regression(0.0, 48), rhos)
    runs += made("imbalance/balanced-sam", regression(1.0, 49), rhos)
    finding, verdict = measured("balanced-sam-rare-targets", runs)
    assert finding.effects == pytest.approx({s: 12 / (60 + s) for s in SEEDS})
    assert verdict.word == "holds"
    assert finding.beside["SAM against plain training"] == each(0.0)
    assert "plain 61.0, SAM 61.0, Balanced SAM 49.0; 90 of 442" in finding.detail
    assert "ρ = 0.2 (3 of 3 seeds)" in finding.detail
    finding, verdict = measured("balanced-sam-overall", runs)
    assert finding.effects == each(0.0)
    assert verdict.word == "holds"


def errors(plain: float, gain: float) -> Callable[[float, int], list[Row]]:
    """A test error that falls by `gain` at ρ = 0.2, which validation data choose."""

    def rows(rho: float, seed: int) -> list[Row]:
        error = plain - gain * (rho == 0.2) + seed / 100
        return [{"validation/error": 0.5 - 0.1 * (rho == 0.2), "test/error": error}]

    return rows


def test_federated_gains_are_against_fedavg_and_against_one_another() -> None:
    rhos = (0.0, 0.2, 0.4)
    runs = made("federated/fedsam/alpha 0.5", errors(0.1, 0.03), rhos)
    runs += made("federated/fedasam/alpha 0.5", errors(0.1, -0.03), rhos)
    runs += made("federated/mofedsam/alpha 0.5", errors(0.08, 0.05), rhos)
    runs += made("federated/fedsam/alpha 100", errors(0.06, 0.01), rhos)
    found = {
        name: measured(name, runs)
        for name in (
            "fedsam-on-fedavg",
            "fedasam-on-fedavg",
            "mofedsam-on-fedsam",
            "fedsam-heterogeneity",
        )
    }
    effects = [mean_of(finding) for finding, _ in found.values()]
    assert effects == pytest.approx([0.03, -0.03, 0.04, 0.02])
    words = [verdict.word for _, verdict in found.values()]
    assert words == ["holds", "does not hold", "holds", "holds"]
    momentum = found["mofedsam-on-fedsam"][0]
    alone = momentum.beside["the momentum alone, FedCM against FedAvg"]
    assert alone == pytest.approx(each(0.02))
    on_top = momentum.beside["ε on top of it, MoFedSAM against FedCM"]
    assert on_top == pytest.approx(each(0.05))
    assert "11.00% without ε, 8.00% with" in found["fedsam-on-fedavg"][0].detail


def mean_of(finding: Finding) -> float:
    return math.fsum(finding.effects.values()) / len(finding.effects)


def test_the_robust_error_is_judged_at_the_radius_that_robust_validation_errors_choose() -> None:
    def rows(rho: float, seed: int) -> list[Row]:
        best = rho == 0.01
        row = {
            "train/robust-error": 0.02 + 0.05 * best,
            "validation/robust-error": 0.3 - 0.1 * best,
            "validation/error": float(best),  # not what is asked
            "test/robust-error": 0.25 - 0.04 * best + seed / 100,
            "test/error": 0.05,
        }
        return [row]

    finding, verdict = measured(
        "awp-robust-error", made("adversarial/awp", rows, (0.0, 0.01, 0.02))
    )
    assert finding.effects == pytest.approx(each(0.04))
    gap = finding.beside["fall of the gap between train and test"]
    assert gap == pytest.approx(each(0.09))
    assert verdict.word == "holds"
    _, verdict = measured("awp-robust-error", made("adversarial/awp", rows, (0.0, 0.01), (0,)))
    assert verdict.reason == "one seed cannot choose ρ: the choice is made on the others"
