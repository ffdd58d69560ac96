"""Coordinates in which the second moment of the features is diagonal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowland.measure.probes.design import Design

WIDE = 4096
"""Largest matrix whose eigenvectors are computed."""

ROWS_PER_FEATURE = 16
"""Rows that the second moment is taken from: its errors are then ±2/√16 of its eigenvalues, which
is far less than the curvature of the loss differs from it."""


@dataclass(frozen=True)
class Spectral:
    """Isometric coordinates of R^d: along eigenvectors of XᵀX, and what is orthogonal to them.

    Vectors that are handed over have d entries and one more, for an intercept, that stays as it is.

    Attributes:
        vectors: (d, r) orthonormal eigenvectors.
        energies: (r or r + d,) eigenvalues of XᵀX, one per coordinate.
        diagonal: (d,) of XᵀX.
        whole: whether r = d, so that there is nothing orthogonal.
    """

    vectors: Tensor
    energies: Tensor
    diagonal: Tensor
    whole: bool

    def to(self, v: Tensor) -> Tensor:
        """The coordinates (..., r + 1 or r + d + 1) of vectors (..., d + 1)."""
        basis = self.vectors
        d = len(basis)
        if self.whole:
            out = torch.empty_like(v)
            torch.matmul(v[..., :d], basis, out=out[..., :d])
            out[..., d:] = v[..., d:]
            return out
        inside = v[..., :d] @ basis
        return torch.cat([inside, v[..., :d] - inside @ basis.T, v[..., d:]], -1)

    def back(self, v: Tensor) -> Tensor:
        """The vectors of these coordinates: the inverse of `to` on its range."""
        basis = self.vectors
        d, r = basis.shape
        if self.whole:
            out = torch.empty_like(v)
            torch.matmul(v[..., :d], basis.T, out=out[..., :d])
            out[..., d:] = v[..., d:]
            return out
        vector = v[..., :r] @ basis.T
        return torch.cat([vector + v[..., r : r + d], v[..., r + d :]], -1)

    def gram(self) -> Tensor:
        """(d, d) XᵀX, as far as it is known."""
        r = self.vectors.shape[1]
        inside = self.energies[:r]
        if self.whole:
            return (self.vectors * inside) @ self.vectors.T
        outside = self.energies[r:]
        kept = (self.vectors * (inside - outside[:1])) @ self.vectors.T
        kept.diagonal().add_(outside)
        return kept


def spectral_basis(design: Design) -> Spectral:
    """Eigenvectors of XᵀX, or of as many rows of X as settle it.

    All d of them for d ≤ n and d ≤ `WIDE`; otherwise those of at most `WIDE` rows, through the
    smaller product XXᵀ. What the rows left out is spread evenly over the other directions.

    Cost: min(n, 16·d)·d² multiply-adds and one eigenvalue problem of size min(n, d, `WIDE`).
    """
    n, d = design.n, design.d
    tall = d <= min(n, WIDE)
    count = min(n, max(WIDE, ROWS_PER_FEATURE * d)) if tall else min(n, WIDE)
    rows = design.subset(_some(n, count))
    share = n / count
    diagonal = rows.square().sum(0) * share
    if tall:
        values, vectors = _eigen(_products(rows.T, design))
        return Spectral(vectors, values.clamp_min(0) * share, diagonal, True)
    values, left = _eigen(_products(rows, design))
    kept = values > 1e-12 * values.max().clamp_min(1e-300)
    values, left = values[kept], left[:, kept]
    vectors = rows.T @ (left / values.sqrt())
    # the division has amplified errors along small energies; coordinates must be orthonormal
    vectors = torch.linalg.qr(vectors).Q if len(values) else vectors
    outside = (diagonal.sum() - share * values.sum()).clamp_min(0) / max(1, d - len(values))
    if count == n:
        outside = torch.zeros_like(outside)
    return Spectral(vectors, torch.cat([values * share, outside.expand(d)]), diagonal, False)


def _some(n: int, count: int) -> Tensor:
    if count == n:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count].sort().values


def _products(left: Tensor, design: Design) -> Tensor:
    """left·leftᵀ: in float32 where that is safe, for it only guides the search."""
    if design.fits_single and left.numel() > 2**20:
        single = left.float()
        return (single @ single.T).double()
    return left @ left.T


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues and vectors; on the CPU by NumPy, which is faster there than torch."""
    if matrix.device.type == "cpu":
        values, vectors = np.linalg.eigh(matrix.numpy())
        return torch.from_numpy(values), torch.from_numpy(vectors)
    found = torch.linalg.eigh(matrix)
    return found.eigenvalues, found.eigenvectors
