"""Saddle points: the radius from which USAM is attracted, x² − y², and Beale's function."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lowland.studies.toys.functions import (
    BEALE_CURVATURE,
    SADDLE,
    beale_gradient,
    hyperbolic,
    quadratics,
    rotated,
    uniform,
)
from lowland.studies.toys.rows import Field, Rows

Row = dict[str, float | int]

ARMS = ("usam", "sam", "sum")
"""USAM is the form that is analysed; SAM is normalized; "sum" is normalized and descends along
g + g̃, as code does that does not zero the gradient between its passes."""

FACTORS = (0.5, 0.8, 0.9, 0.99, 1.01, 1.1, 1.25, 2.0)
"""Radii as multiples of −1/λ."""

PUBLISHED_START = (-3.0, -0.01)
BEALE_START = (1.0, 2.0)
BEALE_LR = 1e-3 / 80
BEALE_GUARD = 1e-16


def thresholds(*, seed: int, rho: float, count: int, steps: int, lr: float = 0.01) -> Iterator[Row]:
    """A row for every seed: which radii USAM is attracted at by a random saddle.

    ½·wᵀHw with one negative eigenvalue λ in [−4, −½] and one positive, in a random basis, from a
    random point at 0.01. A radius counts as right if the share of w along λ shrinks above −1/λ and
    grows below. ``boundary`` is where the logarithm of its growth is 0, over −1/λ, minus 1.

    Args:
        seed: the first seed.
        rho: not used.
        count: seeds from the first one on.
        steps: of USAM at every radius.
        lr: η.
    """
    seeds = range(seed, seed + count)
    drawn = [_saddle(one) for one in seeds]
    hessians = torch.cat([h.expand(len(FACTORS) + 1, -1, -1) for h, _, _, _ in drawn])
    start = torch.cat([w.expand(len(FACTORS) + 1, -1) for _, _, w, _ in drawn])
    radii = [f / abs(value) for *_, value in drawn for f in (0.0, *FACTORS)]
    rows = Rows(start, radii, 0.0, lr=lr)
    for _ in range(steps):
        rows.step(lambda w: quadratics(hessians, w))
    ends = rows.now().reshape(len(drawn), -1, 2)
    for one, (_, along, begin, _), end in zip(seeds, drawn, ends, strict=True):
        grown = ((end @ along) / (begin @ along)).abs().log().tolist()
        plain, by_factor = grown[0], grown[1:]
        right = [(f > 1) == (g < 0) for f, g in zip(FACTORS, by_factor, strict=True)]
        yield {
            "rho": 0.0,
            "seed": one,
            "right": sum(right) / len(right),
            "boundary": _crossing(FACTORS, by_factor) - 1,
            "plain": plain,
        }


def _saddle(seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """H, the direction of its negative eigenvalue, a start, and that eigenvalue."""
    draws = torch.Generator().manual_seed(seed)
    value = -uniform(0.5, 4.0, draws)
    eigenvalues = torch.tensor([value, uniform(0.5, 4.0, draws)], dtype=torch.float64)
    hessian, basis = rotated(eigenvalues, draws)
    angle = uniform(0.2, 1.3, draws)  # a share of both directions
    start = 0.01 * basis @ torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    return hessian, basis[:, 0], start, value


def _crossing(places: Sequence[float], values: Sequence[float]) -> float:
    """Where the values first fall below 0, linearly between two places; NaN if nowhere."""
    for i in range(1, len(places)):
        before, after = values[i - 1], values[i]
        if before >= 0 > after:
            return places[i - 1] + (places[i] - places[i - 1]) * before / (before - after)
    return math.nan


def hyperbola(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    steps: int,
    points: int,
    published: bool = False,
    lr: float = 0.01,
) -> Iterator[Row]:
    """Rows of x² − y²: where GD, USAM, SAM and the sum are, and the cosine of their gradients.

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: ρ of all arms; 0 is gradient descent in each.
        steps: of each.
        points: how many points of each trajectory.
        published: start where the published figure does, whatever the seed.
        lr: η.
    """
    seeds = range(seed, seed + count)
    starts = [PUBLISHED_START if published else _start(one) for one in seeds]
    yield from _arms(seeds, starts, radii, hyperbolic, steps, points, lr)


def _start(seed: int) -> tuple[float, float]:
    """x from ±1 to ±4, y from ±10^-3 to ±0.1, evenly in its logarithm."""
    draws = torch.Generator().manual_seed(seed)
    signs = [1.0 if uniform(-1, 1, draws) > 0 else -1.0 for _ in range(2)]
    return signs[0] * uniform(1, 4, draws), signs[1] * 10 ** uniform(-3, -1, draws)


def _arms(
    seeds: Sequence[int],
    starts: Sequence[tuple[float, float]],
    radii: Sequence[float],
    field: Field,
    steps: int,
    points: int,
    lr: float,
) -> Iterator[Row]:
    """Every arm from every start at every radius, through the optimizer."""
    places = [(arm, start, rho) for arm in ARMS for start in starts for rho in radii]
    rows = Rows(
        torch.tensor([start for _, start, _ in places], dtype=torch.float64),
        [rho for *_, rho in places],
        [float(arm != "usam") for arm, *_ in places],
        lr=lr,
        kept=[arm == "sum" and rho > 0 for arm, _, rho in places],
    )
    every = max(1, steps // points)
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            yield from _states(rows, field, seeds, radii, step)
        if step < steps:
            rows.step(field)


def _states(
    rows: Rows, field: Field, seeds: Sequence[int], radii: Sequence[float], step: int
) -> Iterator[Row]:
    now = rows.now()
    cosines = cosine(field, now, rows.rho, rows.share)
    shape = (len(ARMS), len(seeds), len(radii))
    held = torch.cat([now, cosines[:, None]], 1).reshape(*shape, 3)
    for i, seed in enumerate(seeds):
        for j, rho in enumerate(radii):
            row: Row = {"rho": rho, "seed": seed, "step": step}
            for k, arm in enumerate(ARMS):
                x, y, cos = held[k, i, j].tolist()
                row |= {f"{arm}/x": x, f"{arm}/y": y, f"{arm}/cosine": cos}
            yield row


def cosine(field: Field, points: Tensor, rho: Tensor, share: Tensor) -> Tensor:
    """The cosine of g and g̃ of every row; 1 where one of them is 0."""
    g = field(points)
    norm = g.norm(dim=1, keepdim=True)
    moved = field(points + rho * (1 - share + share / (norm + 1e-12)) * g)
    length = norm[:, 0] * moved.norm(dim=1)
    return torch.where(length > 0, (g * moved).sum(1) / length, torch.ones_like(length))


def beale_saddle(
    *, seed: int, rho: float, count: int, steps: int, lr: float = 1e-4, distance: float = 0.02
) -> Iterator[Row]:
    """A row for every seed: GD and USAM from a random point near Beale's saddle.

    ``right`` is the share of the radii, multiples of −1/λ, at which the share of the distance along
    the direction of negative curvature shrinks if and only if ρ > −1/λ; ``away/F`` is what becomes
    of that share at F times −1/λ, over what it was.

    Args:
        seed: the first seed.
        rho: not used.
        count: seeds from the first one on.
        steps: of each.
        lr: η.
        distance: from the saddle at the start.
    """
    seeds = range(seed, seed + count)
    factors = (0.0, 0.5, 0.8, 1.25, 1.5, 2.0)
    saddle = torch.tensor(SADDLE, dtype=torch.float64)
    down = torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2)
    starts = []
    for one in seeds:
        draws = torch.Generator().manual_seed(one)
        # within 60 degrees of the direction of negative curvature, to either side
        angle = uniform(-1, 1, draws) * math.pi / 3 - math.pi / 4
        side = distance if uniform(-1, 1, draws) > 0 else -distance
        starts += [(side * math.cos(angle), side * math.sin(angle))] * len(factors)
    begin = torch.tensor(starts, dtype=torch.float64)
    rows = Rows(saddle + begin, [f / BEALE_CURVATURE for f in factors] * len(seeds), 0.0, lr=lr)
    for _ in range(steps):
        rows.step(beale_gradient)
    away = ((rows.now() - saddle) @ down / (begin @ down)).abs().reshape(len(seeds), -1)
    for one, ratios in zip(seeds, away.tolist(), strict=True):
        right = [(f > 1) == (ratio < 1) for f, ratio in zip(factors, ratios, strict=True)]
        yield {
            "rho": 0.0,
            "seed": one,
            "right": sum(right) / len(right),
            **{f"away/{f:g}": ratio for f, ratio in zip(factors, ratios, strict=True)},
        }


def beale_descents(
    *,
    seed: int,
    rho: float,
    count: int,
    radii: Sequence[float],
    steps: int,
    points: int,
    published: bool = False,
    spread: float = 0.05,
) -> Iterator[Row]:
    """Rows of Beale's function from (1, 2) by SAM and by the sum, at the published settings.

    So many steps that the recursion is written out; the guard of the norm is the published 1e-16.
    USAM is not among them: the gradient at the start is so long that its first ε leaves for
    infinity (``usam/steps``: steps until the point is not finite, at most 200).

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        radii: ρ of all arms; 0 is gradient descent in each.
        steps: of each.
        points: how many points of each trajectory, evenly in the logarithm of the step.
        published: start at (1, 2) itself, whatever the seed.
        spread: standard deviation of the starts about (1, 2).
    """
    seeds = range(seed, seed + count)
    starts = torch.tensor([BEALE_START] * count, dtype=torch.float64)
    if not published:
        drawn = [torch.Generator().manual_seed(one) for one in seeds]
        starts += spread * torch.stack(
            [torch.randn(2, dtype=torch.float64, generator=g) for g in drawn]
        )
    begin = starts.repeat_interleave(len(radii), 0)
    rho_rows = torch.tensor(radii, dtype=torch.float64).repeat(count)[:, None]
    lost = _usam_lasts(begin, rho_rows)
    now = begin.repeat(2, 1)
    both = rho_rows.repeat(2, 1)
    kept = torch.cat([torch.zeros_like(rho_rows), (rho_rows > 0).double()])
    wanted = _log_places(steps, points)
    for step in range(steps + 1):
        if step in wanted:
            yield from _beale_rows(now, both, seeds, radii, step, lost)
        g = beale_gradient(now)
        norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
        u = beale_gradient(now + (both / (norm + BEALE_GUARD)) * g) + kept * g
        now = now - BEALE_LR * u


def _beale_rows(
    now: Tensor,
    rho: Tensor,
    seeds: Sequence[int],
    radii: Sequence[float],
    step: int,
    lost: Sequence[int],
) -> Iterator[Row]:
    cosines = cosine(beale_gradient, now, rho, torch.ones_like(rho))
    away = (now - now.new_tensor(SADDLE)).norm(dim=1)
    held = torch.cat([now, cosines[:, None], away[:, None]], 1)
    held = held.reshape(2, len(seeds), len(radii), 4)
    for i, seed in enumerate(seeds):
        for j, rho_here in enumerate(radii):
            row: Row = {"rho": rho_here, "seed": seed, "step": step}
            row["usam/steps"] = lost[i * len(radii) + j]
            for k, arm in enumerate(("sam", "sum")):
                x, y, cos, distance = held[k, i, j].tolist()
                row |= {f"{arm}/x": x, f"{arm}/y": y, f"{arm}/cosine": cos}
                row[f"{arm}/away"] = distance
            yield row


def _usam_lasts(start: Tensor, rho: Tensor, most: int = 200) -> list[int]:
    """Steps of USAM until each row is not finite, or `most`."""
    now, lasted = start.clone(), torch.full((len(start),), most)
    for step in range(most):
        g = beale_gradient(now)
        now = now - BEALE_LR * beale_gradient(now + rho * g)
        gone = ~now.isfinite().all(1) & (lasted == most)
        lasted[gone] = step + 1
    return lasted.tolist()


def _log_places(steps: int, points: int) -> set[int]:
    inner = torch.logspace(0, math.log10(steps), max(points - 1, 2), dtype=torch.float64)
    return {0, *(round(float(place)) for place in inner), steps}
