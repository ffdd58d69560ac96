"""The study of minima: its effects on runs made by hand, what it refuses, the whole of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_runs import make_runs
from made_study import InProcess

from lowland import studies
from lowland.core.errors import InputError
from lowland.studies.minima import STUDY, findings
from lowland.studies.minima.columns import (
    FEATURES,
    LEAVING,
    MATRICES,
    MINIMA,
    ONE_DIMENSION,
    RADII,
    RATE_RADII,
    rate_group,
)
from lowland.studies.minima.leaving import FACTORS
from lowland.studies.runs import NotMeasuredError, Runs


def ends(rho, seed, step):
    """SAM's λ_max(H) is a tenth of SGD's, its moment k the k-th power of that."""
    scale = 0.1 if rho == 0.2 else 1.0
    row = {f"{p}/largest": scale for p in ("level", "fit", "end")}
    for k in (2, 3, 4):
        for place in ("level", "fit", "end"):
            row |= {f"{place}/moment/{k}": scale**k, f"{place}/size/{k}": scale}
    bounds = {"bound/curvature": 0.3, "bound/spread": 0.4 + rho}
    return {**row, **bounds, "level/loss": 1e-3, "range": rho - 0.15, "identity": 0.0}


def test_moments_are_compared_with_sgd():
    runs = Runs(make_runs(ends, group=MINIMA["usam"], rhos=RADII["usam"]))
    for k in (2, 3, 4):
        found = findings.smaller(runs, "usam", f"moment/{k}")
        assert found.effects == pytest.approx({0: k, 1: k, 2: k})
        assert found.beside[f"over λ_max(H)^{k}"] == pytest.approx({0: 0, 1: 0, 2: 0})
        assert found.beside["largest eigenvalue in size"] == pytest.approx({0: 1, 1: 1, 2: 1})
        assert found.beside["ρ = 0.1"] == {0: 0, 1: 0, 2: 0}
    assert "from 0.001 to 0.001" in found.detail
    assert findings.beyond_flatness(runs, "usam").effects == pytest.approx({0: 0, 1: 0, 2: 0})
    with pytest.raises(NotMeasuredError):
        findings.smaller(runs, "sam", "largest")


def test_a_level_that_is_not_reached_is_no_effect():
    def never(rho, seed, step):
        row = ends(rho, seed, step)
        lost = rho == 0.2 and seed == 1
        return {k: v for k, v in row.items() if not (lost and k.startswith("level/"))}

    runs = Runs(make_runs(never, group=MINIMA["usam"], rhos=RADII["usam"]))
    found = findings.smaller(runs, "usam", "largest").effects
    assert math.isnan(found[1])
    assert found[0] == pytest.approx(1)


def test_conditions_at_minima():
    runs = Runs(make_runs(ends, group=MINIMA["usam"], rhos=RADII["usam"]))
    found = findings.usam_condition(runs)
    assert found.effects == pytest.approx({0: -0.05, 1: -0.05, 2: -0.05})
    assert found.beside["ρ = 0.1"][0] == pytest.approx(0.05)
    assert findings.sgd_bounds(runs).effects[0] == pytest.approx(0.6)


def test_staying_and_quadratics():
    row = {"below": 1.0, "above": 0.5, "critical": 0.1}
    row |= {f"grown/{f:g}": 1.0 if f > 2 else -1.0 for f in FACTORS}
    matrix = {"room": 0.1, "identity": 1e-16, **{f"indefinite/{k}": 0.1 for k in (2, 3, 4)}}

    def scalar(rho, seed, step):
        return {"boundary": 0.01, "bounds": 0.2, "critical": 0.1 * seed, "radius": 0.06}

    runs = Runs(
        [
            *make_runs(lambda r, s, t: row, group=LEAVING, rhos=(0.0,)),
            *make_runs(lambda r, s, t: matrix, group=MATRICES, rhos=(0.0,)),
            *make_runs(scalar, group=ONE_DIMENSION, rhos=(0.0,)),
        ]
    )
    assert findings.stays(runs).effects[0] == 0
    assert "1.5 times that in 0 of 3, 3 times that in 3 of 3" in findings.stays(runs).detail
    assert findings.sufficient(runs).effects[0] == 0.1
    assert findings.boundary(runs).effects[0] == 0.01
    found = findings.one_dimension_bounds(runs)
    assert found.effects[0] == 0.2
    assert "η > 2ρ, as in 1 of 3 draws" in found.detail, "critical η 0, 0.1 and 0.2 over 0.12"
    assert findings.identity(runs).effects[0] == 1e-16
    assert findings.identity(runs).beside == {}


def test_lines_and_falls():
    runs = []
    for d in FEATURES:

        def values(rho, seed, step, d=d):
            straight = 10 ** (-0.001 * d * step)
            return {"step": float(step), "usam": straight, "sam": 0.1 if step else 1.0}

        runs += make_runs(values, group=rate_group(d), rhos=RATE_RADII, evaluations=41)
    held = Runs(runs)
    assert findings.straight(held, "usam").effects[0] == pytest.approx(1)
    assert findings.straight(held, "sam").effects[0] < 0.5
    # 20 evaluations apart, 0.001·d decades each
    assert findings.fits_or_not(held, "usam").effects[0] == pytest.approx(20 * 0.3)
    assert findings.fits_or_not(held, "sam").effects[0] == pytest.approx(0)
    assert findings.faster(held).effects[0] == pytest.approx(1)
    run = held.run(rate_group(320), 0.0, 0)
    steep, share, away = findings.line(run, "usam")
    assert (steep, share, away) == pytest.approx((-0.32, 1, 0), abs=1e-9)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"data": "digits"}, "not digits: leave --data out"),
        ({"method": "asam"}, "leave --method asam out"),
        ({"rhos": (0.1,)}, "leave --rho out"),
        ({"overrides": ("step=3",)}, "did you mean 'steps'"),
        ({"overrides": ("steps",)}, "give a whole number from 2 on"),
    ],
)
def test_what_it_does_not_have_is_one_line(asked, words):
    with pytest.raises(InputError, match=words):
        STUDY.plan(STUDY.choose(**asked))


def test_the_plan_fits_its_functions():
    plan = STUDY.plan(STUDY.choose(seeds=12))
    for run in plan.runs:
        run.recipe.check()
    assert {run.recipe.seed for run in plan.runs} == {0, 10}


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path) -> None:
    choice = STUDY.choose(size="smoke", seeds=2)
    results = studies.execute(STUDY, choice, tmp_path / "out", launcher=InProcess())
    assert results["failures"] == []
    assert {c["verdict"] for c in results["claims"]} <= {"holds", "does not hold", "cannot tell"}
    assert len(results["drawings"]) == 7
    assert len(results["tables"][0]["rows"]) == 8
    exact = [c for c in results["claims"] if c["name"] == "identity"]
    assert exact[0]["verdict"] == "holds"
