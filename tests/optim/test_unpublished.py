"""Combinations that nobody published work at once."""

from __future__ import annotations

import copy

import pytest
import torch
from family import BASE, DTYPES, SGD, Counted, close, grad, moved, trained, unit, within
from problems import data, equal, losses, network, weights

from lowland.optim import (
    ASAM,
    GSAM,
    MSAM,
    SAM,
    Elementwise,
    LastLayerSAM,
    LookSAM,
    MinusOrthogonal,
    MinusRunningMean,
    OutputLayer,
    Perturbation,
    SharpnessAware,
)
from lowland.optim.head import HeadPlan


def test_one_forward_under_other_directions_and_metrics() -> None:
    """F-SAM's direction and ASAM's metric on the output layer: one forward is two passes."""
    rule = Perturbation(OutputLayer(), MinusRunningMean(), Elementwise(eta=0.01))
    ends = []
    for one in (True, False):
        model = Counted()
        opt = SharpnessAware(
            model.parameters(), SGD, model=model, perturbation=rule, rho=0.3,
            plan=HeadPlan(model, one_forward=one), **BASE,
        )  # fmt: skip
        for i in range(4):
            opt.step(loss_fn=losses(model), batch=data(i))
        assert model.forwards == (4 if one else 8)
        ends.append(weights(model))
    assert equal(*ends)
    other = Counted()
    trained(ASAM, other, losses(other), [data(i) for i in range(4)], rho=0.3)
    assert not equal(weights(other), ends[0])


def test_looksam_on_the_last_layer_at_k_1_is_last_layer_sam() -> None:
    models = [Counted(), Counted()]
    looking = LookSAM(models[0].parameters(), SGD, model=models[0], rho=0.3, k=1, **BASE)
    opts = [
        SharpnessAware(
            models[0].parameters(), SGD, model=models[0], rho=0.3,
            plan=looking._engine.plan, perturbation=Perturbation(OutputLayer()), **BASE,
        ),
        LastLayerSAM(models[1].parameters(), SGD, model=models[1], rho=0.3, **BASE),
    ]  # fmt: skip
    for i in range(4):
        for model, opt in zip(models, opts, strict=True):
            opt.step(loss_fn=losses(model), batch=data(i))
    close(weights(models[0]), weights(models[1]), 1e-6)
    everywhere = Counted()
    trained(SAM, everywhere, losses(everywhere), [data(i) for i in range(4)], rho=0.3)
    assert not equal(weights(everywhere), weights(models[1]))


@DTYPES
@pytest.mark.parametrize("m", [4, 5, 12])
def test_gsam_on_shards_is_the_mean_of_gsam_on_each(m: int, dtype: torch.dtype) -> None:
    """u = Σ (n_s/b)·(g̃_s − α·g_⊥s), every shard from the same w."""
    model = network(3, dtype, norm=False)
    opt = MSAM(model.parameters(), SGD, m=m, rho=0.4, combine=MinusOrthogonal(0.7), lr=0.1)
    twin = copy.deepcopy(model)
    for i in range(3):
        x, y = data(i, dtype=dtype)
        opt.step(loss_fn=losses(model), batch=(x, y))
        total = [torch.zeros_like(p) for p in twin.parameters()]
        for part in torch.arange(len(x)).split(m):
            g = grad(twin, x[part], y[part])
            h = grad(moved(twin, unit(g), 0.4), x[part], y[part])
            inner = sum((a * b).sum() for a, b in zip(g, h, strict=True))
            square = sum((b * b).sum() for b in h)
            for t, a, b in zip(total, g, h, strict=True):
                t += len(part) / len(x) * (b - 0.7 * (a - inner / square * b))
        with torch.no_grad():
            for p, t in zip(twin.parameters(), total, strict=True):
                p.sub_(0.1 * t)
        close(weights(model), weights(twin), within(dtype))


def test_gsam_on_one_shard_is_gsam() -> None:
    models = [network(3), network(3)]
    opts = [
        MSAM(models[0].parameters(), SGD, m=12, rho=0.4, combine=MinusOrthogonal(0.7), **BASE),
        GSAM(models[1].parameters(), SGD, rho=0.4, alpha=0.7, **BASE),
    ]
    for i in range(4):
        for model, opt in zip(models, opts, strict=True):
            opt.step(loss_fn=losses(model), batch=data(i))
    assert equal(weights(models[0]), weights(models[1]))
