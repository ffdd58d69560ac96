"""Intervals of proportions, areas and rates: known values, and coverage over repetitions."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from lowland.measure.privacy import score_attack
from lowland.measure.privacy.attack import _cross_fitted
from lowland.measure.privacy.curve import area, true_positive_rate
from lowland.measure.proportions import (
    beta_probability,
    beta_quantile,
    binomial_below,
    clopper_pearson,
    newcombe,
    wilson,
)

NORMAL = NormalDist()


def test_beta_distribution_beside_scipy() -> None:
    beta = pytest.importorskip("scipy.stats").beta
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = 10 ** rng.uniform(-0.5, 5, 2)
        x, probability = beta.rvs(a, b, random_state=rng), rng.choice([0.0125, 0.025, 0.975])
        assert beta_probability(x, a, b) == pytest.approx(beta.cdf(x, a, b), abs=1e-8)
        assert beta.cdf(beta_quantile(probability, a, b), a, b) == pytest.approx(
            probability, abs=1e-6
        )


@pytest.mark.parametrize("p", [0.001, 0.3, 0.9])
def test_binomial_from_its_sum(p) -> None:
    for n in (1, 7, 30):
        below = 0.0
        for k in range(n + 2):
            assert binomial_below(k, n, p) == pytest.approx(below, abs=1e-12)
            below += math.comb(n, k) * p**k * (1 - p) ** max(0, n - k) if k <= n else 0


def test_clopper_pearson_solves_its_definition() -> None:
    low, high = clopper_pearson(3, 20)
    assert 1 - binomial_below(3, 20, low) == pytest.approx(0.025)
    assert binomial_below(4, 20, high) == pytest.approx(0.025)
    assert clopper_pearson(20, 20) == (pytest.approx(0.025 ** (1 / 20)), 1.0)


def test_wilson_solves_its_definition() -> None:
    for end in wilson(0.2, 15):
        assert abs(0.2 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 15))
    assert wilson(0.0, 10)[0] == 0
    assert wilson(1.0, 10)[1] == 1


def test_newcombe_published_examples() -> None:
    """Newcombe 1998, table II, method 10."""
    published = {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (6, 7, 2, 7): (0.0582, 0.8062),
        (5, 56, 0, 29): (-0.0381, 0.1926),
        (0, 10, 0, 20): (-0.1611, 0.2775),
        (10, 10, 0, 20): (0.6791, 1.0),
    }
    for counts, ends in published.items():
        assert newcombe(*counts) == pytest.approx(ends, abs=6e-5)


def test_newcombe_covers() -> None:
    repetitions = 4000
    rng = np.random.default_rng(1)
    for n, m, p, q in ((40, 40, 0.5, 0.5), (50, 200, 0.7, 0.4), (100, 30, 0.9, 0.8)):
        ones, zeros = rng.binomial(n, p, repetitions), rng.binomial(m, q, repetitions)
        inside = [
            covers(newcombe(int(k), n, int(j), m), p - q) for k, j in zip(ones, zeros, strict=True)
        ]
        assert 0.93 < np.mean(inside) < 0.97


def covers(interval: tuple[float, float], value: float) -> bool:
    return interval[0] - 1e-9 <= value <= interval[1] + 1e-9


def drawn(rng, n: int, shift: float) -> np.ndarray:
    return np.sort(rng.normal(size=n) + shift)


def advantage(threshold: float, shift: float) -> float:
    """Of N(shift, 1) over N(0, 1) at a threshold."""
    if math.isinf(threshold):
        return 0.0
    return NORMAL.cdf(threshold) - NORMAL.cdf(threshold - shift)


@pytest.mark.parametrize(("n", "m", "shift"), [(200, 200, 0.0), (100, 300, 0.4), (200, 200, 1.0)])
def test_the_split_threshold_is_unbiased_and_covers(n, m, shift) -> None:
    """For the mean of what its two thresholds achieve on new examples."""
    rng = np.random.default_rng(2)
    errors, inside = [], []
    for seed in range(2000):
        rule = _cross_fitted(drawn(rng, n, shift), drawn(rng, m, 0), seed)
        truth = sum(advantage(t, shift) for t in rule.thresholds) / 2
        errors.append(rule.true / n - rule.false / m - truth)
        inside.append(covers(newcombe(rule.true, n, rule.false, m), truth))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(len(errors))
    assert 0.93 < np.mean(inside) < 0.97


@pytest.mark.parametrize(("n", "m", "shift"), [(100, 100, 0.0), (200, 100, 1.0)])
def test_the_best_threshold_is_biased_upward_and_its_interval_conservative(n, m, shift) -> None:
    rng = np.random.default_rng(3)
    truth = advantage(shift / 2, shift)
    records = [
        score_attack(drawn(rng, n, shift), drawn(rng, m, 0), threshold="best") for _ in range(300)
    ]
    errors = [r.value - truth for r in records]
    assert np.mean(errors) > 4 * np.std(errors) / math.sqrt(len(errors))
    assert np.mean([covers(r.interval, truth) for r in records]) > 0.95
    assert "biased upward" in records[0].definition


def area_coverage(n: int, m: int, shift: float, repetitions: int, seed: int = 4) -> float:
    rng = np.random.default_rng(seed)
    truth = NORMAL.cdf(shift / math.sqrt(2))
    found = (area(drawn(rng, n, shift), drawn(rng, m, 0)) for _ in range(repetitions))
    return float(np.mean([covers(estimate.interval, truth) for estimate in found]))


@pytest.mark.parametrize(("n", "m", "shift"), [(20, 20, 0.0), (50, 300, 1.0), (100, 100, 1.5)])
def test_the_interval_of_the_area_covers(n, m, shift) -> None:
    assert 0.93 < area_coverage(n, m, shift, 2500) < 0.97


@pytest.mark.parametrize(("n", "m", "shift"), [(10, 10, 3.0), (50, 1000, 3.0), (30, 30, 4.0)])
def test_the_interval_of_the_area_is_conservative_near_the_edge(n, m, shift) -> None:
    """There DeLong's interval, logit-transformed, covers 47%, 89% and less."""
    assert area_coverage(n, m, shift, 500) > 0.94


def test_the_error_of_the_area() -> None:
    rng = np.random.default_rng(5)
    found = [area(drawn(rng, 80, 1.0), drawn(rng, 120, 0)) for _ in range(1500)]
    spread = np.std([estimate.value for estimate in found])
    assert np.mean([estimate.uncertainty for estimate in found]) == pytest.approx(spread, rel=0.08)


def rate_coverage(n: int, m: int, shift: float, rate: float, repetitions: int) -> float:
    rng = np.random.default_rng(6)
    truth = 1 - NORMAL.cdf(NORMAL.inv_cdf(1 - rate) - shift)
    inside = []
    for _ in range(repetitions):
        members, others = drawn(rng, n, shift), drawn(rng, m, 0)
        inside.append(covers(true_positive_rate(members, others, rate)[1], truth))
    return float(np.mean(inside))


def test_the_interval_of_a_rate_covers_with_enough_others() -> None:
    assert 0.93 < rate_coverage(500, 2000, 1.0, 0.1, 1000) < 0.98


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
def test_the_interval_of_a_rate_is_conservative_with_few(rate) -> None:
    assert rate_coverage(60, 100, 1.0, rate, 500) > 0.95


@pytest.mark.slow
def test_intervals_cover_over_many_sizes() -> None:
    for n, m in ((30, 30), (50, 500), (500, 50), (1000, 1000)):
        for shift in (0.0, 0.3, 1.0):
            assert 0.935 < area_coverage(n, m, shift, 5000) < 0.97
        for rate in (0.001, 0.01, 0.1):
            assert rate_coverage(n, m, 1.0, rate, 2000) > 0.94
