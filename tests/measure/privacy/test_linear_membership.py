"""The linear model in closed form: published points, Monte Carlo, validity range."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from lowland.core.errors import InputError
from lowland.measure.privacy import gaussian_advantage, linear_membership, score_attack


def point(dimension: int) -> torch.Tensor:
    """Every part of it has its expected squared length."""
    return torch.ones(dimension)


@pytest.mark.parametrize(("p", "other", "member"), [(100, 1.40, 2.0), (300, 0.3226, 2.0)])
def test_variances_at_known_points(p, other, member) -> None:
    """n = 50, D = 400, σ = 1, ‖x₀‖² = D: by hand, (50/p)(1/400 + (2 - p/400)/(p - 51))·p."""
    record = linear_membership(point(400), n=50, features=p)
    by_hand = 50 * (1 / 400 + (2 - p / 400) / (p - 51))
    assert record.non_member_variance == pytest.approx(by_hand)
    assert record.member_variance == member


def predictions(x0, n, p, noise, draws, *, member, seed=0):
    """Of least squares of minimum norm at x₀, over data sets and β."""
    D = len(x0)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws // 100):
        X = torch.randn(100, n, D, generator=generator, dtype=torch.float64)
        if member:
            X[:, 0] = x0
        beta = torch.randn(100, D, 1, generator=generator, dtype=torch.float64) / math.sqrt(D)
        errors = torch.randn(100, n, 1, generator=generator, dtype=torch.float64)
        y = X @ beta + noise * errors
        fitted = X[:, :, :p]
        dual = torch.linalg.solve(fitted @ fitted.mT, y)[..., 0]
        found.append((fitted @ x0[:p] * dual).sum(1))
    return torch.cat(found)


@pytest.mark.parametrize("p", [40, 80])
def test_beside_monte_carlo(p) -> None:
    n, D, noise, draws = 20, 100, 0.7, 4000
    x0 = torch.randn(D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    record = linear_membership(x0, n=n, features=p, noise=noise)
    inside = predictions(x0, n, p, noise, draws, member=True)
    outside = predictions(x0, n, p, noise, draws, member=False, seed=1)
    for values, variance in (
        (inside, record.member_variance),
        (outside, record.non_member_variance),
    ):
        squares = values.square()
        assert abs(float(squares.mean()) - variance) < 4 * float(squares.std()) / math.sqrt(draws)
    # a member has the larger variance here, so |prediction| is the score of the best attack
    assert record.member_variance > record.non_member_variance
    attack = score_attack(inside.abs(), outside.abs())
    assert abs(attack.value - record.value) < 4 * attack.uncertainty + 0.01


def test_not_monotone_above_the_threshold_of_interpolation() -> None:
    """n = 100, D = 10⁴, σ = 1: falls, then rises, as over-fitting first drowns in variance."""
    values = [
        linear_membership(point(10_000), n=100, features=p).value
        for p in (105, 150, 300, 1000, 3000, 10_000)
    ]
    published = [0.67, 0.21, 0.17, 0.49, 0.66, 0.80]  # one x₀, drawn at random
    assert values == pytest.approx(published, abs=0.05)


def test_advantage_by_integrating() -> None:
    for first, second in ((1.0, 4.0), (0.3, 0.2), (1.0, 1.001), (5.0, 1e-3)):
        a, b = NormalDist(0, math.sqrt(first)), NormalDist(0, math.sqrt(second))
        width = 12 * max(a.stdev, b.stdev)
        grid = torch.linspace(-width, width, 400_001, dtype=torch.float64)
        densities = [
            torch.exp(-0.5 * grid.square() / d.variance) / (d.stdev * math.sqrt(2 * math.pi))
            for d in (a, b)
        ]
        gap = float((densities[0] - densities[1]).clamp_min(0).sum() * (grid[1] - grid[0]))
        assert gaussian_advantage(first, second) == pytest.approx(gap, abs=1e-6)
        assert gaussian_advantage(first, second) == gaussian_advantage(second, first)


def test_advantage_at_the_edges() -> None:
    assert gaussian_advantage(2.0, 2.0) == 0
    assert gaussian_advantage(0.0, 0.0) == 0
    assert gaussian_advantage(0.0, 3.0) == 1
    # to first order |b - s|/s · e^(-1/2)/√(2π)
    nearly = gaussian_advantage(1.0, 1 + 1e-9)
    assert nearly == pytest.approx(1e-9 * math.exp(-0.5) / math.sqrt(2 * math.pi), rel=1e-4)
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="variances"):
            gaussian_advantage(wrong, 1.0)


@pytest.mark.parametrize("p", [20, 50, 51, 401])
def test_outside_its_range_it_is_refused(p) -> None:
    with pytest.raises(InputError, match=r"n \+ 1 < p <= D only; got n=50") as caught:
        linear_membership(point(400), n=50, features=p)
    assert "\n" not in str(caught.value)


def test_other_faults() -> None:
    linear_membership(point(400), n=50, features=52)
    with pytest.raises(InputError, match="noise"):
        linear_membership(point(9), n=2, features=5, noise=-1.0)
    with pytest.raises(InputError, match="x0"):
        linear_membership(torch.ones(3, 3), n=2, features=5)
    with pytest.raises(InputError, match="x0"):
        linear_membership(point(9) * math.nan, n=2, features=5)
    with pytest.raises(InputError, match="features"):
        linear_membership(point(9), n=0, features=5)
