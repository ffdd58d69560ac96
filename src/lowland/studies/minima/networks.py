"""Small tanh networks trained to interpolation with one example per step, as rows of one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lowland.studies.toys.rows import Rows

INPUTS, TEACHER = 4, 3


@dataclass(frozen=True)
class Shape:
    """A network f(x) = Σ_j a_j·tanh(w_jᵀx + b_j) + c, its parameters in one vector.

    Attributes:
        inputs: d.
        units: m.
    """

    inputs: int
    units: int

    @property
    def size(self) -> int:
        """Parameters: m·(d + 2) + 1."""
        return self.units * (self.inputs + 2) + 1

    def split(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W (runs, m, d), b (runs, m), a (runs, m), c (runs, 1), as in `network`."""
        m, d = self.units, self.inputs
        w, b, a, c = torch.split(points, [m * d, m, m, 1], dim=1)
        return w.reshape(-1, m, d), b, a, c

    def outputs(self, points: Tensor, x: Tensor) -> Tensor:
        """(runs, n) outputs of every row on its own inputs (runs, n, d)."""
        w, b, a, c = self.split(points)
        hidden = torch.tanh(x @ w.mT + b[:, None])
        return (hidden @ a[..., None])[..., 0] + c

    def gradient(self, points: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """∇ of ½(f(x) − y)² for every row on one example of its own, x (runs, d) and y (runs,)."""
        w, b, a, c = self.split(points)
        hidden = torch.tanh((w @ x[..., None])[..., 0] + b)
        left = (a * hidden).sum(1, keepdim=True) + c - y[:, None]
        along = left * a * (1 - hidden * hidden)
        inner = along[..., None] * x[:, None]
        return torch.cat([inner.flatten(1), along, left * hidden, left], 1)

    def jacobian(self, point: Tensor, x: Tensor) -> Tensor:
        """(n, size) ∇f(x_i) at one point."""
        points = point.expand(len(x), -1)
        return self.gradient(points, x, self.outputs(points, x[:, None])[:, 0] - 1)

    def network(self, point: Tensor) -> nn.Module:
        """The same network as a module in float64, for instruments."""
        module = nn.Sequential(
            nn.Linear(self.inputs, self.units), nn.Tanh(), nn.Linear(self.units, 1)
        ).double()
        nn.utils.vector_to_parameters(point.clone(), module.parameters())
        return module


@dataclass(frozen=True)
class Problem:
    """What a seed draws: examples, a start and an order.

    Attributes:
        x, y: (n, d) and (n,), y of a teacher of three units, of variance about 1.
        start: the parameters at the start.
        order: (steps,) the example of each step.
    """

    x: Tensor
    y: Tensor
    start: Tensor
    order: Tensor


def draw(seed: int, shape: Shape, examples: int, steps: int) -> Problem:
    """The same for every method and ρ of a seed."""
    g = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=g, dtype=torch.float64)

    x = normal(examples, shape.inputs)
    y = torch.tanh(x @ normal(shape.inputs, TEACHER)) @ normal(TEACHER) / math.sqrt(TEACHER)
    m, d = shape.units, shape.inputs
    start = torch.cat(
        [
            normal(m * d) / math.sqrt(d),
            torch.zeros(m, dtype=torch.float64),
            normal(m) / math.sqrt(m),
            torch.zeros(1, dtype=torch.float64),
        ]
    )
    return Problem(x, y, start, torch.randint(examples, (steps,), generator=g))


def interpolate(shape: Shape, point: Tensor, problem: Problem, steps: int = 30) -> Tensor:
    """The minimum nearby that fits every example: w ← w − Jᵀ(JJᵀ)⁻¹(f − y), the shortest step.

    Close to one the residuals are squared by every step; after thirty they are rounding, or NaN.
    """
    now = point
    for _ in range(steps):
        left = shape.outputs(now[None], problem.x[None])[0] - problem.y
        jacobian = shape.jacobian(now, problem.x)
        now = now - torch.linalg.lstsq(jacobian, left[:, None], driver="gelsd").solution[:, 0]
    return now


@dataclass(frozen=True)
class Trained:
    """Weights and losses over training.

    Attributes:
        steps: of the evaluations.
        points: (evaluations, runs, size).
        losses: (evaluations, runs) mean ½(f − y)² over all examples.
    """

    steps: tuple[int, ...]
    points: Tensor
    losses: Tensor


def train(
    shape: Shape,
    problems: Sequence[Problem],
    arms: Sequence[tuple[float, float]],
    *,
    lr: float,
    every: int,
) -> Trained:
    """Every arm on every problem: runs in the order problem by problem.

    Args:
        shape: of the networks.
        problems: one for each seed, all with as many steps.
        arms: (ρ, λ) of each: λ = 0 is USAM, 1 is SAM.
        lr: η, constant.
        every: steps between two evaluations.
    """
    each = len(arms)
    x = torch.stack([p.x for p in problems]).repeat_interleave(each, 0)
    y = torch.stack([p.y for p in problems]).repeat_interleave(each, 0)
    order = torch.stack([p.order for p in problems]).repeat_interleave(each, 0)
    start = torch.stack([p.start for p in problems]).repeat_interleave(each, 0)
    radii, shares = ([arm[i] for _ in problems for arm in arms] for i in (0, 1))
    rows = Rows(start, radii, shares, lr=lr)
    runs = torch.arange(len(start))
    steps, points, losses = [], [], []
    total = order.shape[1]
    for step in range(total + 1):
        if step % every == 0 or step == total:
            now = rows.now()
            steps.append(step)
            points.append(now)
            losses.append((shape.outputs(now, x) - y).square().mean(1) / 2)
        if step < total:
            at = order[:, step]
            own_x, own_y = x[runs, at], y[runs, at]
            rows.step(partial(shape.gradient, x=own_x, y=own_y))
    return Trained(tuple(steps), torch.stack(points), torch.stack(losses))
