"""Second derivatives of the logistic loss: products from the data, and factors like them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowland.measure.probes.objective import Problems, log_probabilities, piece_rows
from lowland.measure.probes.spectral import Spectral

KEPT = 2**26
"""Probabilities that are kept between products at most; more are computed anew for each."""

FACTORS = 2**28
"""Elements of Cholesky factors at most (1 GiB of float32)."""


class Curvature:
    """∇² of C·Σ w·ℓ at x, for every fit."""

    def __init__(self, problems: Problems, x: Tensor, dtype: torch.dtype) -> None:
        self.problems, self.dtype = problems, dtype
        self.x = x.to(dtype)
        self.step = piece_rows(problems)
        self.weights = problems.tasks.weights
        count = problems.design.n * len(x) * problems.columns
        self._kept: list[Tensor] | None = None
        totals = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
        kept = []
        for start in range(0, problems.design.n, self.step):
            p = self._probabilities(start)
            part = p * (1 - p)
            w = self._weights(start)
            totals += (part if w is None else part * w).sum(2).double()
            if count <= KEPT:
                kept.append(p)
        self.spread = totals * problems.C[:, None]
        """(B, c) C·Σ w·p(1 - p)."""
        if count <= KEPT:
            self._kept = kept

    def _rows(self, start: int) -> Tensor:
        return self.problems.design.rows(start, start + self.step, self.dtype)

    def _weights(self, start: int) -> Tensor | None:
        if self.weights is None:
            return None
        own = self.weights[:, start : start + self.step][self.problems.task]
        return own[:, None].to(self.dtype)

    def _probabilities(self, start: int) -> Tensor:
        logp = log_probabilities(self.problems, self.x, self._rows(start))
        return logp[:, -self.problems.columns :].exp()

    def product(self, v: Tensor) -> Tensor:
        """∇²·v for v (B, c, d + 1). Cost: one read of the data."""
        count, columns, width = v.shape
        v = v.to(self.dtype)
        flat = v[..., :-1].reshape(count * columns, width - 1)
        out = torch.zeros_like(flat)
        ends = torch.zeros(count, columns, dtype=torch.float64, device=v.device)
        for i, start in enumerate(range(0, self.problems.design.n, self.step)):
            rows = self._rows(start)
            p = self._probabilities(start) if self._kept is None else self._kept[i]
            z = (flat @ rows.T).view(count, columns, -1)
            z += v[..., -1:]
            z -= (p * z).sum(1, keepdim=True)
            z *= p
            w = self._weights(start)
            if w is not None:
                z *= w
            ends += z.sum(2).double()
            out.addmm_(z.view(count * columns, -1), rows)
        full = torch.cat([out.view(count, columns, -1).double(), ends[..., None]], 2)
        return full * self.problems.C[:, None, None]


class FactoredGram:
    """Stands in for ∇² + diagonal: XᵀX times the mean of p(1 - p), class by class, plus it."""

    def __init__(self, problems: Problems, basis: Spectral) -> None:
        d = problems.design.d
        self.n = problems.design.n
        self.diagonal = basis.diagonal
        self.gram: Tensor | None = None
        if problems.columns * len(problems.C) * d * d <= FACTORS:
            self.gram = basis.gram().float()

    def inverse(self, curvature: Curvature, diagonal: Tensor) -> Callable[[Tensor], Tensor]:
        """r -> about (∇² + diagonal)⁻¹·r."""
        share = curvature.spread / self.n
        ends = 1.0 / curvature.spread.clamp_min(1e-300)
        own = share[..., None] * self.diagonal + diagonal[..., :-1]
        root = own.clamp_min(1e-300).rsqrt()
        factor = None if self.gram is None else self._factor(share, diagonal, root)

        def apply(r: Tensor) -> Tensor:
            scaled = r[..., :-1] * root
            if factor is not None:
                flat = scaled.flatten(0, 1)[..., None].float()
                scaled = torch.cholesky_solve(flat, factor)[..., 0].view_as(scaled).double()
            return torch.cat([scaled * root, (r[..., -1] * ends)[..., None]], -1)

        return apply

    def _factor(self, share: Tensor, diagonal: Tensor, root: Tensor) -> Tensor | None:
        """Cholesky factors (B·c, d, d) of the matrices scaled to a diagonal of ones."""
        assert self.gram is not None
        single = root.float().flatten(0, 1)
        matrix = self.gram * share.float().flatten()[:, None, None]
        matrix.diagonal(dim1=1, dim2=2).add_(diagonal[..., :-1].float().flatten(0, 1))
        matrix *= single[:, :, None]
        matrix *= single[:, None, :]
        matrix.diagonal(dim1=1, dim2=2).add_(1e-5)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if bool(failed.any()) else factor
