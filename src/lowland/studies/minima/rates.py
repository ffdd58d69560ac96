"""How fast stochastic SAM with constant η and ρ fits least squares, by how many features it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from lowland.studies.toys.rows import Rows

Row = dict[str, float | int]


def descents(
    *,
    seed: int,
    rho: float,
    count: int,
    features: int,
    radii: Sequence[float],
    examples: int,
    steps: int,
    points: int,
    lr: float,
) -> Iterator[Row]:
    """Rows over the steps: f − f* of USAM and SAM, one example per step, by ρ.

    Inputs have length 1 and targets are random; with at least as many features as examples all
    can be fitted, and f* = 0. Every arm of a seed has the same examples in the same order.

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        features: d.
        radii: ρ of both; 0 is SGD in each.
        examples: n.
        steps: of each.
        points: evenly in the step.
        lr: η, constant.
    """
    seeds = range(seed, seed + count)
    draws = [torch.Generator().manual_seed(one) for one in seeds]
    drawn = [torch.randn(examples, features + 1, generator=g, dtype=torch.float64) for g in draws]
    order = torch.stack([torch.randint(examples, (steps,), generator=g) for g in draws])
    held = torch.stack(drawn)
    x = held[..., :-1] / held[..., :-1].norm(dim=2, keepdim=True)
    y = held[..., -1:]
    best = least(x, y)
    arms = [(radius, share) for share in (0.0, 1.0) for radius in radii]
    rows = Rows(
        torch.zeros(count * len(arms), features, dtype=torch.float64),
        [radius for _ in seeds for radius, _ in arms],
        [share for _ in seeds for _, share in arms],
        lr=lr,
    )
    wanted = {round(steps * k / (points - 1)) for k in range(points)}
    runs = torch.arange(count)
    for step in range(steps + 1):
        if step in wanted:
            excess = _losses(rows.now().reshape(count, len(arms), features), x, y) - best
            yield from _rows(excess, seeds, radii, step)
        if step < steps:
            at = order[:, step]
            own_x, own_y = x[runs, at], y[runs, at]
            rows.step(partial(gradient, x=own_x, y=own_y))


def gradient(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """∇ of ½(xᵀw − y)² of every row: x (seeds, d) and y (seeds, 1), arms of a seed together."""
    points = w.reshape(len(x), -1, x.shape[1])
    left = points @ x[..., None] - y[:, None]
    return (left * x[:, None]).reshape(w.shape)


def least(x: Tensor, y: Tensor) -> Tensor:
    """(problems, 1) the smallest mean ½(xᵀw − y)²; 0 where there are as many features."""
    if x.shape[2] >= x.shape[1]:
        return torch.zeros(len(x), 1, dtype=x.dtype)
    left: Tensor = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    return left.square().mean(1) / 2


def _losses(points: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (points @ x.mT - y.mT).square().mean(2) / 2


def _rows(excess: Tensor, seeds: Sequence[int], radii: Sequence[float], step: int) -> Iterator[Row]:
    for i, seed in enumerate(seeds):
        both = excess[i].reshape(2, len(radii)).tolist()
        for j, radius in enumerate(radii):
            yield {
                "rho": radius,
                "seed": seed,
                "step": step,
                "usam": both[0][j],
                "sam": both[1][j],
            }
