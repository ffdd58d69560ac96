"""The stability condition on random quadratics: in one dimension, and with matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from lowland.studies.minima.stability import (
    Moments,
    bounds,
    crossing,
    excess,
    expected,
    moments_of,
    published,
    second_moment_growth,
)
from lowland.studies.toys.functions import uniform
from lowland.studies.toys.rows import Rows

Row = dict[str, float | int]

FACTORS = (0.9, 0.95, 1.05, 1.1)
"""Step sizes that are simulated, over the critical one."""


def one_dimension(
    *, seed: int, rho: float, count: int, particles: int, steps: int, curvatures: int = 5
) -> Iterator[Row]:
    """A row for every seed: the critical η of scalar Hessians, by the formula and by simulation.

    ``boundary``: where the simulated growth of E w² is 0, over the η at which
    E(1 − ηh − ηρh²)² = 1, minus 1. ``bounds``: 1 minus the largest of the published bounds' shares
    just below that η.

    Args:
        seed: the first seed.
        rho: not used: every seed draws one.
        count: seeds from the first one on.
        particles: trajectories for each η.
        steps: of each.
        curvatures: values of h, in [½, 4], each as likely.
    """
    for one in range(seed, seed + count):
        draws = torch.Generator().manual_seed(one)
        h = 0.5 + 3.5 * torch.rand(curvatures, generator=draws, dtype=torch.float64)
        radius = uniform(0.02, 0.3, draws)
        moments = moments_of(h[:, None, None])
        critical = crossing(partial(_excess, moments, radius), 1e-9, 10.0)
        growth = [simulated(h, f * critical, radius, particles, steps, draws) for f in FACTORS]
        shares = bounds(moments, lr=0.999 * critical, rho=radius)
        yield {
            "rho": 0.0,
            "seed": one,
            "radius": radius,
            "critical": critical,
            "boundary": _root(FACTORS, growth) - 1,
            "bounds": 1 - max(shares.values()),
            **{f"growth/{f:g}": value for f, value in zip(FACTORS, growth, strict=True)},
        }


def simulated(
    h: Tensor, lr: float, rho: float, particles: int, steps: int, draws: torch.Generator
) -> float:
    """log of what E w² grows by in a step of USAM, over many trajectories of the optimizer."""
    rows = Rows(torch.ones(particles, 1), [rho] * particles, 0.0, lr=lr)
    for _ in range(steps):
        own = h[torch.randint(len(h), (particles, 1), generator=draws)]
        rows.step(partial(torch.mul, own))
    return math.log(float(rows.now().square().mean())) / steps


def _root(places: Sequence[float], values: Sequence[float]) -> float:
    """Where a straight line through the points is 0, by least squares."""
    x, y = torch.tensor(places), torch.tensor(values)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return float(x.mean()) - float(y.mean()) / slope


def matrices(
    *, seed: int, rho: float, count: int, size: int = 4, examples: int = 8
) -> Iterator[Row]:
    """A row for every seed: Hessians x·xᵀ of random x, where what is sufficient is not necessary.

    ``identity``: the largest element by which the published form of E(I − ηH_ξ − ηρH_ξ²)² is off
    the mean of the matrices themselves. ``room``: the η at which the second moment begins to grow
    over the η up to which the condition holds, minus 1. ``indefinite/k``: the least eigenvalue of
    M_k − H^k over its largest in size, below 0 where it is not positive semidefinite.

    Args:
        seed: the first seed.
        rho: not used: every seed draws one.
        count: seeds from the first one on.
        size: d.
        examples: n.
    """
    for one in range(seed, seed + count):
        draws = torch.Generator().manual_seed(one)
        x = torch.randn(examples, size, generator=draws, dtype=torch.float64)
        h = x[:, :, None] * x[:, None]
        radius = uniform(0.01, 0.1, draws)
        moments = moments_of(h)
        enough = _first(partial(_excess, moments, radius))
        exact = _first(partial(_growth, h, radius))
        off = published(moments, lr=enough, rho=radius) - _mean_square(h, enough, radius)
        written = expected(moments, lr=enough, rho=radius) - _mean_square(h, enough, radius)
        row: Row = {"rho": 0.0, "seed": one, "enough": enough, "exact": exact}
        row |= {"room": exact / enough - 1, "identity": float(off.abs().max())}
        row["written"] = float(written.abs().max())
        for k in (2, 3, 4):
            apart = moments[k] - torch.linalg.matrix_power(moments[1], k)
            values = torch.linalg.eigvalsh(apart)
            row[f"indefinite/{k}"] = float(values[0] / values.abs().max())
        shares = bounds(moments, lr=0.999 * enough, rho=radius)
        row |= {f"share/{name}": share for name, share in shares.items()}
        yield row


def _excess(moments: Moments, rho: float, lr: float) -> float:
    return excess(moments, lr=lr, rho=rho)


def _growth(hessians: Tensor, rho: float, lr: float) -> float:
    return second_moment_growth(hessians, lr=lr, rho=rho) - 1


def _first(value: Callable[[float], float]) -> float:
    """The η from 0 at which a condition is first violated."""
    high = 1e-3
    while value(high) <= 0:
        high *= 2
    return crossing(value, high / 2, high)


def _mean_square(hessians: Tensor, lr: float, rho: float) -> Tensor:
    eye = torch.eye(hessians.shape[-1], dtype=hessians.dtype)
    steps = eye - lr * hessians - lr * rho * hessians @ hessians
    return (steps @ steps).mean(0)
