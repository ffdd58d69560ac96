"""What quasi-Newton searches remember: steps, and how the gradients changed along them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


def dots(a: Tensor, b: Tensor) -> Tensor:
    """(B,) inner products of B blocks."""
    return (a * b).flatten(1).sum(1)


@dataclass
class Pairs:
    """The last pairs (s, y) of each search, in coordinates where the metric is diagonal.

    A pair counts for a search only where sᵀy > 0; elsewhere it is zero. `scale` is what the
    metric's inverse must be multiplied with to match the last pair: sᵀy / yᵀM⁻¹y.

    Attributes:
        most: how many are kept.
        scale: (B,) float64.
        steps: s of each pair, (B, c, D), oldest first.
        changes: y.
        curvatures: (B,) 1/sᵀy, zero where the pair does not count.
    """

    most: int
    scale: Tensor
    steps: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)
    curvatures: list[Tensor] = field(default_factory=list)

    def add(self, s: Tensor, y: Tensor, metric: Tensor, counts: Tensor) -> None:
        """Remember a pair for the searches in `counts`; `metric` is the diagonal of M."""
        sy, yy = dots(s, y), dots(y, y / metric)
        good = counts & (sy > 1e-14 * (dots(s, s * metric) * yy).sqrt()) & (yy > 0)
        keep = good[:, None, None]
        self.steps.append(torch.where(keep, s, 0.0))
        self.changes.append(torch.where(keep, y, 0.0))
        self.curvatures.append(torch.where(good, 1.0 / torch.where(good, sy, 1.0), 0.0))
        self.scale = torch.where(good, sy / torch.where(good, yy, 1.0), self.scale)
        for kept in (self.steps, self.changes, self.curvatures):
            del kept[: -self.most]

    def forget(self, which: Tensor) -> None:
        """Drop everything that the searches in `which` remember."""
        for kept in (self.steps, self.changes):
            kept[:] = [torch.where(which[:, None, None], 0.0, item) for item in kept]
        self.curvatures[:] = [torch.where(which, 0.0, item) for item in self.curvatures]
        self.scale = torch.where(which, 1.0, self.scale)

    def select(self, keep: Tensor) -> None:
        """Keep these searches alone."""
        self.scale = self.scale[keep]
        for kept in (self.steps, self.changes, self.curvatures):
            kept[:] = [item[keep] for item in kept]

    def apply_inverse(self, gradient: Tensor, metric: Tensor) -> Tensor:
        """H·g for the L-BFGS approximation H of the inverse Hessian, from M⁻¹ as first guess."""
        q = gradient
        parts = list(zip(self.steps, self.changes, self.curvatures, strict=True))
        taken = []
        for s, y, r in reversed(parts):
            a = r * dots(s, q)
            taken.append(a)
            q = q - a[:, None, None] * y
        q = q / metric * self.scale[:, None, None]
        for (s, y, r), a in zip(parts, reversed(taken), strict=True):
            q = q + (a - r * dots(y, q))[:, None, None] * s
        return q
