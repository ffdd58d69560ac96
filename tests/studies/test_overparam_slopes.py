"""Slopes, optima and spreads, against closed forms and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lowland.studies.overparam.arms import Arm, parameters, twin
from lowland.studies.overparam.slopes import best_radius, deviations, interquartile, slope


def test_a_slope_is_numpys() -> None:
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=9).tolist(), draws.normal(size=9).tolist()
    assert slope(x, y) == pytest.approx(np.polyfit(x, y, 1)[0])
    assert math.isnan(slope([1.0], [2.0]))
    assert math.isnan(slope([1.0, 1.0], [2.0, 3.0]))
    assert math.isnan(slope([1.0, 2.0], [2.0, math.nan]))


@pytest.mark.parametrize("bottom", [-0.9, -0.6, -0.4, -0.2])
def test_the_best_radius_of_a_parabola_is_its_vertex(bottom: float) -> None:
    """Whatever the spacing of the grid."""
    grid = (0.05, 0.1, 0.3, 0.4, 0.8, 1.6)
    errors = {rho: 0.1 + (math.log10(rho) - bottom) ** 2 for rho in grid}
    assert best_radius(errors) == pytest.approx(bottom)


def test_best_radii_at_ends_ties_and_zero() -> None:
    assert 10 ** best_radius({0.0: 0.3, 0.1: 0.2, 0.4: 0.1}) == pytest.approx(0.4)
    assert 10 ** best_radius({0.0: 0.1, 0.2: 0.2, 0.4: 0.3}) == pytest.approx(0.1), "half of 0.2"
    tied = {0.0: 0.3, 0.1: 0.1, 0.2: 0.2, 0.4: 0.1}
    assert 10 ** best_radius(tied) == pytest.approx(0.2), "geometric mean of 0.1 and 0.4"
    # two neighbours that tie: the parabola and the mean agree, so there is no jump
    nearly = {0.1: 0.3, 0.2: 0.1, 0.4: 0.1 + 1e-9, 0.8: 0.3}
    assert best_radius(nearly) == pytest.approx(best_radius({**nearly, 0.4: 0.1}), abs=1e-6)


def test_a_radius_without_a_finite_error_is_left_out() -> None:
    assert 10 ** best_radius({0.1: 0.2, 0.2: 0.1, 0.4: math.nan}) == pytest.approx(0.2)
    assert math.isnan(best_radius({0.1: math.nan, 0.2: 0.1}))
    assert math.isnan(best_radius({0.0: 0.1}))


def test_deviations_are_from_the_median_of_the_others() -> None:
    values = dict(enumerate([1.0, 2.0, 4.0, 8.0]))
    assert deviations(values) == {0: 3.0, 1: 2.0, 2: 2.0, 3: 6.0}
    assert deviations({0: 1.0}) == {}
    assert all(math.isnan(d) for d in deviations({**values, 4: math.nan}).values())


def test_quartile_distances_are_numpys() -> None:
    values = np.random.default_rng(1).normal(size=11)
    low, high = np.quantile(values, [0.25, 0.75])
    assert interquartile(values.tolist()) == pytest.approx(high - low)
    assert math.isnan(interquartile([1.0]))


def test_groups_parameters_and_twins() -> None:
    assert Arm(hidden=(6, 6)).group == "mlp 6-6"
    arm = Arm(hidden=(300, 100), noise=0.4, decay=True, mask="snip", sparsity=0.9)
    assert arm.group == "mlp 300-100, label noise 0.4, weight decay, snip mask 0.9"
    assert parameters(784, (300, 100), 10) == 266_610
    for sparsity in (0.5, 0.95):
        hidden = twin(784, (1200, 400), 10, sparsity)
        active = (1 - sparsity) * (784 * 1200 + 1200 * 400 + 4000)
        dense = 784 * hidden[0] + hidden[0] * hidden[1] + 10 * hidden[1]
        assert dense == pytest.approx(active, rel=0.01)
        assert hidden[0] == pytest.approx(3 * hidden[1], abs=2)
