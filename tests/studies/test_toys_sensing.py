"""Matrix sensing: its gradient, what descent finds, and runs against the library's optimizers."""

from __future__ import annotations

import math

import pytest
import torch
from made_runs import make_runs

from lowland.optim import SAM, USAM
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.toys.columns import SENSING, SENSING_RATES
from lowland.studies.toys.sensing import FORMS, Problem, sensing
from lowland.studies.toys.sensing_figures import recovered

SIZES = {"size": 4, "rank": 1, "measurements": 8, "start": 0.1}


def loss(problem, k, u):
    """(1/4m) Σ (⟨A_i, UUᵀ⟩ − ⟨A_i, X*⟩)² of problem k, written out."""
    d = problem.size
    apart = u.reshape(d, d) @ u.reshape(d, d).T - problem.target[k].reshape(d, d)
    products = [(a.reshape(d, d) * apart).sum() for a in problem.sensors[k]]
    return torch.stack(products).square().mean() / 4


def test_gradients_are_those_of_autograd():
    problem = Problem.draw([3, 4], **SIZES)
    points = torch.randn(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = problem.gradient(points)
    for row in range(6):
        u = points[row].clone().requires_grad_()
        (wanted,) = torch.autograd.grad(loss(problem, row // 3, u), u)
        torch.testing.assert_close(found[row], wanted, rtol=1e-10, atol=1e-12)


def test_problems_are_of_their_rank_and_symmetric():
    problem = Problem.draw([0, 1], **{**SIZES, "rank": 2})
    target = problem.target.reshape(2, 4, 4)
    assert torch.linalg.matrix_rank(target).tolist() == [2, 2]
    torch.testing.assert_close(
        torch.linalg.matrix_norm(target, 2), torch.ones(2, dtype=torch.float64)
    )
    sensors = problem.sensors.reshape(2, 8, 4, 4)
    torch.testing.assert_close(sensors, sensors.mT)
    assert problem.errors(torch.zeros(2, 16, dtype=torch.float64)).tolist() == [[1.0], [1.0]]


def test_descent_from_a_small_start_finds_a_matrix_that_its_measurements_leave_open():
    sizes = {"size": 6, "rank": 1, "measurements": 18}  # of 21 free entries
    (small,) = sensing(
        seed=0, rho=0.0, count=1, radii=[0.0], rates=[0.4], steps=300, start=0.001, **sizes
    )
    (large,) = sensing(
        seed=0, rho=0.0, count=1, radii=[0.0], rates=[0.05], steps=300, start=1.0, **sizes
    )
    assert small["usam/0.4"] == small["sam/0.4"] < 0.05
    assert large["usam/0.05"] > 2 * small["usam/0.4"]


@pytest.mark.parametrize(("form", "cls"), [("usam", USAM), ("sam", SAM)])
def test_runs_are_the_librarys_one_by_one(form, cls):
    radii, rates, steps = [0.0, 0.05], [0.05, 0.1], 20
    rows = list(sensing(seed=5, rho=0.0, count=2, radii=radii, rates=rates, steps=steps, **SIZES))
    problem = Problem.draw([5, 6], **SIZES)
    for row in rows:
        k = row["seed"] - 5
        for lr in rates:
            u = torch.nn.Parameter(problem.start[k].clone())
            optimizer = cls([u], torch.optim.SGD, lr=lr, rho=row["rho"])

            def closure(u=u, optimizer=optimizer, k=k):
                optimizer.zero_grad()
                value = loss(problem, k, u)
                value.backward()
                return value

            for _ in range(steps):
                optimizer.step(closure)
            both = u.detach().expand(2, -1)
            wanted = float(problem.errors(both)[k, 0])
            assert row[f"{form}/{lr:g}"] == pytest.approx(wanted, rel=1e-9)


def test_a_run_that_diverges_is_nan_alone():
    rows = list(
        sensing(seed=0, rho=0.0, count=1, radii=[0.0, 50.0], rates=[0.1], steps=40, **SIZES)
    )
    assert math.isfinite(rows[0]["sam/0.1"])
    assert math.isnan(rows[1]["sam/0.1"])


def test_heat_maps_count_the_draws_that_were_recovered():
    def values(rho, seed, step):
        error = 0.05 if rho == 0 or seed == 0 else 0.5
        return {f"{form}/{lr:g}": error for form in FORMS for lr in SENSING_RATES}

    made = recovered(Runs(make_runs(values, group=SENSING, rhos=(0.0, 0.1))), "sam")
    assert made.columns == ["0", "0.1"]
    assert made.values == [[1.0, pytest.approx(1 / 3)]] * len(SENSING_RATES)
    with pytest.raises(NotMeasuredError):
        recovered(Runs([]), "sam")
