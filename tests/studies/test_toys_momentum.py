"""Momentum and the batch at a saddle: roots, recursions, simulation, the library's optimizer."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from lowland.optim import USAM
from lowland.studies.toys import momentum as toy
from lowland.studies.toys.momentum import Problem, growth, spread_after, spreads
from lowland.studies.toys.rows import LARGEST, Rows

LR, KEPT = 0.01, 0.9


def test_rows_with_momentum_are_the_optimizers_run_by_run():
    start = torch.tensor([[1.0, -0.5], [0.3, 0.2], [1.0, 0.1]], dtype=torch.float64)
    radii, kept = [0.2, 0.4, 0.2], [0.9, 0.5, 0.0]
    rows = Rows(start, radii, 0.0, lr=LR, momentum=kept)
    for _ in range(30):
        rows.step(lambda w: w * w.new_tensor([2.0, -2.0]))
    for k, (rho, mu) in enumerate(zip(radii, kept, strict=True)):
        w = torch.nn.Parameter(start[k].clone())
        optimizer = USAM([w], torch.optim.SGD, lr=LR, momentum=mu, rho=rho)

        def closure(w=w, optimizer=optimizer):
            optimizer.zero_grad()
            loss = w[0] ** 2 - w[1] ** 2
            loss.backward()
            return loss

        for _ in range(30):
            optimizer.step(closure)
        torch.testing.assert_close(rows.now()[k], w.detach(), rtol=1e-12, atol=1e-13)


def test_a_run_that_diverged_does_not_move_on_by_momentum():
    rows = Rows(torch.ones(2, 1), 0.0, 0.0, lr=0.1, momentum=0.9)
    rows.step(lambda w: w)
    before = rows.points.detach().clone()
    rows.step(lambda w: torch.tensor([[2 * LARGEST], [1.0]], dtype=torch.float64))
    assert torch.equal(rows.points.detach()[0], before[0])
    assert rows.points.detach()[1] < before[1]
    assert rows.now().isnan()[:, 0].tolist() == [True, False]


def test_growth_is_that_of_long_runs():
    places = [(drift, kept) for drift in (-1.5, -0.2, 0.3, 40.0) for kept in (0.0, 0.5, 0.9)]
    drifts = torch.tensor([[drift] for drift, _ in places], dtype=torch.float64)
    start = torch.ones(len(places), 1)
    rows = Rows(start, 0.0, 0.0, lr=LR, momentum=[kept for _, kept in places])
    sizes = []
    for _ in range(400):
        rows.step(lambda w: drifts * w)
        sizes.append(rows.now()[:, 0].abs())
    held = torch.stack(sizes)
    # complex roots make it swing: its size over many swings
    found = (held[-60:].amax(0) / held[-260:-200].amax(0)) ** (1 / 200)
    for (drift, kept), rate in zip(places, found.tolist(), strict=True):
        wanted = growth(drift, lr=LR, momentum=kept)
        assert rate == pytest.approx(wanted, rel=0.01)
        assert (wanted > 1) == (drift < 0), "whatever momentum is"


def test_small_steps_with_momentum_are_long_steps_without():
    slow = growth(-0.3, lr=1e-4, momentum=KEPT)
    assert math.log(slow) == pytest.approx(0.3 * 1e-4 / (1 - KEPT), rel=0.01)


@pytest.mark.parametrize("kept", [0.0, 0.9])
def test_second_moments_are_those_of_many_paths(kept):
    """The recursion against 40,000 runs of the optimizer: to four standard errors."""
    problem, batch, paths, steps = Problem(-1.2, 0.4), 4, 40_000, 60
    wanted = list(islice(spreads(problem, batch, lr=LR, momentum=kept), steps))
    draws = torch.Generator().manual_seed(0)
    rows = Rows(torch.zeros(paths, 1), problem.rho, 0.0, lr=LR, momentum=kept)
    for step in range(steps):
        noise = math.sqrt(abs(problem.lam) / batch) * torch.randn(
            paths, 1, generator=draws, dtype=torch.float64
        )
        rows.step(lambda w, noise=noise: problem.lam * w + noise)
        if step in (0, 9, steps - 1):
            found = float(rows.now().square().mean())
            assert found == pytest.approx(wanted[step], rel=4 * math.sqrt(2 / paths))
    first = LR**2 * (1 + problem.rho * problem.lam) ** 2 * abs(problem.lam) / batch
    assert wanted[0] == pytest.approx(first, rel=1e-12)


def test_times_are_those_of_the_roots():
    (row,) = toy.momentum(seed=1000, rho=0.0, count=1, steps=700)
    problem = Problem.draw(1000)
    assert (row["lambda"], row["radius"]) == (problem.lam, problem.rho)
    for arm, rho in (("usam", problem.rho), ("descent", 0.0)):
        rate = growth(problem.drift(rho), lr=LR, momentum=0.0)
        assert row[f"{arm}/plain"] == math.ceil(math.log(toy.GROWTH) / math.log(rate))
        fast = growth(problem.drift(rho), lr=LR, momentum=KEPT)
        assert row[f"{arm}/kept"] == pytest.approx(math.log(toy.GROWTH) / math.log(fast), rel=0.3)
    assert row["right"] == 1.0
    wanted = spread_after(problem, toy.SMALL, lr=LR, momentum=0.0, most=700)
    assert row[f"batch/{toy.SMALL}"] == wanted


def test_what_does_not_happen_in_time_is_nan(monkeypatch):
    (row,) = toy.momentum(seed=1000, rho=0.0, count=1, steps=5)
    assert math.isnan(row["usam/kept"])
    assert math.isnan(row["batch/16"])
    # the share of right radii can fail: judged by another place than −1/λ
    monkeypatch.setattr(toy, "FACTORS", (0.5, 1.5))
    monkeypatch.setattr(Problem, "draw", lambda seed: Problem(-1.0, 3.0))
    (row,) = toy.momentum(seed=0, rho=0.0, count=1, steps=200)
    assert row["right"] == 1.0
    assert math.isnan(row["usam/plain"]), "ρ above −1/λ: it does not leave"
