"""What momentum and the batch do at a saddle: how soon USAM leaves, and whether it leaves at all.

Along an eigenvalue λ < 0 USAM's step with momentum μ is v ← μv + aw + noise, w ← w − ηv, with
a = λ(1+ρλ). Without noise w grows by the larger root r of

    r² − (1 + μ − ηa)r + μ = 0

in a step. That is above 1 if and only if a < 0, so ρ = −1/λ stays the radius from which a saddle
attracts, whatever μ is; and where η|a| is small against (1−μ)², ln r ≈ η|a|/(1−μ): as without
momentum at a step size of η/(1−μ).

With noise of variance s²|λ|/b in g̃, s = 1+ρλ where both passes see one batch (`escape`), the second
moments of (w, v) follow a linear recursion, which is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from lowland.studies.toys.functions import uniform
from lowland.studies.toys.rows import Rows
from lowland.studies.toys.saddles import FACTORS

Row = dict[str, float | int]

GROWTH = 100.0
"""How far a run has to go, over where it starts."""
SPREAD = 1.0
"""The root mean square distance that noise has to carry to."""
SMALL, LARGE = 16, 128
"""Batches."""


@dataclass(frozen=True)
class Problem:
    """What a seed draws: λ and ρ."""

    lam: float
    rho: float

    @classmethod
    def draw(cls, seed: int) -> Problem:
        """λ in [−2, −½], ρ|λ| in [0.1, 0.6]: below the radius that attracts."""
        draws = torch.Generator().manual_seed(seed)
        lam = -uniform(0.5, 2.0, draws)
        return cls(lam, uniform(0.1, 0.6, draws) / abs(lam))

    def drift(self, rho: float) -> float:
        """λ(1+ρλ)."""
        return self.lam * (1 + rho * self.lam)


def growth(drift: float, *, lr: float, momentum: float) -> float:
    """What |w| grows by in a step in the long run: the largest |r| of r² − (1+μ−ηa)r + μ = 0.

    >>> round(growth(-1.0, lr=0.1, momentum=0.0), 12)
    1.1
    """
    middle = (1 + momentum - lr * drift) / 2
    inner = middle * middle - momentum
    if inner < 0:
        return math.sqrt(momentum)
    return abs(middle) + math.sqrt(inner)


def momentum(
    *, seed: int, rho: float, count: int, steps: int, lr: float = 0.01, kept: float = 0.9
) -> Iterator[Row]:
    """A row for every seed: how soon USAM and descent leave a saddle, with momentum and without.

    ``usam/...`` and ``descent/...``: steps until |w| is a hundred times what it was, NaN if never:
    ``plain`` without momentum, ``kept`` with it at the same η, ``equal`` with it at η(1−μ).
    ``right``: the share of the radii, multiples of −1/λ, at which w grows under momentum if and
    only if ρ < −1/λ. ``batch/B`` and ``kept/batch/B``: steps until the root mean square of w,
    carried by noise from 0, is 1, with batches of B, without momentum and with it.

    Args:
        seed: the first seed.
        rho: not used: every seed draws one.
        count: seeds from the first one on.
        steps: of every run at most.
        lr: η.
        kept: μ.
    """
    problems = [Problem.draw(one) for one in range(seed, seed + count)]
    ways = {"plain": (0.0, lr), "kept": (kept, lr), "equal": (kept, lr * (1 - kept))}
    places = [(arm, way) for arm in ("usam", "descent") for way in ways]
    each = len(places) + len(FACTORS)
    lams = torch.tensor([p.lam for p in problems], dtype=torch.float64).repeat_interleave(each)
    radii, rates, held = [], [], []
    for p in problems:
        radii += [p.rho if arm == "usam" else 0.0 for arm, _ in places]
        radii += [f / abs(p.lam) for f in FACTORS]
        rates += [ways[way][1] for _, way in places] + [lr] * len(FACTORS)
        held += [ways[way][0] for _, way in places] + [kept] * len(FACTORS)
    rows = Rows(torch.ones(len(lams), 1), radii, 0.0, lr=rates, momentum=held)
    left = torch.full((len(lams),), math.nan, dtype=torch.float64)
    for step in range(1, steps + 1):
        rows.step(partial(torch.mul, lams[:, None]))
        gone = rows.now()[:, 0].abs().nan_to_num(nan=math.inf) >= GROWTH
        left = torch.where(gone & left.isnan(), float(step), left)
    ends = rows.now()[:, 0].abs().nan_to_num(nan=math.inf).reshape(-1, each)
    for i, (p, times) in enumerate(zip(problems, left.reshape(-1, each).tolist(), strict=True)):
        row: Row = {"rho": 0.0, "seed": seed + i, "lambda": p.lam, "radius": p.rho}
        row |= {f"{arm}/{way}": t for (arm, way), t in zip(places, times, strict=False)}
        grown = (ends[i, len(places) :] > 1).tolist()
        right = [(f < 1) == grew for f, grew in zip(FACTORS, grown, strict=True)]
        row["right"] = sum(right) / len(right)
        for b in (SMALL, LARGE):
            row[f"batch/{b}"] = spread_after(p, b, lr=lr, momentum=0.0, most=steps)
            row[f"kept/batch/{b}"] = spread_after(p, b, lr=lr, momentum=kept, most=steps)
        yield row


def spreads(problem: Problem, batch: int, *, lr: float, momentum: float) -> Iterator[float]:
    """E w² after one step, two, ...: from w = v = 0, one batch for both passes; exact.

    With v' = μv + aw + ξ and w' = w − ηv': the second moments of (w, v) by themselves.
    """
    a = problem.drift(problem.rho)
    noise = (1 + problem.rho * problem.lam) ** 2 * abs(problem.lam) / batch
    ww = wv = vv = 0.0
    while True:
        v_v = momentum**2 * vv + 2 * momentum * a * wv + a * a * ww + noise
        w_v = momentum * wv + a * ww - lr * v_v
        ww = ww - 2 * lr * (momentum * wv + a * ww) + lr * lr * v_v
        wv, vv = w_v, v_v
        yield ww


def spread_after(problem: Problem, batch: int, *, lr: float, momentum: float, most: int) -> float:
    """Steps until E w² is `SPREAD`²; NaN if not within `most`."""
    for step, value in enumerate(spreads(problem, batch, lr=lr, momentum=momentum), start=1):
        if value >= SPREAD**2:
            return float(step)
        if step == most:
            return math.nan
    return math.nan
