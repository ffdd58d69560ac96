"""The Polyak step of Unified SAM."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from family import DTYPES, SGD, close, grad, moved, within
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Quadratic, closure_for, data, equal, losses, network, norm, weights
from torch import nn

from lowland.core.errors import InputError
from lowland.optim import UnifiedSAM


@DTYPES
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bound", [0.0, 0.4, 5.0])
@pytest.mark.parametrize("lr", [0.05, 10.0])
def test_the_step_is_its_formula(dtype: torch.dtype, lam: float, bound: float, lr: float) -> None:
    """min(η, [L(w+ε) − ℓ* − ⟨g̃, ε⟩]₊/‖g̃‖²) times g̃; the base's step where that is smaller."""
    model = network(3, dtype, norm=False)
    opt = UnifiedSAM(
        model.parameters(), SGD, lr=lr, rho=0.2, lam=lam, polyak=True, lower_bound=bound
    )
    for i in range(3):
        x, y = data(i, dtype=dtype)
        twin = copy.deepcopy(model)
        opt.step(loss_fn=losses(model), batch=(x, y))
        g = grad(twin, x, y)
        radius = 0.2 * (1 - lam + lam / norm(g))
        epsilon = [radius * t for t in g]
        there = moved(twin, epsilon)
        h = grad(there, x, y)
        loss = losses(there)(x, y).mean().detach()
        inner = sum((a * e).sum() for a, e in zip(h, epsilon, strict=True))
        rate = (loss - bound - inner).clamp_min(0) / norm(h) ** 2
        with torch.no_grad():
            for p, t in zip(twin.parameters(), h, strict=True):
                p.sub_(min(lr, float(rate)) * t)
        close(weights(model), weights(twin), within(dtype))
    if bound == 5.0:
        assert equal(weights(model), weights(network(3, dtype, norm=False))), "below the bound"


@given(st.integers(0, 1000), st.floats(0.001, 0.05))
@settings(max_examples=20, deadline=None)
def test_an_interpolating_quadratic_needs_no_step_size(seed: int, rho: float) -> None:
    """USAM on ½wᵀHw with ℓ* = 0: ‖w‖ never grows, though lr is absurd."""
    model = Quadratic(seed)
    opt = UnifiedSAM(model.parameters(), SGD, lr=1e6, rho=rho, lam=0.0, polyak=True)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss: torch.Tensor = model()
        loss.backward()
        return loss

    lengths = [float(model.w.detach().norm())]
    for _ in range(30):
        opt.step(closure)
        lengths.append(float(model.w.detach().norm()))
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(lengths))
    assert lengths[-1] < lengths[0]


def test_a_large_polyak_step_leaves_the_base_alone() -> None:
    """Where η_P is above lr, it is Unified SAM bit for bit; so it is at lr = 0."""
    for lr in (1e-6, 0.0):
        models = [network(3), network(3)]
        for model, polyak in zip(models, (True, False), strict=True):
            opt = UnifiedSAM(model.parameters(), SGD, lr=lr, rho=0.2, polyak=polyak)
            for i in range(3):
                opt.step(closure_for(opt, model, *data(i)))
        assert equal(weights(models[0]), weights(models[1]))


def test_maximizing_is_minimizing_the_negative() -> None:
    models = [network(3, norm=False), network(3, norm=False)]
    for model, sign in zip(models, (1.0, -1.0), strict=True):
        opt = UnifiedSAM(
            model.parameters(), SGD, lr=5.0, rho=0.2, polyak=True, lower_bound=-2.0,
            maximize=sign < 0,
        )  # fmt: skip
        for i in range(3):
            opt.step(loss_fn=lambda x, y, m=model, s=sign: s * losses(m)(x, y), batch=data(i))
    close(weights(models[0]), weights(models[1]), 1e-6)


def test_what_it_needs_is_said() -> None:
    model = network(3)
    opt = UnifiedSAM(model.parameters(), SGD, lr=0.1, polyak=True)
    losses(model)(*data(0)).mean().backward()
    with pytest.raises(RuntimeError, match="make them itself"), opt.perturbed():
        pass
    opt.zero_grad()

    def closure() -> dict[str, float]:
        opt.zero_grad()
        losses(model)(*data(0)).mean().backward()
        return {"loss": 1.0}

    before = weights(model)
    with pytest.raises(InputError, match="returned none"):
        opt.step(closure)
    assert equal(weights(model), before)
    with pytest.raises(InputError, match="lower_bound"):
        UnifiedSAM(nn.Linear(1, 1).parameters(), SGD, lr=0.1, lower_bound=float("nan"))
    groups = [{"params": [p], "rho": 0.1 * (i + 1)} for i, p in enumerate(model.parameters())]
    with pytest.raises(InputError, match="rho"):
        UnifiedSAM(groups, SGD, lr=0.1, polyak=True)
