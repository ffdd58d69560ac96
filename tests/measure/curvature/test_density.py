"""The spectral density against spectra that are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from curvature_cases import dense_hessian, double_batches, double_net, tiny_batches, tiny_net
from measure_cases import Quadratic, half_squares, per_example

from lowland.core.errors import InputError
from lowland.measure.curvature import HessianDensity, hessian_density


def of_spectrum(values: list[float], **options: object) -> HessianDensity:
    curvatures = torch.tensor([values], dtype=torch.float64)
    data = [(torch.zeros_like(curvatures), curvatures)]
    return hessian_density(Quadratic(*[0.0] * len(values)), half_squares, data, **options)


def test_moments_are_those_of_the_network() -> None:
    model, data = double_net(), double_batches()
    dense = dense_hessian(model, data)
    found = hessian_density(model, per_example, data, probes=40, steps=4)
    mean, square = float(dense.trace()) / 65, float(dense.square().sum()) / 65
    assert abs(found.value - mean) <= 3.5 * found.uncertainty
    assert abs(found.mean_square - square) <= 3.5 * found.mean_square_error
    assert found.products == 160
    assert (found.size, found.n, found.dtype) == (65, 10, "float64")


def test_the_density_integrates_to_one_and_weights_sum_to_one() -> None:
    found = hessian_density(tiny_net(), per_example, tiny_batches(), steps=10)
    assert np.allclose(found.weights.sum(1), 1, atol=1e-12)
    assert np.isrealobj(found.weights)
    assert found.weights.min() >= 0
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-3)
    assert found.nodes.shape == found.weights.shape == (5, 10)
    assert found.density.shape == found.density_error.shape == found.grid.shape == (512,)
    assert json.loads(json.dumps(found.to_dict()))["width"] == found.width


def test_peaks_stand_where_eigenvalues_are_and_as_high() -> None:
    """Three values, 60%, 30% and 10% of 200: three steps are exact for each probe."""
    values = [0.0] * 120 + [1.0] * 60 + [-2.0] * 20
    found = of_spectrum(values, probes=30, steps=3, width=0.05)
    assert np.allclose(found.nodes, [-2, 0, 1], atol=1e-9)
    assert found.weights.mean(0) == pytest.approx([0.1, 0.6, 0.3], abs=0.03)
    for value, share in ((-2, 0.1), (0, 0.6), (1, 0.3)):
        near = np.abs(found.grid - value) < 0.25
        assert np.trapezoid(found.density[near], found.grid[near]) == pytest.approx(share, abs=0.04)
    assert found.share_below(-0.5) == pytest.approx((0.1, 0.1), abs=0.6)


def test_bounds_on_shares_hold_the_truth_for_each_probe() -> None:
    """For a single v the distribution itself is known: Σ v_i² over the eigenvalues below."""
    values = torch.linspace(-1, 2, 150).tolist()
    found = of_spectrum(values, probes=60, steps=12)
    for value in (-0.9, -0.5, 0.0, 0.7, 1.5, 1.95):
        low, high = found.share_below(value)
        truth = sum(v < value for v in values) / len(values)
        assert low - 0.02 <= truth <= high + 0.02
        assert high - low < 0.45
    assert found.share_below(-9) == (0, 0)
    assert found.share_below(9) == (1, 1)


def test_shares_are_exact_with_as_many_steps_as_eigenvalues() -> None:
    found = of_spectrum([1.0, 2.0, 3.0], probes=2, steps=9)
    assert found.nodes.shape == (2, 3)
    low, high = found.share_below(2.5)
    weights = found.weights.mean(0)
    assert low <= weights[:2].sum() <= high


def test_no_eigenvalue_is_outside_of_the_support() -> None:
    values = torch.linspace(0, 1, 300).tolist()
    outside = 0
    for seed in range(40):
        found = of_spectrum(values, probes=2, steps=6, seed=seed)
        outside += found.low > 0 or found.high < 1
        assert found.nodes.min() > 0
        assert found.nodes.max() < 1
    assert outside <= 3


def test_a_spectrum_of_one_value() -> None:
    found = of_spectrum([2.0] * 30, probes=2, steps=4)
    assert found.value == pytest.approx(2)
    assert found.width == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((2, 2))
    assert np.isfinite(found.density).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 1}, "probes=1, steps=40, points=512: give at least 2"),
        ({"steps": 1}, "give at least 2"),
        ({"width": 0.0}, "width: 0.0; give a positive"),
        ({"width": math.inf}, "width: inf; give a positive"),
    ],
)
def test_what_cannot_be_asked_for(options, message) -> None:
    with pytest.raises(InputError, match=message):
        hessian_density(tiny_net(), per_example, tiny_batches(), **options)
