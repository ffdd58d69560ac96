"""Gini coefficients and Lorenz curves against closed forms and the double sum."""

from __future__ import annotations

import pytest
import torch

from lowland.studies.mechanism import gini, lorenz


def test_closed_forms() -> None:
    assert gini(torch.full((7,), 3.0)).item() == 0.0
    assert gini(torch.tensor([0.0, 5.0, 0.0, 0.0, 0.0])).item() == pytest.approx(4 / 5)
    n = 10
    assert gini(torch.arange(1.0, n + 1)).item() == pytest.approx((n - 1) / (3 * n))
    assert torch.isnan(gini(torch.zeros(3)))


def test_gini_is_the_double_sum_and_forgets_scale_and_order() -> None:
    x = torch.rand(3, 40, dtype=torch.float64) ** 3
    slow = (x[:, :, None] - x[:, None]).abs().sum((1, 2)) / (2 * 40 * x.sum(1))
    torch.testing.assert_close(gini(x), slow)
    torch.testing.assert_close(gini(1e-30 * x.flip(1)), slow)


def test_lorenz_of_equal_values_is_the_diagonal() -> None:
    diagonal = torch.linspace(0, 1, 9, dtype=torch.float64)
    torch.testing.assert_close(lorenz(torch.full((5,), 2.0), 9), diagonal)


def test_the_area_under_the_curve_gives_gini() -> None:
    x = torch.rand(2, 12, dtype=torch.float64)
    curve = lorenz(x, 13)  # a point at every value, between which it is linear
    area = ((curve[:, 1:] + curve[:, :-1]) / 2).mean(1)
    torch.testing.assert_close(1 - 2 * area, gini(x))
    assert bool((curve[:, 0] == 0).all())
    torch.testing.assert_close(curve[:, -1], torch.ones(2, dtype=torch.float64))
    fine = lorenz(x, 101)
    assert bool((fine.diff(dim=1) >= 0).all())
    assert bool((fine <= torch.linspace(0, 1, 101, dtype=torch.float64) + 1e-12).all())
