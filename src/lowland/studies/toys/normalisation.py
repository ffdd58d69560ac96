"""What normalization does: bounded where USAM diverges, and drift along a valley of minima."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lowland.studies.toys.functions import quadratics, rotated, uniform, valley
from lowland.studies.toys.rows import Rows

Row = dict[str, float | int]

FACTORS = (0.8, 0.9, 0.98, 1.02, 1.1, 1.25, 2.0)
"""η(β + ρβ²)/2: USAM is stable up to 1."""
SIZE = 5
DRIFT_START = (0.5, 3.0)
CURVATURE = 0.5
"""ℓ''(0) of ℓ(s) = 2·log cosh(s/2)."""


def stability(
    *, seed: int, rho: float, count: int, steps: int, bounded_steps: int, lr: float = 0.1
) -> Iterator[Row]:
    """A row for every seed: which radii USAM diverges at on a random quadratic, and how far SAM is.

    β, the largest of five eigenvalues, is between 2 and 15, so that ηβ < 1.5 and gradient descent
    converges. ρ is such that η(β + ρβ²) is a multiple of 2. ``right``: the share of these at which
    the part of w along the top eigenvector grows if and only if that is above 2. ``room``: the
    least of 1 − sup_t ‖w_t‖ / (‖w_0‖ + ηρβ/(1 − q)), q = max|1 − ηλ|, over the same radii for SAM,
    whose step is (I − ηH)w and at most ηρβ beside it: at least 0 if the bound is right.

    Args:
        seed: the first seed.
        rho: not used.
        count: seeds from the first one on.
        steps: of USAM.
        bounded_steps: of SAM.
        lr: η.
    """
    seeds = range(seed, seed + count)
    drawn = [_bowl(one) for one in seeds]
    each = len(FACTORS)
    hessians = torch.cat([h.expand(each, -1, -1) for h, *_ in drawn])
    start = torch.cat([w.expand(each, -1) for *_, w in drawn])
    tops = torch.tensor([float(values[-1]) for _, values, *_ in drawn], dtype=torch.float64)
    factors = torch.tensor(FACTORS, dtype=torch.float64)
    radii = (2 * factors / lr - tops[:, None]) / tops[:, None] ** 2
    grown = _growth(start, hessians, radii.flatten(), steps, lr)
    along = torch.stack([basis[:, -1] for _, _, basis, _ in drawn]).repeat_interleave(each, 0)
    ratio = ((grown * along).sum(1) / (start * along).sum(1)).abs()
    ratio = ratio.nan_to_num(nan=math.inf).reshape(-1, each)  # left for infinity: it has grown
    largest = _largest(start, hessians, radii.flatten(), bounded_steps, lr).reshape(-1, each)
    for i, (one, (_, values, _, w)) in enumerate(zip(seeds, drawn, strict=True)):
        right = ((ratio[i] > 1) == (factors > 1)).double().mean()
        contraction = float((1 - lr * values).abs().max())
        bound = float(w.norm()) + lr * radii[i] * float(values[-1]) / (1 - contraction)
        row: Row = {"rho": 0.0, "seed": one, "right": float(right)}
        row["room"] = float((1 - largest[i] / bound).min())
        row |= {f"usam/{f:g}": float(v) for f, v in zip(FACTORS, ratio[i], strict=True)}
        row |= {f"sam/{f:g}": float(v) for f, v in zip(FACTORS, largest[i], strict=True)}
        yield row


def _bowl(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """H, its eigenvalues ascending, their basis, and a start of length 1."""
    draws = torch.Generator().manual_seed(seed)
    top = uniform(2.0, 15.0, draws)
    shares = torch.rand(SIZE - 1, generator=draws, dtype=torch.float64) * 0.85 + 0.05
    values = torch.cat([shares.sort().values, torch.ones(1, dtype=torch.float64)]) * top
    hessian, basis = rotated(values, draws)
    start = torch.randn(SIZE, generator=draws, dtype=torch.float64)
    return hessian, values, basis, start / start.norm()


def _growth(start: Tensor, hessians: Tensor, radii: Tensor, steps: int, lr: float) -> Tensor:
    rows = Rows(start, radii, 0.0, lr=lr)
    for _ in range(steps):
        rows.step(lambda w: quadratics(hessians, w))
    return rows.now()


def _largest(start: Tensor, hessians: Tensor, radii: Tensor, steps: int, lr: float) -> Tensor:
    """sup_t ‖w_t‖ of SAM."""
    rows = Rows(start, radii, 1.0, lr=lr)
    largest: Tensor = torch.linalg.vector_norm(start, dim=1)
    for _ in range(steps):
        rows.step(lambda w: quadratics(hessians, w))
        largest = torch.maximum(largest, torch.linalg.vector_norm(rows.now(), dim=1))
    return largest


def drift(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    steps: int,
    points: int,
    published: bool = False,
    lr: float = 0.4,
) -> Iterator[Row]:
    """Rows of ℓ(xy): where USAM and SAM are along the valley of minima y = anything, x = 0.

    ``stays`` and ``usam/stays`` are 1 − ηκ/2 with κ = ℓ''y² for GD and κ = ℓ''y²(1 + ρℓ''y²) for
    USAM: at least 0 where the minimum that was found is stable.

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: ρ of both; 0 is gradient descent in each.
        steps: of each.
        points: how many points, evenly in the logarithm of the step.
        published: start at (0.5, 3), whatever the seed.
        lr: η.
    """
    seeds = range(seed, seed + count)
    starts = [DRIFT_START if published else _valley_start(one) for one in seeds]
    begin = torch.tensor(starts, dtype=torch.float64).repeat_interleave(len(radii), 0)
    each = torch.tensor(radii, dtype=torch.float64).repeat(count)
    share = torch.cat([torch.zeros_like(each), torch.ones_like(each)])
    rows = Rows(begin.repeat(2, 1), each.repeat(2), share, lr=lr)
    wanted = _places(steps, points)
    for step in range(steps + 1):
        if step in wanted:
            held = rows.now().reshape(2, count, len(radii), 2).tolist()
            for i, one in enumerate(seeds):
                for j, radius in enumerate(radii):
                    usam, sam = held[0][i][j], held[1][i][j]
                    yield _place(one, radius, step, usam, sam, lr)
        if step < steps:
            rows.step(valley)


def _place(
    seed: int, rho: float, step: int, usam: Sequence[float], sam: Sequence[float], lr: float
) -> Row:
    curvature = CURVATURE * usam[1] ** 2
    return {
        "rho": rho,
        "seed": seed,
        "step": step,
        "usam/x": usam[0],
        "usam/y": usam[1],
        "sam/x": sam[0],
        "sam/y": sam[1],
        "usam/stays": 1 - lr * curvature * (1 + rho * curvature) / 2,
    }


def _valley_start(seed: int) -> tuple[float, float]:
    """x from 0.3 to 0.7, y from 2.6 to 3.4, about the published (0.5, 3)."""
    draws = torch.Generator().manual_seed(seed)
    return uniform(0.3, 0.7, draws), uniform(2.6, 3.4, draws)


def _places(steps: int, points: int) -> set[int]:
    inner = torch.logspace(0, math.log10(steps), max(points - 1, 2), dtype=torch.float64)
    return {0, *(round(float(place)) for place in inner), steps}
