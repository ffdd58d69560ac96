"""Many runs as rows of one tensor: each is the library's optimizer on its own, to rounding."""

from __future__ import annotations

import math

import pytest
import torch

from lowland.optim import SAM, USAM, UnifiedSAM
from lowland.studies.toys.functions import (
    BEALE_CURVATURE,
    BEALE_MINIMUM,
    SADDLE,
    beale,
    beale_gradient,
    hyperbolic,
    valley,
)
from lowland.studies.toys.rows import LARGEST, Rows

SHARES = {0.0: USAM, 1.0: SAM}
LOSSES = {
    "hyperbolic": (hyperbolic, lambda w: (w[:, 0] ** 2 - w[:, 1] ** 2).sum()),
    "beale": (beale_gradient, lambda w: beale(w).sum()),
    "valley": (valley, lambda w: (2 * torch.log(torch.cosh(w.prod(1) / 2))).sum()),
}


def alone(cls, start, loss, steps, lr, **options):
    """The library's own optimizer on one run."""
    w = torch.nn.Parameter(start.clone()[None])
    optimizer = cls([w], torch.optim.SGD, lr=lr, **options)

    def closure():
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)
    return w.detach()[0]


@pytest.mark.parametrize("name", LOSSES)
def test_rows_are_the_optimizers_run_by_run(name):
    field, loss = LOSSES[name]
    draws = torch.Generator().manual_seed(3)
    start = torch.rand(4, 2, generator=draws, dtype=torch.float64) + 0.5
    lr, steps = (1e-4 if name == "beale" else 0.01), 25
    radii = [0.01, 0.01, 0.03, 0.0]
    shares = [0.0, 1.0, 0.5, 1.0]
    rows = Rows(start, radii, shares, lr=lr)
    for _ in range(steps):
        rows.step(field)
    for i, (rho, share) in enumerate(zip(radii, shares, strict=True)):
        cls, options = (UnifiedSAM, {"lam": share}) if share == 0.5 else (SHARES[share], {})
        expected = alone(cls, start[i], loss, steps, lr, rho=rho, **options)
        torch.testing.assert_close(rows.now()[i], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_autograd(name):
    field, loss = LOSSES[name]
    w = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(w), w)
    torch.testing.assert_close(field(w.detach()), expected)


def test_beales_saddle_and_minimum():
    for place in (SADDLE, BEALE_MINIMUM):
        assert beale_gradient(torch.tensor([place])).abs().max() < 1e-6
    hessian = torch.autograd.functional.hessian(
        lambda w: beale(w[None])[0], torch.tensor(SADDLE, dtype=torch.float64)
    )
    values = torch.linalg.eigvalsh(hessian).tolist()
    assert values == pytest.approx([-BEALE_CURVATURE, BEALE_CURVATURE])


def test_the_sum_descends_along_both_gradients():
    start = torch.tensor([[1.0, 0.5], [1.0, 0.5]], dtype=torch.float64)
    rows = Rows(start, [0.1, 0.1], [1.0, 1.0], lr=0.1, kept=[True, False])
    rows.step(hyperbolic)
    g = hyperbolic(start[:1])
    moved = hyperbolic(start[:1] + 0.1 * g / g.norm())
    torch.testing.assert_close(rows.now()[:1], start[:1] - 0.1 * (g + moved))
    torch.testing.assert_close(rows.now()[1:], start[:1] - 0.1 * moved)


def test_own_step_sizes():
    start = torch.ones(3, 1, dtype=torch.float64)
    rows = Rows(start, [0.0] * 3, 0.0, lr=[0.1, 0.2, 0.4])
    rows.step(lambda w: w)
    assert rows.now()[:, 0].tolist() == pytest.approx([0.9, 0.8, 0.6])
    rows.lr.mul_(0.5)
    rows.step(lambda w: w)
    assert rows.now()[:, 0].tolist() == pytest.approx([0.9 * 0.95, 0.8 * 0.9, 0.6 * 0.8])


@pytest.mark.parametrize("wild", [math.nan, math.inf, 10 * LARGEST])
def test_a_run_that_diverged_stops_alone(wild):
    rows = Rows(torch.ones(2, 1), [0.1, 0.1], 0.0, lr=0.1)
    factor = torch.tensor([[1.0], [wild]], dtype=torch.float64)
    for _ in range(3):
        rows.step(lambda w: factor * w)
    assert rows.now()[0, 0] == pytest.approx((1 - 0.1 * 1.1) ** 3)
    assert math.isnan(rows.now()[1, 0])
    assert rows.lost[:, 0].tolist() == [False, True]
