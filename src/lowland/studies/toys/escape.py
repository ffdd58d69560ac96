"""Leaving a saddle by noise: the variance along a direction of negative curvature, simulated.

Loss ½λw² with λ < 0, and a gradient with noise of variance |λ|/b: the Hessian is the covariance,
as published. With η steps of time t = η·k the variance of w along the direction is, as printed,

    V_SAM(t) = η|λ| / (2bλ(1+ρλ)²) · (1 − exp(−2λ(1+ρλ)²t)),   V_SGD(t) = the same at ρ = 0.

USAM's own step w ← w − η(λ(1+ρλ)w + noise) has another one, which depends on the noise of the two
passes: with the same batch in both, (1+ρλ)ξ; in the second alone, ξ; with two batches,
ξ₂ + ρλξ₁. With s² the variance of that over |λ|/b, and a = λ(1+ρλ),

    V(t) = η|λ|s²/(2ba) · (1 − exp(−2at)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.studies.toys.functions import uniform
from lowland.studies.toys.rows import Rows

Row = dict[str, float | int]
NOISES = ("same", "second", "fresh")
"""The same batch in both passes, noise in the second alone, a fresh batch in the second."""


def printed(lam: float, rho: float, time: float, *, lr: float, batch: int) -> float:
    """The variance as it is printed (2301.06308)."""
    return _grown(lam * (1 + rho * lam) ** 2, time) * lr * abs(lam) / batch


def derived(lam: float, rho: float, time: float, noise: str, *, lr: float, batch: int) -> float:
    """The variance of USAM's own step, to first order in η."""
    a = lam * (1 + rho * lam)
    return _grown(a, time) * noise_factor(lam, rho, noise) * lr * abs(lam) / batch


def noise_factor(lam: float, rho: float, noise: str) -> float:
    """s²: the variance of the noise in g̃ over that of one batch."""
    return {"same": (1 + rho * lam) ** 2, "second": 1.0, "fresh": 1 + (rho * lam) ** 2}[noise]


def exact(lam: float, rho: float, steps: int, noise: str, *, lr: float, batch: int) -> float:
    """The same by the recursion m ← (1 − ηa)²m + η²s²|λ|/b, from 0: no approximation."""
    factor = (1 - lr * lam * (1 + rho * lam)) ** 2
    added = lr**2 * noise_factor(lam, rho, noise) * abs(lam) / batch
    return added * (factor**steps - 1) / (factor - 1) if factor != 1 else added * steps


def printed_gap(lam: float, rho: float, time: float, *, lr: float, batch: int) -> float:
    """V_SGD − V_SAM to leading order as it is printed: 2ηt²|λ|³ρ/b."""
    return 2 * lr * time**2 * abs(lam) ** 3 * rho / batch


def _grown(a: float, time: float) -> float:
    """(1 − exp(−2at))/(2a); the time itself where a is 0."""
    return -math.expm1(-2 * a * time) / (2 * a) if a else time


@dataclass(frozen=True)
class Problem:
    """What a seed draws: λ, ρ, and after how many steps the variance is read."""

    lam: float
    rho: float
    steps: int

    @classmethod
    def draw(cls, seed: int, lr: float) -> Problem:
        """λ in [−2, −½], ρ|λ| in [0.1, 0.4], |λ|t in [0.3, 1]."""
        draws = torch.Generator().manual_seed(seed)
        lam = -uniform(0.5, 2.0, draws)
        rho = uniform(0.1, 0.4, draws) / abs(lam)
        time = uniform(0.3, 1.0, draws) / abs(lam)
        return cls(lam, rho, round(time / lr))


def escapes(
    *, seed: int, rho: float, count: int, particles: int, lr: float = 0.005, batch: int = 4
) -> Iterator[Row]:
    """A row for every seed: simulated variances of SGD and USAM, and what formulas say.

    Args:
        seed: the first seed.
        rho: not used: every seed draws one.
        count: seeds from the first one on.
        particles: trajectories from the saddle for each variance.
        lr: η.
        batch: b.
    """
    for one in range(seed, seed + count):
        problem = Problem.draw(one, lr)
        found = simulate(problem, one, particles, lr=lr, batch=batch)
        time = lr * problem.steps
        lam, radius = problem.lam, problem.rho
        sgd = printed(lam, 0.0, time, lr=lr, batch=batch)
        row: Row = {"rho": 0.0, "seed": one, "lambda": lam, "radius": radius, "time": time}
        row["sgd"] = found["sgd"] / sgd - 1
        row["slower"] = 1 - found["same"] / found["sgd"]
        for noise in NOISES:
            said = printed(lam, radius, time, lr=lr, batch=batch)
            ours = derived(lam, radius, time, noise, lr=lr, batch=batch)
            row[f"printed/{noise}"] = found[noise] / said - 1
            row[f"derived/{noise}"] = found[noise] / ours - 1
            row[f"gap/{noise}"] = _gap_ratio(lam, noise, batch)
        yield row


def _gap_ratio(lam: float, noise: str, batch: int) -> float:
    """V_SGD − V_SAM over what is printed, by the exact recursion where both are small: |λ|t = 0.1,
    ρ|λ| = 0.01, and η such that the difference is not one of discretization."""
    time, rho, steps = 0.1 / abs(lam), 0.01 / abs(lam), 10_000
    lr = time / steps
    plain, sam = (exact(lam, r, steps, noise, lr=lr, batch=batch) for r in (0.0, rho))
    return (plain - sam) / printed_gap(lam, rho, time, lr=lr, batch=batch)


def simulate(
    problem: Problem, seed: int, particles: int, *, lr: float, batch: int
) -> dict[str, float]:
    """Mean w² of many trajectories from w = 0 through the optimizer, for SGD and three noises."""
    draws = torch.Generator().manual_seed(seed)
    names = ("sgd", *NOISES)
    rho = torch.tensor([0.0] + [problem.rho] * len(NOISES)).repeat_interleave(particles)
    rows = Rows(torch.zeros(len(rho), 1), rho, 0.0, lr=lr)
    size = math.sqrt(abs(problem.lam) / batch)
    for _ in range(problem.steps):
        rows.step(_noisy(problem.lam, size, particles, draws))
    squares = rows.now().square().reshape(len(names), particles).mean(1)
    return dict(zip(names, squares.tolist(), strict=True))


def _noisy(
    lam: float, size: float, particles: int, draws: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """The gradient λw + noise of one step: called at w, then at w+ε; arms as in `simulate`."""
    first, other = size * torch.randn(2, particles, 1, dtype=torch.float64, generator=draws)
    none = torch.zeros_like(first)
    at_w = torch.cat([first, first, none, other])
    away = torch.cat([first, first, first, first])
    passes = iter((at_w, away))
    return lambda w: lam * w + next(passes)
