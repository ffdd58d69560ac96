"""The study of toys: its effects on runs made by hand, what it refuses, the whole of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_runs import make_runs
from made_study import InProcess

from lowland import studies
from lowland.core.errors import InputError
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.toys import STUDY, findings, privacy_findings
from lowland.studies.toys.columns import (
    BEALE,
    BEALE_RADII,
    DRIFT,
    ESCAPE,
    FEATURES,
    HYPERBOLA,
    MOMENTUM,
    NEAR_BEALE,
    NETWORK_RADII,
    PL_QUADRATIC,
    PL_SUMS,
    QUADRATICS,
    RIDGE,
    RIDGE_FEATURES,
    THRESHOLDS,
    WIDTHS,
    network_group,
)
from lowland.studies.toys.escape import NOISES


def made(group, values, rhos=(0.0,), **options):
    return make_runs(values, group=group, rhos=rhos, **options)


def test_shares_and_bounds_of_single_rows():
    runs = Runs(
        [
            *made(THRESHOLDS, lambda r, s, t: {"right": 1.0, "boundary": 0.01 * s}),
            *made(NEAR_BEALE, lambda r, s, t: {"right": 0.5}),
            *made(QUADRATICS, lambda r, s, t: {"right": 0.75, "room": 0.2}),
        ]
    )
    assert findings.attracted(runs).effects == {0: 0.0, 1: 0.0, 2: 0.0}
    near = findings.attracted(runs).beside["the same share near Beale's saddle, minus 1"]
    assert near == {0: -0.5, 1: -0.5, 2: -0.5}
    assert findings.diverges(runs).effects == {0: -0.25, 1: -0.25, 2: -0.25}
    assert findings.bounded(runs).effects == {0: 0.0, 1: 0.0, 2: 0.0}
    (room,) = findings.bounded(runs).beside.values()
    assert room == {0: 0.2, 1: 0.2, 2: 0.2}
    for broken in (-0.01, math.nan):
        one = made(QUADRATICS, lambda r, s, t: {"room": 0.2 if s else broken})  # noqa: B023
        assert findings.bounded(Runs(one)).effects == {0: -1.0, 1: 0.0, 2: 0.0}
    with pytest.raises(NotMeasuredError):
        findings.slower(runs)


def test_being_stuck_is_a_ratio_of_distances():
    def values(rho, seed, step):
        y = 100.0 if rho == 0 else -0.1 if rho == 0.5 else 10.0
        return {f"{arm}/y": y for arm in ("usam", "sam", "sum")}

    runs = Runs(made(HYPERBOLA, values, (0.0, 0.1, 0.5)))
    found = findings.trapped(runs, "sam")
    assert found.effects == pytest.approx({0: 3.0, 1: 3.0, 2: 3.0})
    assert found.beside["ρ = 0.1"] == pytest.approx({0: 1.0, 1: 1.0, 2: 1.0})
    assert "0.1: 0 of 3, 0.5: 3 of 3" in found.detail


def test_beale_counts_the_steps_of_usam():
    def values(rho, seed, step):
        return {"sam/away": 2.0 / 10**rho, "sum/away": 2.0, "usam/steps": 3 - (rho > 0.5)}

    found = findings.beale_trapped(Runs(made(BEALE, values, BEALE_RADII)))
    assert found.effects == pytest.approx({0: 1.0, 1: 1.0, 2: 1.0})
    assert found.beside["SAM, ρ = 0.5"][0] == pytest.approx(0.5)
    assert found.beside["g + g̃, ρ = 1"][0] == 0
    assert "after 3 steps or fewer" in found.detail


def test_escapes():
    row = {"slower": 0.3, "sgd": 0.0}
    row |= {f"{kind}/{n}": -0.2 for n in NOISES for kind in ("printed", "derived")}
    row |= {f"gap/{n}": 0.5 for n in NOISES}
    runs = Runs(made(ESCAPE, lambda r, s, t: row))
    assert findings.slower(runs).effects[0] == 0.3
    assert findings.escape_formula(runs).effects[0] == -0.2
    assert len(findings.escape_formula(runs).beside) == 6
    assert findings.escape_derived(runs).effects[0] == -0.2


def test_leaving_with_momentum_and_small_batches():
    def values(rho, seed, step):
        times = {"usam/plain": 1000.0, "usam/kept": 100.0, "usam/equal": 2000.0}
        times |= {"descent/plain": 400.0, "descent/kept": 100.0, "descent/equal": 400.0}
        times |= {"batch/16": 60.0, "batch/128": 80.0, "right": 1.0 - seed / 8}
        return times | {"kept/batch/16": 9.0, "kept/batch/128": 10.0}

    runs = Runs(made(MOMENTUM, values))
    sooner = findings.momentum_sooner(runs)
    assert sooner.effects == pytest.approx({0: 1.0, 1: 1.0, 2: 1.0})
    assert sooner.beside["gradient descent"][0] == pytest.approx(math.log10(4))
    assert sooner.beside["USAM's less descent's"][0] == pytest.approx(math.log10(2.5))
    assert sooner.beside["at equal η/(1 − μ)"][0] == pytest.approx(-math.log10(2))
    assert findings.momentum_radius(runs).effects == {0: 0.0, 1: -0.125, 2: -0.25}
    saved = findings.batch_sooner(runs)
    assert saved.effects == pytest.approx({0: 0.25, 1: 0.25, 2: 0.25})
    assert saved.beside["with momentum 0.9"][0] == pytest.approx(0.1)
    late = Runs(made(MOMENTUM, lambda r, s, t: {"usam/plain": None}, diverged=True))
    assert math.isnan(findings.momentum_sooner(late).effects[0]), "it has not left: no effect"


def test_drift():
    def values(rho, seed, step):
        return {"usam/y": 2.0, "sam/y": -0.02 if rho else 2.0, "usam/stays": 0.5 - rho}

    runs = Runs(made(DRIFT, values, (0.0, 0.1, 0.3)))
    assert findings.drifts(runs).effects == pytest.approx({0: 2.0, 1: 2.0, 2: 2.0})
    assert findings.settles(runs, 0.0).effects[0] == 0.5
    assert findings.settles(runs, 0.0).beside == {}
    at = findings.settles(runs, 0.1)
    assert at.effects[0] == pytest.approx(0.4)
    assert at.beside["ρ = 0.3"][0] == pytest.approx(0.2)

    def lost(rho, seed, step):
        return values(rho, seed, step) | ({"usam/y": math.nan} if rho and seed == 1 else {})

    gone = findings.drifts(Runs(made(DRIFT, lost, (0.0, 0.1, 0.3)))).effects
    assert math.isnan(gone[1]), "USAM that has diverged is no effect of 0"


def test_falls_and_slopes_of_losses():
    """USAM falls by a decade every four evaluations, SAM stays, decreasing falls as 1/k²."""

    def constant(rho, seed, step):
        return {"step": step, "loss/0": 10 ** (-step / 4), "loss/0.5": 1.0, "loss/1": 1e-5}

    def falling(rho, seed, step):
        return {"step": step, **{f"loss/{s}": (step + 1e-9) ** -2.0 for s in ("0", "0.5", "1")}}

    groups = [PL_QUADRATIC[False], PL_SUMS["fits", False], PL_SUMS["does-not-fit", False]]
    runs = [run for g in groups for run in made(g, constant, evaluations=41)]
    for group in (PL_QUADRATIC[True], PL_SUMS["does-not-fit", True]):
        runs += made(group, falling, evaluations=41)
    held = Runs(runs)
    assert findings.usam_to_zero(held).effects[0] == pytest.approx(5.0)  # 20 evaluations apart
    assert findings.to_a_neighbourhood(held).effects[0] == 0
    assert "1e-05" in findings.to_a_neighbourhood(held).detail
    assert findings.decreasing(held).effects[0] == pytest.approx(2.0)


def membership_rows(rho, seed, step):
    """p = 20 (no theory), 52, 100, 150, 400."""
    p = (20, 52, 100, 150, 400)[step]
    row = {"features": p, "fixed": 0.01 * step, "binned": 0.02 * step, "other": 1.0}
    if step == 1:
        row["other"] = 9.0  # close to p = n, where the mean is not reached
    if step:
        row |= {"theory": (0.7, 0.1, 0.2, 0.5)[step - 1], "theory/other": math.exp(0.05)}
    return row


def test_membership_over_features_and_ridge():
    def ridge(rho, seed, step):
        p, nl = RIDGE_FEATURES[step // 2], (0.0, 500.0)[step % 2]
        return {"features": p, "ridge": nl, "normal": 0.1 + (nl > 0) * p / 1000}

    runs = Runs(
        [*made(FEATURES, membership_rows, evaluations=5), *made(RIDGE, ridge, evaluations=6)]
    )
    assert privacy_findings.formula(runs).effects[0] == pytest.approx(0.05)
    assert privacy_findings.grows(runs).effects[0] == pytest.approx(0.3)
    assert privacy_findings.dips(runs).effects[0] == pytest.approx(0.6)
    found = privacy_findings.ridge(runs)
    assert found.effects[0] == pytest.approx(0.3)
    assert found.beside["p = 1000"][0] == pytest.approx(1.0)


def test_membership_of_networks():
    runs = []
    for place, width in enumerate(WIDTHS):

        def values(rho, seed, step, place=place):
            return {
                "advantage": 0.1 * place * step / 3 - 0.2 * rho,
                "auc": 0.5,
                "val_error": 0.3 - rho if rho < 0.3 else 0.9,
                "train_loss": 10.0 ** (-step - (rho > 0)),
            }

        runs += made(network_group(width), values, NETWORK_RADII)
    held = Runs(runs)
    assert privacy_findings.wider(held).effects[0] == pytest.approx(0.2)
    found = privacy_findings.sam_tells(held)
    assert found.effects[0] == pytest.approx(0.04)  # ρ = 0.2, chosen on validation
    assert "ρ = 0.2 (3 of 3 seeds)" in found.detail
    # SAM is at plain training's last loss one evaluation earlier, with less of an advantage
    assert found.beside["at matched train loss"][0] > 0.04

    def stuck(rho, seed, step):
        row = {"advantage": 0.1, "auc": 0.5, "val_error": 0.3 - rho, "train_loss": 0.5**step}
        return row | ({"train_loss": 1.0 + step} if rho and seed == 1 else {})

    held = Runs([run for w in WIDTHS for run in made(network_group(w), stuck, NETWORK_RADII)])
    matched = privacy_findings.sam_tells(held).beside["at matched train loss"]
    assert math.isnan(matched[1]), "a mean of the others would be one of survivors"
    assert matched[0] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"data": "digits"}, "generators of their own, not on digits"),
        ({"method": "asam"}, "leave --method asam out"),
        ({"rhos": (0.1,)}, "leave --rho out"),
        ({"overrides": ("beal=3",)}, "did you mean 'beale'"),
        ({"overrides": ("beale=1",)}, "give a whole number from 2 on"),
    ],
)
def test_what_it_does_not_have_is_one_line(asked, words):
    with pytest.raises(InputError, match=words):
        STUDY.plan(STUDY.choose(**asked))


def test_the_plan_has_ten_draws_and_the_published_starts():
    plan = STUDY.plan(STUDY.choose())
    counts = {run.group: dict(run.recipe.settings)["count"] for run in plan.runs}
    assert set(counts.values()) == {1, 10}
    assert [g for g, n in counts.items() if n == 1] == list(plan.aside)
    for run in plan.runs:
        run.recipe.check()
    more = STUDY.plan(STUDY.choose(seeds=12))
    assert sorted(r.recipe.seed for r in more.runs if r.group == DRIFT) == [0, 10]


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path) -> None:
    choice = STUDY.choose(size="smoke", seeds=2)
    results = studies.execute(STUDY, choice, tmp_path / "out", launcher=InProcess())
    assert results["failures"] == []
    assert results["asked"]["seeds"] == [0, 1]
    assert {c["verdict"] for c in results["claims"]} <= {"holds", "does not hold", "cannot tell"}
    assert len(results["drawings"]) == 14
    assert len(results["tables"][0]["rows"]) == 3 * 6 + 2 * 4 + 2 * 7
