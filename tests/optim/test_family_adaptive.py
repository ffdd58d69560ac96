"""Gradient norm, AMP, AdaSAM and LightSAM with their bases: against their formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from family import (
    BASE,
    DTYPES,
    SGD,
    batches,
    close,
    descend,
    end_of,
    epsilon_in,
    grad,
    moved,
    unit,
    within,
)
from problems import Quadratic, data, equal, losses, network, norm, weights
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.optim import (
    AMP,
    SAM,
    USAM,
    AdaSAM,
    GradientNorm,
    LightSAM,
    UncorrectedAdaGrad,
    UncorrectedAdam,
)

RHO = 0.3
Memory = dict[str, Any]


def on(f: Quadratic) -> dict[str, Any]:
    return {"loss_fn": lambda x: f() * x, "batch": torch.ones(2, dtype=torch.float64)}


# Gradient norm


def penalized(model: nn.Module, x: Tensor, y: Tensor, lam: float, squared: bool) -> list[Tensor]:
    twin = copy.deepcopy(model)
    params = list(twin.parameters())
    loss = losses(twin)(x, y).mean()
    g = torch.autograd.grad(loss, params, create_graph=True)
    square = sum((t**2).sum() for t in g)
    return list(torch.autograd.grad(loss + lam * (square if squared else square**0.5), params))


@DTYPES
@pytest.mark.parametrize("squared", [False, True])
def test_gradient_norm_is_its_formula(dtype: torch.dtype, squared: bool) -> None:
    model = network(1, dtype)
    opt = GradientNorm(model.parameters(), SGD, rho=0.2, squared=squared, model=model, **BASE)

    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: Memory) -> list[Any]:
        return list(penalized(model, x, y, 0.2, squared))

    descend(opt, model, rule, batches(dtype), within(dtype))


@pytest.mark.parametrize("squared", [False, True])
def test_gradient_norm_is_sam_on_quadratics(squared: bool) -> None:
    ends = []
    other = (USAM, {"rho": 0.2}) if squared else (SAM, {"rho": 0.1})
    for kind, own in ((GradientNorm, {"rho": 0.1, "squared": squared}), other):
        f = Quadratic(2)
        opt = kind(f.parameters(), SGD, lr=0.1, **own)
        for _ in range(4):
            opt.step(**on(f))
        ends.append(weights(f))
    close(ends[0], ends[1], 1e-10)


def test_gradient_norm_is_sam_to_first_order() -> None:
    """The difference is O(ρ²): a quarter of it at half the radius."""
    model, (x, y) = network(2, torch.float64, norm=False), data(2, dtype=torch.float64)
    gaps = []
    for rho in (2e-3, 1e-3):
        sam = grad(moved(model, unit(grad(model, x, y)), rho), x, y)
        start, ours = weights(model), moved(model, weights(model), 0.0)
        GradientNorm(ours.parameters(), SGD, rho=rho, lr=1.0).step(
            loss_fn=losses(ours), batch=(x, y)
        )
        u = [a - b for a, b in zip(start, weights(ours), strict=True)]
        gaps.append(float(norm([a - b for a, b in zip(u, sam, strict=True)])))
    assert 3.8 < gaps[0] / gaps[1] < 4.2


def test_gradient_norm_where_the_gradient_is_zero() -> None:
    p = nn.Parameter(torch.zeros(3))
    opt = GradientNorm([p], SGD, lr=0.1, rho=0.5)
    opt.step(loss_fn=lambda x: x * (p**2).sum(), batch=torch.ones(2))
    assert opt.last is not None
    assert not opt.last.skipped
    assert not p.any()


@pytest.mark.parametrize("squared", [False, True])
def test_gradient_norm_without_lambda_is_the_base(squared: bool) -> None:
    plain = end_of(SAM, torch.float32, rho=0.0)
    assert equal(end_of(GradientNorm, torch.float32, rho=0.0, squared=squared), plain)


def test_gradient_norm_ends_when_it_is_told() -> None:
    """methods.md §5.5: active during the first half of training, which is what end= is for."""
    f, g = Quadratic(3), Quadratic(3)
    opt, plain = GradientNorm(f.parameters(), SGD, lr=0.1, end=0), SGD(g.parameters(), lr=0.1)
    opt.step(**on(f))
    g().backward()
    plain.step()
    close(weights(f), weights(g), 1e-12)


def test_gradient_norm_of_micro_batches_is_refused() -> None:
    """The norm of the whole batch's gradient is not a sum over its parts."""
    model = network(4, torch.float64, norm=False)
    x, y = data(4, dtype=torch.float64)
    opt = GradientNorm(model.parameters(), SGD, lr=0.1, rho=0.5)
    with pytest.raises(InputError, match="one batch=, not"):
        opt.step(loss_fn=losses(model), batches=[(x[:6], y[:6]), (x[6:], y[6:])])


# AMP


@DTYPES
@pytest.mark.parametrize("rate", [0.05, 0.4, 5.0])
@pytest.mark.parametrize("inner", [1, 3])
def test_amp_is_its_formula(dtype: torch.dtype, inner: int, rate: float) -> None:
    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: Memory) -> list[Any]:
        e = [torch.zeros_like(p) for p in model.parameters()]
        for _ in range(inner):
            g = grad(moved(model, e), x, y)
            e = [a.detach() + rate * b for a, b in zip(e, g, strict=True)]
            e = [t * min(1.0, RHO / float(norm(e))) for t in e]
        return list(grad(moved(model, e), x, y))

    model = network(3, dtype)
    opt = AMP(
        model.parameters(), SGD, rho=RHO, inner_steps=inner, inner_lr=rate, model=model, **BASE
    )
    descend(opt, model, rule, batches(dtype), within(dtype))


@DTYPES
def test_amp_with_one_step_is_sam_where_the_ball_binds(dtype: torch.dtype) -> None:
    ends = end_of(AMP, dtype, rho=RHO, inner_lr=1e3)
    close(ends, end_of(SAM, dtype, rho=RHO), within(dtype))
    for own in ({"inner_lr": 1e3, "rho": 0.0}, {"inner_lr": 0.0, "rho": RHO}):
        close(end_of(AMP, dtype, **own), end_of(SAM, dtype, rho=0.0), within(dtype))


def test_amp_goes_down_where_the_objective_is_maximized() -> None:
    ends = []
    for kind, own in ((SAM, {}), (AMP, {"inner_lr": 1e3})):
        f = Quadratic(6)
        opt = kind(f.parameters(), SGD, rho=RHO, lr=0.1, maximize=True, **own)
        opt.step(**on(f))
        ends.append(weights(f))
    close(ends[0], ends[1], 1e-9)


# AdaSAM and LightSAM


def adaptively(
    step: Callable[[nn.Module, Tensor, Tensor, Memory], list[Tensor]],
    opt: Any,
    model: nn.Module,
    dtype: torch.dtype,
) -> None:
    """Six steps of `opt` beside w ← w − `step`."""
    twin, memory = copy.deepcopy(model), {}
    for x, y in batches(dtype, 6):
        opt.step(loss_fn=losses(model), batch=(x, y))
        for p, t in zip(twin.parameters(), step(twin, x, y, memory), strict=True):
            p.data.sub_(t)
        close(weights(model), weights(twin), 1e-9 if dtype == torch.float64 else 2e-3)


def amsgrad(g: list[Tensor], memory: Memory, largest: bool, v0: float = 1e-16) -> list[Tensor]:
    zero = [torch.zeros_like(t) for t in g]
    start = [torch.full_like(t, v0) for t in g]
    memory["m"] = [0.9 * a + 0.1 * t for a, t in zip(memory.get("m", zero), g, strict=True)]
    memory["v"] = [0.999 * a + 0.001 * t**2 for a, t in zip(memory.get("v", start), g, strict=True)]
    held = memory.get("top", start) if largest else memory["v"]
    memory["top"] = [torch.maximum(a, b) for a, b in zip(held, memory["v"], strict=True)]
    return [a / b**0.5 for a, b in zip(memory["m"], memory["top"], strict=True)]


@DTYPES
def test_adasam_is_its_formula(dtype: torch.dtype) -> None:
    def step(model: nn.Module, x: Tensor, y: Tensor, memory: Memory) -> list[Tensor]:
        u = grad(moved(model, unit(grad(model, x, y)), RHO), x, y)
        return [0.01 * t for t in amsgrad(u, memory, largest=True)]

    model = network(5, dtype, norm=False)
    adaptively(step, AdaSAM(model.parameters(), rho=RHO, lr=0.01), model, dtype)


@DTYPES
def test_uncorrected_adam_moves_316_step_sizes_at_first(dtype: torch.dtype) -> None:
    model, (x, y) = network(5, dtype, norm=False), data(5, dtype=dtype)
    before, held = weights(model), None
    opt = AdaSAM(model.parameters(), rho=RHO, lr=0.01)
    opt.step(loss_fn=losses(model), batch=(x, y))
    for a, b in zip(before, weights(model), strict=True):
        size = torch.full_like(a, 0.01 * 0.1 / 0.001**0.5)
        torch.testing.assert_close((a - b).abs(), size, rtol=1e-3, atol=1e-6)
    for i in range(5):
        opt.step(loss_fn=losses(model), batch=data(i, dtype=dtype))
        now = [opt.state[p]["largest"].clone() for p in model.parameters()]
        assert held is None or all(bool((a >= b).all()) for a, b in zip(now, held, strict=True))
        held = now


def light(variant: str) -> Callable[..., list[Tensor]]:
    def step(model: nn.Module, x: Tensor, y: Tensor, memory: Memory) -> list[Tensor]:
        g = grad(model, x, y)
        if variant == "I":
            memory["u"] = memory.get("u", 1e-16) + float(norm(g)) ** 2
            u = grad(moved(model, g, RHO / memory["u"] ** 0.5), x, y)
            memory["v"] = memory.get("v", 1e-16) + float(norm(u)) ** 2
            return [0.05 * t / memory["v"] ** 0.5 for t in u]
        if variant == "II":
            d = adagrad(g, memory.setdefault("first", {}))
            u = grad(moved(model, d, RHO), x, y)
            return [0.05 * t for t in adagrad(u, memory.setdefault("second", {}))]
        d = amsgrad(g, memory.setdefault("first", {}), largest=False)
        u = grad(moved(model, d, RHO), x, y)
        return [0.05 * t for t in amsgrad(u, memory.setdefault("second", {}), largest=False)]

    return step


def adagrad(g: list[Tensor], memory: Memory) -> list[Tensor]:
    old = memory.get("v", [torch.full_like(t, 1e-16) for t in g])
    memory["v"] = [a + t**2 for a, t in zip(old, g, strict=True)]
    return [t / v**0.5 for t, v in zip(g, memory["v"], strict=True)]


@DTYPES
@pytest.mark.parametrize("variant", ["I", "II", "III"])
def test_lightsam_is_its_formula(dtype: torch.dtype, variant: str) -> None:
    model = network(6, dtype, norm=False)
    opt = LightSAM(model.parameters(), variant=variant, rho=RHO, lr=0.05)
    adaptively(light(variant), opt, model, dtype)


def test_lightsam_one_bounds() -> None:
    """‖ε₁‖ = ρ, ‖Δw‖ = η; ‖ε_t‖ <= ρ and Σ‖ε_t‖²/ρ² <= 1 + ln(u_T/u_1)."""
    model = network(7, torch.float64, norm=False)
    opt = LightSAM(model.parameters(), variant="I", rho=RHO, lr=0.05)
    sizes, us, before = [], [], weights(model)
    for i in range(8):
        sizes.append(float(norm(epsilon_in(opt, model, *data(i, dtype=torch.float64))[-1])))
        us.append(opt.param_groups[0]["sam_u"])
        if i == 0:
            move = [a - b for a, b in zip(before, weights(model), strict=True)]
            assert sizes[0] == pytest.approx(RHO, rel=1e-9)
            assert float(norm(move)) == pytest.approx(0.05, rel=1e-9)
    assert max(sizes) <= RHO * (1 + 1e-12)
    assert sum(s**2 for s in sizes) / RHO**2 <= 1 + math.log(us[-1] / us[0])


def test_lightsam_two_bounds_every_coordinate() -> None:
    model = network(7, torch.float64, norm=False)
    opt = LightSAM(model.parameters(), variant="II", rho=RHO, lr=0.05)
    for i in range(5):
        e = epsilon_in(opt, model, *data(i, dtype=torch.float64))[-1]
        most = max(float(t.abs().max()) for t in e)
        assert most <= RHO * (1 + 1e-9)
        assert i or most == pytest.approx(RHO)


@pytest.mark.parametrize("name", ["AdaSAM", "I", "II", "III"])
def test_adaptive_methods_with_radius_zero_are_their_bases(name: str) -> None:
    ends = []
    for plain in (False, True):
        model = network(8, norm=False)
        params = model.parameters()
        opt: Any
        if name == "AdaSAM":
            opt = UncorrectedAdam(params, lr=0.05) if plain else AdaSAM(params, rho=0.0, lr=0.05)
        elif not plain:
            opt = LightSAM(params, variant=name, rho=0.0, lr=0.05)
        elif name == "III":
            opt = UncorrectedAdam(params, lr=0.05, amsgrad=False)
        else:
            opt = UncorrectedAdaGrad(params, lr=0.05, norm=name == "I")
        for x, y in batches(torch.float32):
            opt.zero_grad()
            losses(model)(x, y).mean().backward()
            opt.step()
        ends.append(weights(model))
    assert equal(*ends)
