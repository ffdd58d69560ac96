"""Toys about saddles and normalization, held against closed forms and plain recursions."""

from __future__ import annotations

import math

import pytest
import torch

from lowland.studies.toys import escape, normalisation, saddles
from lowland.studies.toys.functions import beale_gradient, hyperbolic, valley

SMALL = {"seed": 1000, "rho": 0.0, "count": 2}


def last(rows, **where):
    return [row for row in rows if all(row[k] == v for k, v in where.items())][-1]


def descend(field, start, rho, share, *, lr, steps, kept=False):
    """The recursion, written out for one run."""
    w = torch.tensor([start], dtype=torch.float64)
    for _ in range(steps):
        g = field(w)
        away = field(w + rho * (1 - share + share / (g.norm() + 1e-12)) * g)
        w = w - lr * (away + g if kept else away)
    return w[0].tolist()


def test_the_published_saddle():
    """f = x² − y², ρ = ½: USAM stays at y = −0.01 exactly, at 0.6 it shrinks; descent goes 200."""
    rows = list(
        saddles.hyperbola(
            seed=0, rho=0, count=1, radii=[0.0, 0.5, 0.6], steps=500, points=4, published=True
        )
    )
    assert last(rows, rho=0.0)["usam/y"] == pytest.approx(-0.01 * 1.02**500, rel=1e-9)
    assert last(rows, rho=0.5)["usam/y"] == pytest.approx(-0.01, rel=1e-9)
    assert last(rows, rho=0.6)["usam/y"] == pytest.approx(-0.01 * 0.996**500, rel=1e-9)
    assert last(rows, rho=0.5)["usam/x"] == pytest.approx(-3 * 0.96**500, rel=1e-6)


def test_arms_are_recursions():
    options = {"radii": [0.0, 0.3], "steps": 30, "points": 3}
    rows = list(saddles.hyperbola(**SMALL, **options))
    for seed in (1000, 1001):
        start = saddles._start(seed)
        for arm, share, kept in (("usam", 0, False), ("sam", 1, False), ("sum", 1, True)):
            found = last(rows, rho=0.3, seed=seed)
            expected = descend(hyperbolic, start, 0.3, share, lr=0.01, steps=30, kept=kept)
            assert [found[f"{arm}/x"], found[f"{arm}/y"]] == pytest.approx(expected, rel=1e-9)
        plain = descend(hyperbolic, start, 0, 0, lr=0.01, steps=30)
        assert last(rows, rho=0.0, seed=seed)["sum/y"] == pytest.approx(plain[1])


def test_cosines():
    """At (0, y) USAM's perturbed gradient is (1 − 2ρ) times the gradient: it turns at ρ = ½."""
    points = torch.tensor([[0.0, 1.0]] * 3, dtype=torch.float64)
    rho = torch.tensor([[0.4], [0.6], [0.0]], dtype=torch.float64)
    found = saddles.cosine(hyperbolic, points, rho, torch.zeros(3, 1, dtype=torch.float64))
    assert found.tolist() == pytest.approx([1.0, -1.0, 1.0])
    nothing = saddles.cosine(hyperbolic, torch.zeros(1, 2), torch.ones(1, 1), torch.ones(1, 1))
    assert nothing.tolist() == [1.0]


def test_thresholds_are_exact_and_would_be_missed_elsewhere(monkeypatch):
    found = list(saddles.thresholds(**SMALL, steps=40))
    assert all(row["right"] == 1 and abs(row["boundary"]) < 1e-4 for row in found)
    # with radii twice as large as they are said to be, half of them are on the wrong side
    wrong = saddles._saddle
    monkeypatch.setattr(saddles, "_saddle", lambda seed: (*wrong(seed)[:3], wrong(seed)[3] / 2))
    assert all(row["right"] < 1 for row in saddles.thresholds(**SMALL, steps=40))


def test_beale_is_the_recursion_and_usam_leaves():
    rows = list(saddles.beale_descents(**SMALL, radii=[0.0, 0.5], steps=40, points=3))
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    start = start + 0.05 * torch.randn(
        2, dtype=torch.float64, generator=torch.Generator().manual_seed(1001)
    )
    found = last(rows, rho=0.5, seed=1001)
    expected = descend(beale_gradient, start.tolist(), 0.5, 1, lr=saddles.BEALE_LR, steps=40)
    assert [found["sam/x"], found["sam/y"]] == pytest.approx(expected, rel=1e-9)
    assert found["usam/steps"] < 10
    assert last(rows, rho=0.0, seed=1001)["usam/steps"] == 200
    assert found["sam/away"] == pytest.approx(math.dist(expected, (0, 1)), rel=1e-9)


def test_next_to_beales_saddle():
    (row,) = saddles.beale_saddle(seed=1003, rho=0, count=1, steps=400)
    assert row["right"] == 1
    # growth of the linear map: 1 + η·27.75·(1 − f) a step
    for f in (1.25, 2.0):
        linear = (1 - 1e-4 * 27.75 * (f - 1)) ** 400
        assert row[f"away/{f:g}"] == pytest.approx(linear, rel=0.3)


@pytest.mark.parametrize("noise", escape.NOISES)
def test_variances_by_formula_recursion_and_simulation(noise):
    problem = escape.Problem(lam=-1.0, rho=0.3, steps=100)
    settings = {"lr": 0.005, "batch": 4}
    exact = escape.exact(problem.lam, problem.rho, problem.steps, noise, **settings)
    derived = escape.derived(problem.lam, problem.rho, 0.5, noise, **settings)
    assert derived == pytest.approx(exact, rel=0.01)
    found = escape.simulate(problem, 5, 3000, **settings)
    assert found[noise] == pytest.approx(exact, rel=5 * math.sqrt(2 / 3000))
    plain = escape.exact(problem.lam, 0.0, problem.steps, "second", **settings)
    assert found["sgd"] == pytest.approx(plain, rel=5 * math.sqrt(2 / 3000))


def test_the_printed_variance_is_that_of_another_drift():
    """It is exact for drift λ(1+ρλ)² with the noise of one gradient, and so is its gap."""
    lam, rho, lr, batch = -1.2, 0.2, 1e-5, 4
    drift = lam * (1 + rho * lam) ** 2
    variance = 0.0
    for _ in range(50_000):
        variance = (1 - lr * drift) ** 2 * variance + lr**2 * abs(lam) / batch
    printed = escape.printed(lam, rho, 0.5, lr=lr, batch=batch)
    assert variance == pytest.approx(printed, rel=1e-4)
    short, little = 1e-3, 1e-3
    gap = escape.printed(lam, 0, short, lr=lr, batch=batch) - escape.printed(
        lam, little, short, lr=lr, batch=batch
    )
    assert gap == pytest.approx(
        escape.printed_gap(lam, little, short, lr=lr, batch=batch), rel=0.01
    )
    # at λ = 0 there is no drift
    assert escape.exact(0.0, 0.1, 3, "same", lr=0.1, batch=1) == 0


def test_stability_of_quadratics_and_the_bound():
    rows = list(normalisation.stability(**SMALL, steps=200, bounded_steps=300))
    assert all(row["right"] == 1 and row["room"] >= 0 for row in rows)
    # along the top eigenvector USAM multiplies by 1 − η(β + ρβ²) in a step
    for factor in (0.98, 1.25):
        expected = abs(1 - 2 * factor) ** 200
        assert rows[0][f"usam/{factor:g}"] == pytest.approx(expected, rel=1e-3)


def test_what_has_left_for_infinity_has_grown():
    (row,) = normalisation.stability(seed=1000, rho=0, count=1, steps=260, bounded_steps=2)
    assert row["usam/2"] == math.inf, "three times as far in every step: beyond what is followed"
    assert row["right"] == 1


def test_drift_is_the_recursion():
    options = {"radii": [0.0, 0.1], "steps": 50, "points": 3}
    rows = list(normalisation.drift(**SMALL, **options, published=True))
    for arm, share in (("usam", 0), ("sam", 1)):
        found = last(rows, rho=0.1)
        expected = descend(valley, (0.5, 3.0), 0.1, share, lr=0.4, steps=50)
        assert [found[f"{arm}/x"], found[f"{arm}/y"]] == pytest.approx(expected, rel=1e-8)
    kappa = 0.5 * found["usam/y"] ** 2
    assert found["usam/stays"] == pytest.approx(1 - 0.2 * kappa * (1 + 0.1 * kappa))


@pytest.mark.slow
def test_the_published_drift():
    """η = 0.4 from (0.5, 3), 20,000 steps, ρ = 0.1: y of GD 2.816, of USAM 2.469, of SAM small."""
    rows = list(
        normalisation.drift(
            seed=0, rho=0, count=1, radii=[0.0, 0.1], steps=20_000, points=2, published=True
        )
    )
    assert last(rows, rho=0.0)["usam/y"] == pytest.approx(2.816, abs=1e-3)
    assert last(rows, rho=0.1)["usam/y"] == pytest.approx(2.469, abs=1e-3)
    assert abs(last(rows, rho=0.1)["sam/y"]) < 0.1 * 2.469
