"""Lanczos on matrices whose eigenvalues are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from curvature_cases import rotated, symmetric
from torch import Tensor

from lowland.measure.curvature.bounds import smallest_overlap, upper_bound
from lowland.measure.curvature.eigenvalues import _Found, _search
from lowland.measure.curvature.krylov import KrylovSpace, Symmetric
from lowland.measure.curvature.lanczos import Search, Which, order

BULK = torch.linspace(-0.3, 0.5, 150).tolist()
SPECTRA = {
    "multiple": [3.0, 3.0, 3.0, 2.0, 2.0, 1.5, *BULK],
    "clustered": [3.0, 2.9999, 2.9998, 2.5, 2.4999, *BULK],
    "both signs": [-5.0, 4.0, -3.0, 2.0, 1.0, *BULK],
    "identity": [1.0] * 100,
    "zero": [0.0] * 100,
    "low rank": [5.0, 4.0, 3.0, 2.0, 1.0, *[0.0] * 100],
    "all negative": [-float(i) for i in range(1, 60)],
}


def found(matrix: Symmetric, which: Which = "algebraic", **options: Any) -> _Found:
    asked = {"k": 5, "tolerance": 1e-3, "max_products": 400, "block": 1, "capacity": 40}
    look = options.pop("look_for_missed", True)
    seed = options.pop("seed", 0)
    return _search(matrix, Search(which=which, **{**asked, **options}), True, look, seed)


@pytest.mark.parametrize("which", ["algebraic", "magnitude", "smallest"])
@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(name, which) -> None:
    spectrum = torch.tensor(SPECTRA[name], dtype=torch.float64)
    expected = spectrum[order(spectrum, which)]
    for dtype in (torch.float64, torch.float32):
        result = found(symmetric(rotated(SPECTRA[name], dtype)), which)
        values, residuals = torch.tensor(result.values), torch.tensor(result.residuals)
        assert all(result.converged_each)
        assert torch.allclose(values.double(), expected[:5], rtol=1e-5, atol=2e-5)
        for value, residual in zip(values, residuals, strict=True):
            assert float((spectrum - value).abs().min()) <= residual + 1e-6
        if result.complete:
            assert further(expected[5], which) <= further(result.others, which) + 1e-6


def further(value: Any, which: str) -> float:
    return {"algebraic": float(value), "smallest": -float(value)}.get(which, abs(float(value)))


@pytest.mark.parametrize("block", [2, 3, 7])
def test_blocks(block) -> None:
    result = found(symmetric(rotated(SPECTRA["multiple"])), block=block)
    assert result.values == pytest.approx((3, 3, 3, 2, 2), rel=1e-5)
    assert result.complete


def test_one_vector_misses_copies_and_the_second_look_finds_them() -> None:
    """The failure that residuals do not show: every value returned is an eigenvalue."""
    matrix = symmetric(rotated(SPECTRA["multiple"]))
    blind = found(matrix, look_for_missed=False)
    assert all(blind.converged_each)
    assert blind.values[0] == pytest.approx(3, rel=1e-6)
    assert blind.values[2] < 2.5
    assert not blind.complete
    assert math.isinf(blind.others)
    assert found(matrix).values[:3] == pytest.approx((3, 3, 3), rel=1e-5)


def test_copies_of_zero_beside_a_cluster_are_found_to_their_own_tolerance() -> None:
    spectrum = [1 + 1e-5 * i for i in range(30)] + [0.0] * 100
    result = found(symmetric(rotated(spectrum, torch.float64)), "smallest")
    assert all(result.converged_each)
    assert result.complete
    assert result.values == pytest.approx([0.0] * 5, abs=1e-5)


def test_residuals_are_those_of_the_vectors() -> None:
    dense = rotated(SPECTRA["both signs"])
    result = found(symmetric(dense), "magnitude")
    assert result.values == pytest.approx((-5, 4, -3, 2, 1), rel=1e-5)
    values = torch.tensor(result.values, dtype=torch.float64)
    apart = result.vectors @ dense - values[:, None] * result.vectors
    assert torch.allclose(apart.norm(dim=1), torch.tensor(result.residuals).double(), atol=1e-12)
    eye = torch.eye(5, dtype=torch.float64)
    assert torch.allclose(result.vectors @ result.vectors.T, eye, atol=1e-12)


def test_few_products_are_said_not_to_have_converged() -> None:
    """A published library returns whatever it has after 100 iterations, without a word."""
    spectrum = torch.linspace(0, 1, 400).tolist()
    result = found(symmetric(rotated(spectrum)), max_products=20)
    assert not all(result.converged_each)
    assert not result.complete
    assert result.products <= 20
    for value, residual in zip(result.values, result.residuals, strict=True):
        assert min(abs(value - s) for s in spectrum) <= residual


def test_restarts_cost_memory_for_products() -> None:
    matrix = symmetric(rotated(SPECTRA["both signs"]))
    small, large = found(matrix, capacity=14), found(matrix, capacity=100)
    assert small.values == pytest.approx(large.values, rel=1e-5)
    assert small.products >= large.products


def test_noise_in_products_is_stagnation_and_not_convergence() -> None:
    dense = rotated(SPECTRA["both signs"])
    noise = torch.Generator().manual_seed(3)

    def multiply(rows: Tensor) -> Tensor:
        random = torch.randn(rows.shape, generator=noise, dtype=torch.float64)
        return rows @ dense + 0.003 * random

    result = found(Symmetric(multiply, len(dense), torch.float64, torch.device("cpu")))
    assert not any(result.converged_each)
    assert result.stagnated
    assert result.products < 100
    assert min(result.residuals) > 0.01


def test_a_whole_small_matrix() -> None:
    spectrum = [1.0, 1.0, -2.0, 0.0]
    result = found(symmetric(rotated(spectrum)), k=4, block=2)
    assert result.values == pytest.approx((1, 1, 0, -2), abs=1e-12)
    assert result.others is None
    assert result.complete


def test_the_basis_is_orthonormal_and_the_projection_exact_after_restarts() -> None:
    dense = rotated(SPECTRA["multiple"])
    space = KrylovSpace(symmetric(dense), 12, 2, torch.Generator().manual_seed(0))
    for _ in range(20):
        space.expand()
        ritz = space.ritz()
        rows = space.rows(torch.eye(space.filled, dtype=torch.float64))
        eye = torch.eye(len(rows), dtype=torch.float64)
        assert torch.allclose(rows @ rows.T, eye, atol=1e-12)
        inner = torch.linalg.eigvalsh(rows @ dense @ rows.T)
        assert torch.allclose(inner, ritz.values, atol=1e-12)
        vectors = space.rows(ritz.vectors)
        apart = (vectors @ dense - ritz.values[:, None] * vectors).norm(dim=1)
        assert torch.allclose(apart, ritz.residuals, atol=1e-11)
        if space.full:
            space.restart(ritz.vectors[:, -5:])


def test_the_bound_is_the_root_of_the_lanczos_polynomial() -> None:
    values = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    bound = upper_bound(values, [1.0, 2.0, 0.5], 0.01)
    assert bound > 3
    assert math.prod(bound - v for v in values.tolist()) == pytest.approx(1.0 / 0.01, rel=1e-9)
    assert upper_bound(values, [1.0, 0.0, 0.5], 0.01) == 3


@pytest.mark.parametrize("size", [2, 3, 10, 1000])
def test_overlaps_are_smaller_as_seldom_as_said(size) -> None:
    draws = torch.Generator().manual_seed(0)
    v = torch.randn(20_000, size, generator=draws)
    shares = (v[:, 0] / v.norm(dim=1)).abs()
    small = float((shares < smallest_overlap(size, 0.9)).float().mean())
    assert 0.05 < small < 0.107  # 0.1 at most, and three standard errors


def test_bounds_hold_as_often_as_said() -> None:
    """Ten steps are far from enough for a large flat spectrum: the bound has to make up for it."""
    spectrum = torch.linspace(0, 1, 300, dtype=torch.float64)
    dense = torch.diag(spectrum)
    overlap, missed, beyond = smallest_overlap(300, 0.9), 0, 0
    for seed in range(300):
        space = KrylovSpace(symmetric(dense), 10, 1, torch.Generator().manual_seed(seed))
        lengths = []
        for _ in range(10):
            space.expand()
            lengths.append(space.step_length())
        ritz = space.ritz()
        missed += upper_bound(ritz.values, lengths, overlap) < 1
        beyond += float(ritz.values.max()) < 1
    assert missed <= 45  # 10% and three standard errors
    assert beyond == 300
