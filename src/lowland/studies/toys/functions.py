"""The losses of the toys, with their gradients written out; points are rows (runs, 2)."""

from __future__ import annotations

import torch
from torch import Tensor

SADDLE = (0.0, 1.0)
"""Beale's saddle point; its Hessian there has eigenvalues ±27.75."""
BEALE_CURVATURE = 27.75
BEALE_MINIMUM = (3.0, 0.5)
_TARGETS = (1.5, 2.25, 2.625)


def hyperbolic(points: Tensor) -> Tensor:
    """The gradient of x² − y²: (2x, −2y)."""
    return points * points.new_tensor([2.0, -2.0])


def beale(points: Tensor) -> Tensor:
    """Σ_k (c_k − x + x·y^k)², k = 1, 2, 3 and c = 1.5, 2.25, 2.625.

    >>> float(beale(torch.tensor([[3.0, 0.5]])))
    0.0
    """
    x, y = points[:, 0], points[:, 1]
    terms = [(c - x + x * y**k).square() for k, c in enumerate(_TARGETS, start=1)]
    return torch.stack(terms).sum(0)


def beale_gradient(points: Tensor) -> Tensor:
    """∇ of `beale`: (Σ 2 r_k (y^k − 1), Σ 2 r_k k x y^(k−1)) with r_k = c_k − x + x·y^k."""
    x, y = points.unbind(1)
    square = y * y
    first, second, third = y - 1, square - 1, square * y - 1
    r1, r2, r3 = 1.5 + x * first, 2.25 + x * second, 2.625 + x * third
    by_x = r1 * first + r2 * second + r3 * third
    by_y = x * (r1 + 2 * y * r2 + 3 * square * r3)
    return 2 * torch.stack([by_x, by_y], 1)


def valley(points: Tensor) -> Tensor:
    """The gradient of ℓ(xy) with ℓ(s) = 2·log cosh(s/2): ℓ'(xy)·(y, x), ℓ' = tanh(s/2).

    ℓ''(0) = 1/2. Every point with xy = 0 is a minimum; at (0, y) the curvature is ℓ''(0)·y².
    """
    slope = torch.tanh(points.prod(1, keepdim=True) / 2)
    return slope * points.flip(1)


def quadratics(hessians: Tensor, points: Tensor) -> Tensor:
    """H_k·w_k of every row: the gradient of ½·wᵀHw."""
    return torch.einsum("kij,kj->ki", hessians, points)


def rotated(eigenvalues: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A symmetric matrix with these eigenvalues in a random basis, and the basis in columns."""
    size = len(eigenvalues)
    noise = torch.randn(size, size, dtype=torch.float64, generator=generator)
    basis = torch.linalg.qr(noise)[0]
    return basis @ torch.diag(eigenvalues) @ basis.T, basis


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number between two."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
