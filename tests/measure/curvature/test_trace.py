"""The trace: exact where it can be, unbiased and with honest intervals where it is sampled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from curvature_cases import (
    dense_ggn,
    dense_hessian,
    double_batches,
    double_net,
    rotated,
    symmetric,
    tiny_batches,
    tiny_net,
)
from measure_cases import Quadratic, half_squares, per_example
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.student import student_t
from lowland.measure.curvature import hessian_trace
from lowland.measure.curvature.trace import TraceEstimate, _Plan

DECAYING = [5.0, 4.0, 3.0, 2.0, 1.0, *[0.5 * math.exp(-i / 20) for i in range(80)], *[-0.1] * 15]
FLAT = [1.0] * 60 + [0.5] * 60
SIGNS = [(-1) ** i / math.sqrt(i + 1) for i in range(120)]
OUTLIER = [100.0] + [0.1] * 99
SPECTRA = {"decaying": DECAYING, "flat": FLAT, "signs": SIGNS, "outlier": OUTLIER}


def estimated(matrix: Tensor, seed: int, **options: Any) -> TraceEstimate:
    asked = {"tolerance": None, "absolute": 0.0, "sketch": 10, "probes": 10, "max_products": 900}
    return _Plan(**{**asked, **options}).carried_out(symmetric(matrix), True, seed)


def test_a_network_exactly_with_as_many_products_as_weights() -> None:
    model, data = double_net(), double_batches()
    expected = float(dense_hessian(model, data).trace())
    found = hessian_trace(model, per_example, data, sketch=30, probes=10)
    assert found.exact
    assert found.converged
    assert (found.uncertainty, found.products, found.size) == (0, 65, 65)
    assert found.value == found.low == found.high == pytest.approx(expected, rel=1e-12)


def test_a_network_to_a_tolerance() -> None:
    model, data = double_net(), double_batches()
    expected = float(dense_hessian(model, data).trace())
    found = hessian_trace(model, per_example, data, sketch=8, probes=10, tolerance=0.8)
    assert not found.exact
    assert found.converged
    assert found.low <= expected <= found.high
    assert (found.high - found.low) / 2 <= 0.8 * abs(found.value)
    assert found.degrees == 9
    assert found.products == 16 + found.probes


def test_the_gauss_newton_matrix_and_a_block() -> None:
    model, data = double_net(), double_batches()
    found = hessian_trace(model, per_example, data, matrix="ggn", sketch=30, probes=10)
    assert found.value == pytest.approx(float(dense_ggn(model, data).trace()), rel=1e-12)
    head = hessian_trace(model, per_example, data, parameters="head")
    dense = dense_hessian(model, data, names=["head.weight", "head.bias"])
    assert head.exact
    assert head.value == pytest.approx(float(dense.trace()), rel=1e-12)
    blocks = [
        hessian_trace(model, per_example, data, parameters=name, sketch=30, probes=5).value
        for name in ("block1", "block2", "head")
    ]
    whole = hessian_trace(model, per_example, data, sketch=30, probes=10)
    assert sum(blocks) == pytest.approx(whole.value, rel=1e-12)


def test_float32_in_a_closed_form() -> None:
    curvatures = torch.tensor([[2.0, -3.0, 0.5], [4.0, -1.0, 0.5]])
    model = Quadratic(0.0, 0.0, 0.0).float()
    found = hessian_trace(model, half_squares, [(torch.zeros(2, 3), curvatures)])
    assert found.value == pytest.approx(1.5)
    assert found.dtype == "float32"


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("sketch", [0, 10])
def test_the_estimate_is_unbiased(name, sketch) -> None:
    matrix = rotated(SPECTRA[name])
    found = [estimated(matrix, seed, sketch=sketch, probes=4) for seed in range(150)]
    values = torch.tensor([f.value for f in found], dtype=torch.float64)
    assert all(f.captured == 0 for f in found) == (sketch == 0)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - sum(SPECTRA[name])) <= 3.5 * error + 1e-9


def test_a_sketch_takes_what_the_samples_would_scatter_by() -> None:
    matrix = rotated(OUTLIER)
    with_sketch = estimated(matrix, 0).error
    assert with_sketch < 0.02 * estimated(matrix, 0, sketch=0, probes=30).error


def test_a_matrix_of_low_rank_is_exact_up_to_rounding() -> None:
    found = estimated(rotated([3.0, -2.0, 1.0, *[0.0] * 97]), 0)
    assert found.value == pytest.approx(2.0, abs=1e-12)
    assert found.error < 1e-12
    assert estimated(torch.zeros(99, 99, dtype=torch.float64), 0).value == 0


def test_the_number_of_probes_comes_from_the_first_ones_alone() -> None:
    matrix = rotated(FLAT)
    first = estimated(matrix, 3, sketch=0)
    half = 0.3 * first.half
    more = estimated(matrix, 3, sketch=0, absolute=half, tolerance=0.0)
    spread = first.error * math.sqrt(10)
    assert more.probes == math.ceil((student_t(0.95, 9) * spread / half) ** 2)
    assert more.half <= half
    assert more.degrees == 9
    assert more.converged


def test_as_many_probes_as_rows_are_not_drawn() -> None:
    found = estimated(rotated(FLAT), 0, tolerance=1e-6)
    assert found.exact
    assert found.value == pytest.approx(90, rel=1e-12)


def test_too_few_products_are_said_and_the_interval_is_wider() -> None:
    found = estimated(rotated(SIGNS), 0, tolerance=1e-3, max_products=60)
    assert not found.converged
    assert found.probes == 40
    assert found.half > 1e-3 * abs(found.value)


def covered(matrix: Tensor, count: int, **options: Any) -> float:
    expected = float(matrix.trace())
    found = [estimated(matrix, seed, **options) for seed in range(count)]
    return sum(abs(f.value - expected) <= f.half for f in found) / count


def test_intervals_cover_as_often_as_said() -> None:
    """400 repetitions: 95% give or take three standard errors of 1.1%."""
    assert 0.917 <= covered(rotated(DECAYING), 400, sketch=5, probes=5) <= 0.983


LARGE = {
    "decaying": [5.0, 4.0, 3.0, 2.0, *[math.exp(-i / 60) for i in range(366)], *[-0.2] * 30],
    "flat": [1.0] * 200 + [0.5] * 200,
    "signs": [0.1 + (-1) ** i / math.sqrt(i + 1) for i in range(400)],
}
HALF_WIDTHS = {"decaying": 3.0, "flat": 3.0, "signs": 1.2}  # ask for 20 to 100 probes


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["fixed", "absolute", "relative"])
@pytest.mark.parametrize("probes", [4, 10])
@pytest.mark.parametrize("name", LARGE)
def test_calibration(name, probes, stop) -> None:
    """2,000 repetitions each, with and without a tolerance to stop at: 93-97%."""
    half = HALF_WIDTHS[name]
    goal = {
        "fixed": {"tolerance": None},
        "absolute": {"tolerance": 0.0, "absolute": half},
        "relative": {"tolerance": half / sum(LARGE[name])},
    }[stop]
    options = {"probes": probes, "sketch": 5, "max_products": 390, **goal}
    share = covered(rotated(LARGE[name]), 2000, **options)
    assert 0.93 <= share <= 0.97, share


@pytest.mark.slow
def test_coverage_where_a_few_eigenvalues_dominate_whatever_the_sketch() -> None:
    """The samples are then skewed, and t too narrow: the docstring says by how much."""
    share = covered(rotated([0.7**i for i in range(200)]), 2000)
    assert 0.89 <= share <= 0.93, share


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 1}, "probes=1, sketch=10: give at least 2"),
        ({"sketch": -1}, "sketch=-1: give at least 2 and at least 0"),
        ({"tolerance": -0.1}, "tolerance: -0.1 is no half-width"),
        ({"absolute": math.nan}, "absolute: nan is no half-width"),
        ({"max_products": 29}, "29 are fewer than 2·sketch \\+ probes = 30"),
    ],
)
def test_what_cannot_be_asked_for(options, message) -> None:
    with pytest.raises(InputError, match=message):
        hessian_trace(tiny_net(), per_example, tiny_batches(), **options)
