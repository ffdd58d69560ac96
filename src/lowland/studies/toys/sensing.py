"""Matrix sensing over a grid of step sizes and radii: where USAM and SAM find the matrix.

A matrix X* = U*U*ᵀ of rank r is seen through m products ⟨A_i, X*⟩ with random symmetric A_i, fewer
than it has free entries, and a square U of full size is trained from a small start on

    L(U) = (1/4m) Σ_i r_i²,    ∇L(U) = (1/m) Σ_i r_i A_i U,    r_i = ⟨A_i, UUᵀ − X*⟩.

Of all matrices that fit descent finds one that is nearly of rank r (Li, Ma and Zhang 2018). Dai et
al. (2305.15287) name this problem as one on which they varied η and ρ; their sizes and grid are not
known here, and where a grid ends decides who looks robust on it. So this is shown, not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.studies.toys.rows import Rows

Row = dict[str, float | int]

FORMS = {"usam": 0.0, "sam": 1.0}
"""λ of each."""
RECOVERED = 0.1
"""Relative errors below count as having found the matrix."""


@dataclass(frozen=True)
class Problem:
    """Sensing problems, one for each seed.

    Attributes:
        sensors: (problems, m, d·d) the A_i.
        target: (problems, d·d) X*, of spectral norm 1.
        start: (problems, d·d) U at the start.
    """

    sensors: Tensor
    target: Tensor
    start: Tensor

    @classmethod
    def draw(
        cls, seeds: Sequence[int], *, size: int, rank: int, measurements: int, start: float
    ) -> Problem:
        """Gaussian A_i with off-diagonal variance ½, Gaussian U* and a Gaussian start."""
        drawn = [_draw(one, size, rank, measurements, start) for one in seeds]
        sensors, target, begin = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return cls(sensors, target, begin)

    @property
    def size(self) -> int:
        """d."""
        return math.isqrt(self.target.shape[1])

    def residuals(self, points: Tensor) -> Tensor:
        """⟨A_i, UUᵀ − X*⟩: (problems, runs of each, m) of rows, those of a problem together."""
        return self._apart(points) @ self.sensors.mT

    def gradient(self, points: Tensor) -> Tensor:
        """∇L of every row."""
        d, problems = self.size, len(self.target)
        mixed = self.residuals(points) @ self.sensors / self.sensors.shape[1]
        u = points.reshape(problems, -1, d, d)
        found: Tensor = (mixed.reshape(u.shape) @ u).reshape(points.shape)
        return found

    def errors(self, points: Tensor) -> Tensor:
        """(problems, runs of each) ‖UUᵀ − X*‖ over ‖X*‖, Frobenius."""
        apart, whole = self._apart(points), self.target
        found: Tensor = torch.linalg.vector_norm(apart, dim=2)
        found /= torch.linalg.vector_norm(whole, dim=1, keepdim=True)
        return found

    def _apart(self, points: Tensor) -> Tensor:
        d, problems = self.size, len(self.target)
        u = points.reshape(problems, -1, d, d)
        return (u @ u.mT).flatten(2) - self.target[:, None]


def _draw(
    seed: int, size: int, rank: int, measurements: int, start: float
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    raw = torch.randn(measurements, size, size, generator=g, dtype=torch.float64)
    factor = torch.randn(size, rank, generator=g, dtype=torch.float64)
    target = factor @ factor.T
    begin = start * torch.randn(size, size, generator=g, dtype=torch.float64)
    target = target / torch.linalg.matrix_norm(target, 2)
    return ((raw + raw.mT) / 2).flatten(1), target.flatten(), begin.flatten()


def sensing(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    rates: Sequence[float],
    steps: int,
    size: int = 10,
    rank: int = 1,
    measurements: int = 45,
    start: float = 0.01,
) -> Iterator[Row]:
    """A row for every seed and ρ: ``usam/η`` and ``sam/η``, the relative errors at the end.

    NaN where a run has diverged; at ρ = 0 both are gradient descent.

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: ρ of both forms.
        rates: η of both.
        steps: of each run.
        size: d, of X* and U.
        rank: r of X*.
        measurements: m; d(d+1)/2 would determine X*.
        start: standard deviation of the entries of U at the start.
    """
    seeds = range(seed, seed + count)
    problem = Problem.draw(seeds, size=size, rank=rank, measurements=measurements, start=start)
    places = [(form, lr, radius) for form in FORMS for lr in rates for radius in radii]
    rows = Rows(
        problem.start.repeat_interleave(len(places), 0),
        [radius for _ in seeds for *_, radius in places],
        [FORMS[form] for _ in seeds for form, *_ in places],
        lr=[lr for _ in seeds for _, lr, _ in places],
    )
    for _ in range(steps):
        rows.step(problem.gradient)
    found = problem.errors(rows.now()).reshape(count, len(FORMS), len(rates), len(radii))
    for i, one in enumerate(seeds):
        for k, radius in enumerate(radii):
            row: Row = {"rho": radius, "seed": one, "step": steps}
            for j, form in enumerate(FORMS):
                row |= {f"{form}/{lr:g}": float(found[i, j, n, k]) for n, lr in enumerate(rates)}
            yield row
