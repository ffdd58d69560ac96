"""Unified SAM's rates under PL: constant and decreasing radii, on a quadratic and on finite sums.

Settings are the authors' for n components, batches of b, smoothness L and PL constant μ:

    A = (n − b)L / (b(n − 1)),   C = n(b − 1) / (b(n − 1)),
    ρ = min{1, μ / (2(Cμ + A)(1 − λ)²)} / (4L)   (λ = 1: 1/(4L)),   η = min{2, μ / (8(Cμ + A))} / L,

and ρ_k = min(ρ, 1/(2k + 1)), η_k = min(η, (2k + 1) / ((k + 1)²μ)) where they decrease.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lowland.studies.toys.functions import quadratics, rotated
from lowland.studies.toys.rows import Rows

Row = dict[str, float | int]

SHARES = (0.0, 0.5, 1.0)
"""λ: USAM, half of each, SAM."""
EXAMPLES, BATCH = 20, 10
"""n and b of the finite sums."""
FEATURES = {"fits": 200, "does-not-fit": 5}
"""d of the finite sums: more than n, so that all losses can be 0; and fewer."""


@dataclass(frozen=True)
class Setting:
    """ρ and η of one problem for one λ.

    Attributes:
        mu, smoothness: μ and L.
        examples, batch: n and b.
        share: λ.
    """

    mu: float
    smoothness: float
    examples: int
    batch: int
    share: float

    @property
    def noise(self) -> float:
        """Cμ + A."""
        n, b = self.examples, self.batch
        if n == b:
            return self.mu
        spread = (n - b) * self.smoothness / (b * (n - 1))
        return n * (b - 1) / (b * (n - 1)) * self.mu + spread

    @property
    def rho(self) -> float:
        """The constant ρ."""
        least = 1.0
        if self.share < 1:
            least = min(1.0, self.mu / (2 * self.noise * (1 - self.share) ** 2))
        return least / (4 * self.smoothness)

    @property
    def lr(self) -> float:
        """The constant η, the same for every λ."""
        return min(2.0, self.mu / (8 * self.noise)) / self.smoothness

    def rho_at(self, k: int) -> float:
        """The decreasing ρ of step k, from 0."""
        return min(self.rho, 1 / (2 * k + 1))

    def lr_at(self, k: int) -> float:
        """The decreasing η of step k, from 0."""
        return min(self.lr, (2 * k + 1) / ((k + 1) ** 2 * self.mu))


def quadratic(
    *,
    seed: int,
    rho: float,
    count: int,
    decreasing: bool,
    steps: int,
    points: int,
    size: int = 6,
    mu: float = 0.2,
    smoothness: float = 2.0,
) -> Iterator[Row]:
    """Rows of ½·wᵀHw with the whole batch: f by λ, at the settings above with b = n.

    H has eigenvalues from μ to L evenly in the logarithm, in a random basis, from a random start.

    Args:
        seed: the first seed.
        rho: not used.
        count: seeds from the first one on.
        decreasing: whether η and ρ decrease.
        steps: of each.
        points: evenly in the step where constant, in its logarithm where decreasing.
        size: d.
        mu: μ.
        smoothness: L.
    """
    drawn = [torch.Generator().manual_seed(one) for one in range(seed, seed + count)]
    values = torch.logspace(math.log10(mu), math.log10(smoothness), size, dtype=torch.float64)
    matrices = torch.stack([rotated(values, g)[0] for g in drawn]).repeat_interleave(3, 0)
    begin = torch.stack([torch.randn(size, dtype=torch.float64, generator=g) for g in drawn])
    settings = [Setting(mu, smoothness, EXAMPLES, EXAMPLES, s) for _ in drawn for s in SHARES]

    def losses(w: Tensor) -> Tensor:
        return 0.5 * (quadratics(matrices, w) * w).sum(1)

    run = _Run(begin.repeat_interleave(3, 0), settings, decreasing)
    wanted = spaced(steps, points, log=decreasing)
    for step in range(steps + 1):
        if step in wanted:
            yield from _rows(losses(run.rows.now()).reshape(count, 3), seed, step)
        if step < steps:
            run.step(lambda w: quadratics(matrices, w))


class _Run:
    """Rows with constant or decreasing η and ρ."""

    def __init__(self, begin: Tensor, settings: Sequence[Setting], decreasing: bool) -> None:
        self._decreasing, self._count = decreasing, 0
        self._mu = torch.tensor([s.mu for s in settings], dtype=torch.float64)[:, None]
        radii, rates = [s.rho for s in settings], [s.lr for s in settings]
        self.rows = Rows(begin, radii, [s.share for s in settings], lr=rates)

    def step(self, field: Callable[[Tensor], Tensor]) -> None:
        if self._decreasing:
            k = self._count
            self.rows.rho.clamp_(max=1 / (2 * k + 1))
            torch.minimum(self.rows.lr, (2 * k + 1) / ((k + 1) ** 2 * self._mu), out=self.rows.lr)
        self.rows.step(field)
        self._count += 1


def _rows(losses: Tensor, seed: int, step: int) -> Iterator[Row]:
    for i, values in enumerate(losses.tolist()):
        yield {
            "rho": 0.0,
            "seed": seed + i,
            "step": step,
            **{f"loss/{share:g}": value for share, value in zip(SHARES, values, strict=True)},
        }


def finite_sum(
    *,
    seed: int,
    rho: float,
    kind: str,
    decreasing: bool,
    steps: int,
    points: int,
    paths: int,
    count: int,
) -> Iterator[Row]:
    """Rows of least squares over n examples in batches of b: mean f − f* over paths, by λ.

    Inputs have length 1, so that every component is 1-smooth; μ is the smallest eigenvalue of the
    mean Hessian that is not 0. Each λ sees the same batches.

    Args:
        seed: the first seed.
        rho: not used.
        kind: "fits" (every example can be fitted) or "does-not-fit".
        decreasing: whether η and ρ decrease.
        steps: of each.
        points: as for `quadratic`.
        paths: draws of batches that f − f* is the mean of.
        count: seeds from the first one on.
    """
    problems = Problems.draw(range(seed, seed + count), FEATURES[kind])
    settings = [
        Setting(mu, 1.0, EXAMPLES, BATCH, share)
        for mu in problems.mu.tolist()
        for share in SHARES
        for _ in range(paths)
    ]
    begin = torch.zeros(len(settings), FEATURES[kind], dtype=torch.float64)
    run = _Run(begin, settings, decreasing)
    draws = [torch.Generator().manual_seed(one) for one in range(seed, seed + count)]
    wanted = spaced(steps, points, log=decreasing)
    for step in range(steps + 1):
        if step in wanted:
            excess = problems.excess(run.rows.now()).reshape(count, len(SHARES), paths).mean(2)
            yield from _rows(excess, seed, step)
        if step < steps:
            run.step(partial(problems.gradient, batch=_batches(draws, paths)))


def _batches(draws: Sequence[torch.Generator], paths: int) -> Tensor:
    """(seeds, λ x paths, n): 1 where an example is in the batch; the same batches for every λ."""
    noise = torch.stack([torch.rand(paths, EXAMPLES, generator=g) for g in draws])
    within = noise <= noise.kthvalue(BATCH, dim=2, keepdim=True).values
    return within.double().repeat(1, len(SHARES), 1)


@dataclass(frozen=True)
class Problems:
    """Least squares (1/n) Σ_i ½(x_iᵀw − y_i)² with ‖x_i‖ = 1, several at once.

    Attributes:
        x, y: (problems, n, d) and (problems, n, 1).
        best: (problems, 1) f*.
        mu: (problems,) the smallest eigenvalue of XᵀX/n that is not 0.
    """

    x: Tensor
    y: Tensor
    best: Tensor
    mu: Tensor

    @classmethod
    def draw(cls, seeds: Sequence[int], features: int, examples: int = EXAMPLES) -> Problems:
        """Random inputs on the sphere and random targets of variance 1."""
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [
            torch.randn(examples, features + 1, dtype=torch.float64, generator=g) for g in draws
        ]
        held = torch.stack(drawn)
        x, y = held[..., :-1], held[..., -1:]
        x = x / x.norm(dim=2, keepdim=True)
        values = torch.linalg.svdvals(x)  # as many as the rank
        left = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
        best = left.square().mean(1) / 2 if features < examples else torch.zeros(len(y), 1)
        return cls(x, y, best.double(), values[:, -1].square() / examples)

    def residuals(self, w: Tensor) -> Tensor:
        """(problems, runs of each, n) of rows that are the runs of one problem after the other."""
        points = w.reshape(len(self.x), -1, self.x.shape[2])
        return points @ self.x.mT - self.y.mT

    def excess(self, w: Tensor) -> Tensor:
        """(problems, runs of each) f − f*."""
        return self.residuals(w).square().mean(2) / 2 - self.best

    def gradient(self, w: Tensor, batch: Tensor) -> Tensor:
        """Of the mean over each row's batch, given as 0 and 1 for every example."""
        weights = batch / batch.sum(2, keepdim=True)
        return ((weights * self.residuals(w)) @ self.x).reshape(w.shape)


def spaced(steps: int, points: int, *, log: bool) -> set[int]:
    """Steps to look at, evenly in the step or in its logarithm, with 0 and the end."""
    if log:
        inner = torch.logspace(0, math.log10(steps), max(points - 1, 2), dtype=torch.float64)
    else:
        inner = torch.linspace(0, steps, max(points, 2), dtype=torch.float64)
    return {0, *(round(float(place)) for place in inner), steps}
