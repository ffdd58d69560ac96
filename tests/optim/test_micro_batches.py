"""Accumulation over micro-batches, and gradients that only one pass has."""

from __future__ import annotations

import pytest
import torch
from forms import (
    BASES,
    make,
)
from problems import data, losses, network, weights
from torch import nn

from lowland.optim import ASAM, FSAM, MSAM, SAM, LookSAM


@pytest.mark.parametrize("name", ["sam", "f-sam", "looksam"])
def test_micro_batches_are_m_sam(name: str) -> None:
    x, y = data(n=12)
    sizes = [5, 5, 2]
    model = network(3, torch.float64, norm=False)
    x = x.double()
    opt = make(name, model, rho=0.3, lr=0.1)
    for _ in range(1 if name == "looksam" else 3):
        for i, (xs, ys) in enumerate(zip(x.split(sizes), y.split(sizes), strict=True)):
            losses(model)(xs, ys).mean().backward()
            with opt.perturbed(last=i == 2, examples=len(xs)):
                losses(model)(xs, ys).mean().backward()
        opt.step()
        opt.zero_grad()
    if name != "sam":
        assert int(opt.param_groups[0]["sam_step"]) == (1 if name == "looksam" else 3)
        return
    twin = network(3, torch.float64, norm=False)
    split = MSAM(twin.parameters(), torch.optim.SGD, m=5, rho=0.3, **BASES["sgd"][1])
    for _ in range(3):
        split.step(loss_fn=losses(twin), batch=(x, y))
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_f_sam_over_micro_batches_remembers_the_mean_gradient() -> None:
    model, (x, y) = network(3, torch.float64, norm=False), data(dtype=torch.float64)
    opt = make("f-sam", model, rho=0.3)
    whole = torch.autograd.grad(losses(model)(x, y).mean(), list(model.parameters()))
    for i, (xs, ys) in enumerate(zip(x.split(7), y.split(7), strict=True)):
        losses(model)(xs, ys).mean().backward()
        with opt.perturbed(last=i == 1, examples=len(xs)):
            losses(model)(xs, ys).mean().backward()
    opt.step()
    for p, g in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(opt.state[p]["sam_ema"], g)


def test_a_step_in_the_middle_of_micro_batches_is_refused() -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    losses(model)(x, y).mean().backward()
    with opt.perturbed(last=False):
        losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match="last=False"):
        opt.step()
    with pytest.raises(ValueError, match="examples is 0"):
        opt.perturbed(examples=0)


# Gradients that are there in one pass only


def test_parameters_without_a_gradient_in_one_of_the_passes() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    opt = SAM([a, b, frozen], torch.optim.SGD, rho=0.5, lr=0.1)
    before = [p.detach().clone() for p in (a, b, frozen)]
    (a**2).sum().backward()
    with opt.perturbed():
        assert not torch.equal(a, before[0])
        assert torch.equal(b, before[1])
        (b**2).sum().backward()
        assert torch.equal(frozen, before[2])
    assert torch.equal(a, before[0])
    opt.step()
    assert torch.equal(a, before[0])
    assert not torch.equal(b, before[1])


def test_memory_is_one_copy_and_g_is_gone_before_the_second_pass() -> None:
    """SAM lets go of g; methods that need it keep it."""
    import weakref

    for kind, alive in ((SAM, False), (FSAM, True), (LookSAM, True)):
        model, (x, y) = network(3), data()
        opt = kind(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, model=model)
        losses(model)(x, y).mean().backward()
        g = weakref.ref(model[0].weight.grad)
        with opt.perturbed():
            assert (g() is not None) == alive, kind
            losses(model)(x, y).mean().backward()
        opt.step()
        held = sum(flat.numel() for flat in opt._engine.displacement._store.flat)
        assert held == sum(p.numel() for p in model.parameters())


def test_asam_without_names_says_what_it_does() -> None:
    with pytest.warns(RuntimeWarning, match="scale_bias=True"):
        ASAM(network().parameters(), torch.optim.SGD, lr=0.1)
    named = network()
    ASAM(named.named_parameters(), torch.optim.SGD, lr=0.1)
