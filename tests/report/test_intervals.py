"""Student-t intervals against closed forms, scipy and their own coverage."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.report.intervals import central_probability, student_t, t_interval


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99, 0.99375, 0.9999])
def test_quantile_has_its_closed_forms(confidence: float) -> None:
    # one degree: Cauchy; two degrees: t = sqrt(2 c^2 / (1 - c^2))
    assert student_t(confidence, 1) == pytest.approx(math.tan(math.pi * confidence / 2), rel=1e-10)
    two = math.sqrt(2 * confidence**2 / (1 - confidence**2))
    assert student_t(confidence, 2) == pytest.approx(two, rel=1e-10)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7, 8, 9, 19, 40, 101, 1000])
def test_quantile_agrees_with_scipy(degrees: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for confidence in (0.1, 0.5, 0.9, 0.95, 0.99, 0.99375, 0.9999):
        expected = stats.t.ppf((1 + confidence) / 2, degrees)
        assert student_t(confidence, degrees) == pytest.approx(expected, rel=1e-9)


def test_quantile_tends_to_the_normal_one() -> None:
    normal = statistics.NormalDist().inv_cdf(0.975)
    assert student_t(0.95, 20_000) == pytest.approx(normal, rel=1e-4)


@pytest.mark.parametrize(("confidence", "degrees"), [(0.0, 3), (1.0, 3), (math.nan, 3), (0.95, 0)])
def test_quantile_refuses_what_has_none(confidence: float, degrees: int) -> None:
    with pytest.raises(InputError, match="no Student-t quantile"):
        student_t(confidence, degrees)


@settings(deadline=None, max_examples=60)
@given(degrees=st.integers(1, 60), confidence=st.floats(0.01, 0.999))
def test_quantile_inverts_the_distribution(degrees: int, confidence: float) -> None:
    angle = math.atan(student_t(confidence, degrees) / math.sqrt(degrees))
    assert central_probability(angle, degrees) == pytest.approx(confidence, abs=1e-12)


def test_interval_of_two_and_of_many_values() -> None:
    # n = 2: mean ± tan(π c / 2) |a - b| / 2
    pair = t_interval([1.0, 3.0], confidence=0.9)
    assert pair is not None
    assert pair.mean == 2.0
    assert pair.high - pair.mean == pytest.approx(math.tan(math.pi * 0.45))
    stats = pytest.importorskip("scipy.stats")
    values = [0.3, -1.2, 2.5, 0.7, 0.1]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    many = t_interval(values)
    assert many is not None
    assert (many.low, many.high, many.n) == (pytest.approx(low), pytest.approx(high), 5)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf, 2.0]])
def test_no_interval_without_two_finite_values(values: list[float]) -> None:
    assert t_interval(values) is None


def test_agreeing_steps_do_not_give_a_point() -> None:
    point = t_interval([1.0, 1.0, 1.0])
    assert point is not None
    assert point.low == point.high == 1.0
    steps = t_interval([1.0, 1.0, 1.0], resolution=0.1)
    assert steps is not None
    expected = student_t(0.95, 2) * 0.1 / math.sqrt(12) / math.sqrt(3)
    assert steps.high - 1.0 == pytest.approx(expected)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(7).normal(3.0, 2.0, size=(4000, 5))
    intervals = [t_interval(row.tolist(), confidence=0.9) for row in draws]
    covered = sum(i is not None and i.low <= 3.0 <= i.high for i in intervals)
    spread = math.sqrt(0.9 * 0.1 / 4000)
    assert abs(covered / 4000 - 0.9) < 4 * spread
