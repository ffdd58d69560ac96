"""Bayesian SAM against its formula, its variance at rest, and samples of the posterior."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from family import DTYPES, SGD, Drawn, close, drawn, grad, moved, within
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import closure_for, data, equal, losses, network, weights
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.optim import BayesianSAM

__all__ = ["drawn"]


@DTYPES
@pytest.mark.parametrize("maximize", [False, True])
def test_it_is_its_formula(drawn: Drawn, dtype: torch.dtype, maximize: bool) -> None:
    """θ, g, ε, g̃, m, s, w in this order, several steps, with the noise that was drawn."""
    sign = -1.0 if maximize else 1.0
    model = network(3, dtype)
    opt = BayesianSAM(
        model.parameters(), SGD, lr=0.2, examples=50, rho=0.03, betas=(0.8, 0.9), prior=0.02,
        damping=0.05, initial=0.5, maximize=maximize,
    )  # fmt: skip
    twin = copy.deepcopy(model)
    m = [torch.zeros_like(p) for p in twin.parameters()]
    s = [torch.full_like(p, 0.5) for p in twin.parameters()]
    for i in range(4):
        x, y = data(i, dtype=dtype)
        drawn.clear()
        opt.step(loss_fn=lambda x, y: sign * losses(model)(x, y), batch=(x, y))
        (z,) = drawn.directions
        g = grad(moved(twin, [t / (50 * r).sqrt() for t, r in zip(z, s, strict=True)]), x, y)
        epsilon = [0.03 * t / r for t, r in zip(g, s, strict=True)]
        h = grad(moved(twin, epsilon), x, y)
        with torch.no_grad():
            for j, p in enumerate(twin.parameters()):
                m[j] = 0.8 * m[j] + 0.2 * (h[j] + 0.02 * p)
                s[j] = 0.9 * s[j] + 0.1 * (s[j].sqrt() * g[j].abs() + 0.02 + 0.05)
                p.sub_(0.2 * m[j] / s[j])
        close(weights(model), weights(twin), within(dtype))
    count: Any = model[1].num_batches_tracked  # type: ignore[index]
    assert int(count) == 4, "running statistics move once a step"
    for p, a, b in zip(model.parameters(), s, m, strict=True):
        close([opt.state[p]["sam_scale"], sign * opt.state[p]["sam_mean"]], [a, b], within(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("examples", [10.0, 1000.0])
def test_the_variance_at_rest(examples: float) -> None:
    """At the minimum of ½h·w², g = h·σ·z with σ = 1/√(N·s): E s = δ + γ + h·√(2/(π·N))."""
    n, h, floor = 4096, 3.0, 0.12
    p = nn.Parameter(torch.zeros(n, dtype=torch.float64))
    opt = BayesianSAM(
        [p], SGD, lr=0.0, examples=examples, betas=(0.9, 0.99), prior=0.02, damping=0.1
    )

    def closure() -> Tensor:
        opt.zero_grad()
        loss = 0.5 * h * p.square().sum()
        loss.backward()
        return loss

    for _ in range(1500):
        opt.step(closure)
    expected = floor + h * math.sqrt(2 / (math.pi * examples))
    assert opt.state[p]["sam_scale"].mean().item() == pytest.approx(expected, rel=0.01)


@given(st.integers(0, 50), st.floats(5, 1e6))
@settings(max_examples=10, deadline=None)
def test_samples_have_the_variance_and_leave_w(number: int, examples: float) -> None:
    p = nn.Parameter(torch.full((20_000,), 3.0))
    opt = BayesianSAM([p], SGD, lr=0.1, examples=examples, initial=4.0)
    before = weights(nn.ParameterList([p]))
    drawn_twice = []
    for _ in range(2):
        with opt.posterior_sample(number):
            drawn_twice.append(p.detach().clone())
    assert equal(weights(nn.ParameterList([p])), before)
    assert equal(drawn_twice[:1], drawn_twice[1:])
    sigma = 1 / math.sqrt(4 * examples)
    noise = drawn_twice[0].double() - 3.0
    assert noise.std().item() == pytest.approx(sigma, rel=0.05, abs=1e-6)
    assert abs(noise.mean().item()) < 5 * sigma / math.sqrt(20_000) + 1e-6
    with opt.posterior_sample(number + 1):
        assert not equal([p.detach()], drawn_twice[:1])


def test_a_sample_is_left_by_any_road_and_not_taken_in_a_step() -> None:
    model = network(3)
    opt = BayesianSAM(model.parameters(), SGD, lr=0.1, examples=10, model=model)
    before, statistics = weights(model), [b.clone() for b in model.buffers()]

    def inside() -> None:
        model(data(0)[0])
        assert not equal(weights(model), before)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), opt.posterior_sample(0):
        inside()
    assert equal(weights(model), before)
    assert equal(list(model.buffers()), statistics)
    with (
        pytest.raises(RuntimeError, match="finish the step"),
        opt.posterior_sample(0),
        opt.posterior_sample(1),
    ):
        pass

    def closure() -> Tensor:
        with opt.posterior_sample(0):
            return closure_for(opt, model, *data(0))()

    with pytest.raises(RuntimeError, match="finish the step"):
        opt.step(closure)
    assert equal(weights(model), before)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"examples": None}, "give examples="),
        ({"examples": 0}, "examples"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"initial": 0.0}, "initial is 0"),
        ({"prior": 0.0, "damping": 0.0}, "both 0"),
        ({"damping": -1.0}, "damping"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_makes_no_sense_is_said(own: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        BayesianSAM(network().parameters(), SGD, lr=0.1, **{"examples": 10, **own})
