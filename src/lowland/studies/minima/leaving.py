"""Whether USAM stays at minima that SGD has found, below and above the radius of the condition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from lowland.studies.minima.moments import matrices
from lowland.studies.minima.networks import INPUTS, Problem, Shape, draw, interpolate, train
from lowland.studies.minima.stability import critical_rho, within
from lowland.studies.toys.rows import Rows

Row = dict[str, float | int]

FACTORS = (0.25, 0.5, 0.8, 1.5, 3.0, 6.0)
"""Radii over the critical one."""
PATHS = 8
"""Orders of examples that a distance is the root mean square over."""


def leaving(
    *,
    seed: int,
    rho: float,
    count: int,
    units: int,
    examples: int,
    steps: int,
    lr: float,
    after: int,
    distance: float = 1e-4,
) -> Iterator[Row]:
    """A row for every seed: what USAM does next to a minimum that SGD has found.

    The end of SGD is moved to the minimum nearby that fits every example, the critical ρ is the
    one at which λ_max E(I − ηH_i − ηρH_i²)² = 1 on the span of the examples' gradients, and USAM
    starts at a random point of that span, `distance` away. ``grown/F``: log10 of the distance
    within the span after over before at F times the critical ρ, root mean square over eight orders.
    ``below``: share of the F below 1 at which it is smaller.

    Args:
        seed: the first seed.
        rho: not used.
        count: seeds from the first one on.
        units, examples: m and n.
        steps: of SGD.
        lr: η of both.
        after: steps of USAM.
        distance: of its start.
    """
    shape = Shape(INPUTS, units)
    seeds = range(seed, seed + count)
    problems = [draw(one, shape, examples, steps) for one in seeds]
    trained = train(shape, problems, [(0.0, 0.0)], lr=lr, every=steps)
    ends = trained.points[-1]
    found = [_minimum(shape, end, problem, lr) for end, problem in zip(ends, problems, strict=True)]
    for one, problem, (fit, basis, critical) in zip(seeds, problems, found, strict=True):
        row: Row = {"rho": 0.0, "seed": one, "critical": critical}
        if math.isfinite(critical):
            gone = _distances(shape, problem, fit, basis, critical, one, lr, after, distance)
            grown = [math.log10(max(gap, 1e-300)) for gap in gone]
            row |= {f"grown/{f:g}": value for f, value in zip(FACTORS, grown, strict=True)}
            below = [value < 0 for f, value in zip(FACTORS, grown, strict=True) if f < 1]
            above = [value > 0 for f, value in zip(FACTORS, grown, strict=True) if f > 1]
            row |= {"below": sum(below) / len(below), "above": sum(above) / len(above)}
        yield row


def _minimum(
    shape: Shape, end: Tensor, problem: Problem, lr: float
) -> tuple[Tensor, Tensor, float]:
    """A minimum that fits, the span of its examples' gradients, and the critical ρ on it."""
    fit = interpolate(shape, end, problem)
    if not bool(fit.isfinite().all()):
        return fit, fit[:, None], math.nan
    basis = torch.linalg.qr(shape.jacobian(fit, problem.x).T)[0]
    moments = within(matrices(shape, fit, problem), basis)
    return fit, basis, critical_rho(moments, lr=lr)


def _distances(
    shape: Shape,
    problem: Problem,
    fit: Tensor,
    basis: Tensor,
    critical: float,
    seed: int,
    lr: float,
    after: int,
    distance: float,
) -> list[float]:
    """Root mean square distance over the one at the start, for every factor."""
    draws = torch.Generator().manual_seed(seed)
    away = torch.randn(basis.shape[1], generator=draws, dtype=torch.float64)
    start = fit + distance * basis @ (away / away.norm())
    radii = torch.tensor(FACTORS, dtype=torch.float64).repeat_interleave(PATHS) * critical
    rows = Rows(start.expand(len(radii), -1), radii, 0.0, lr=lr)
    for _ in range(after):
        at = torch.randint(len(problem.y), (PATHS,), generator=draws).repeat(len(FACTORS))
        rows.step(partial(shape.gradient, x=problem.x[at], y=problem.y[at]))
    # a path that has left for infinity counts as gone by a whole 1
    squares = ((rows.now() - fit) @ basis).square().sum(1).nan_to_num(nan=1.0)
    found: list[float] = (squares.reshape(len(FACTORS), PATHS).mean(1).sqrt() / distance).tolist()
    return found
