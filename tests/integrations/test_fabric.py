"""Fabric: float16 by a plugin, clipping, accumulation. (float32: tests/optim/test_wrappers.py)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_trainers import farthest, sam_by_hand, same, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import SAM

fabrics = pytest.importorskip("lightning_fabric")

from lowland.integrations.fabric import SharpnessAwareMixedPrecision  # noqa: E402

SETTINGS: dict[str, Any] = {"rho": 0.3, "lr": 0.1, "momentum": 0.9}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def batches(n: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(8)
    return [
        (torch.randn(6, 5, generator=generator), torch.randint(0, 3, (6,), generator=generator))
        for _ in range(n)
    ]


def half(init_scale: float = 1024.0) -> SharpnessAwareMixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000)
    return SharpnessAwareMixedPrecision("16-mixed", "cpu", scaler)


def train(form: str, plugin: Any, clip: float | None = None) -> tuple[nn.Module, Any]:
    """Four steps; returns the network and the optimizer that Fabric has wrapped."""
    fabric = fabrics.Fabric(accelerator="cpu", devices=1, plugins=plugin)
    inner = network()
    opt = SAM(inner.parameters(), torch.optim.SGD, model=inner, **SETTINGS)
    model, wrapped = fabric.setup(inner, opt)
    for x, y in batches():

        def backward(x: Tensor = x, y: Tensor = y) -> Tensor:
            loss = cross_entropy(model(x), y)
            fabric.backward(loss)
            return loss

        def closure(backward: Any = backward) -> Tensor:
            wrapped.zero_grad()
            loss: Tensor = backward()
            return loss

        if form == "closure":
            wrapped.step(closure)
            continue
        wrapped.zero_grad()
        backward()
        with wrapped.perturbed(scaler=plugin.scaler):
            backward()
        if clip is not None:
            fabric.clip_gradients(model, wrapped, max_norm=clip)
        wrapped.step()
    return inner, opt


def by_optimizer(dtype: torch.dtype, clip: float | None = None) -> nn.Module:
    """The same loop without Fabric and without a scaler."""
    model = network()
    opt = SAM(model.parameters(), torch.optim.SGD, model=model, **SETTINGS)
    for x, y in batches():

        def backward(x: Tensor = x, y: Tensor = y) -> None:
            with torch.autocast("cpu", dtype=dtype):
                out = model(x)
            cross_entropy(out.float(), y).backward()

        opt.zero_grad()
        backward()
        with opt.perturbed():
            backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        opt.step()
    return model


@pytest.mark.parametrize("form", ["closure", "context"])
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision(form: str, precision: Any) -> None:
    bf16 = precision == "bf16-mixed"
    plugin = SharpnessAwareMixedPrecision(precision, "cpu") if bf16 else half()
    model, _ = train(form, plugin)
    reference = by_optimizer(torch.bfloat16 if bf16 else torch.float16)
    apart = farthest(weights(model), weights(reference))
    assert apart == 0 if bf16 else apart < 2e-3
    assert farthest(weights(model), weights(network())) > 0.1


@pytest.mark.parametrize("form", ["closure", "context"])
def test_overflow_skips_and_backs_off(form: str) -> None:
    plugin = half(2.0**60)
    with pytest.warns(RuntimeWarning, match="skipped"):
        model, opt = train(form, plugin)
    assert same(weights(model), weights(network()))
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 2.0**56
    assert opt.last.skipped_total == 4


def test_clipping_acts_on_the_unscaled_gradient() -> None:
    model, _ = train("context", half(), clip=0.2)
    reference = by_optimizer(torch.float16, clip=0.2)
    assert farthest(weights(model), weights(reference)) < 2e-3
    assert farthest(weights(reference), weights(by_optimizer(torch.float16))) > 0.02


def test_fabrics_own_float16_is_no_silent_plain_step() -> None:
    """What the plugin is for."""
    scaler = torch.amp.GradScaler("cpu")
    stock = fabrics.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    with pytest.raises(RuntimeError, match="Closure use"):
        train("closure", stock)
    with pytest.raises(NotImplementedError):  # Fabric clips under its own scaler in no way
        train("context", stock, clip=0.2)


def test_the_plugin_leaves_other_optimizers_alone() -> None:
    finals = []
    for kind in (fabrics.plugins.MixedPrecision, SharpnessAwareMixedPrecision):
        plugin = kind("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))
        fabric = fabrics.Fabric(accelerator="cpu", devices=1, plugins=plugin)
        inner = network()
        model, opt = fabric.setup(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
        for x, y in batches():
            opt.zero_grad()
            fabric.backward(cross_entropy(model(x), y))
            fabric.clip_gradients(model, opt, max_norm=0.2)
            opt.step()
        finals.append(weights(inner))
    assert same(*finals)


def test_accumulation() -> None:
    """Both passes of all micro-batches, the last one of each pass outside `no_backward_sync`."""
    fabric = fabrics.Fabric(accelerator="cpu", devices=1)
    inner, twin = network(), network()
    opt = SAM(inner.parameters(), torch.optim.SGD, model=inner, **SETTINGS)
    model, wrapped = fabric.setup(inner, opt)
    base = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    given = batches(6)
    for window in (given[:3], given[3:]):

        def closure(window: Any = window) -> Tensor:
            wrapped.zero_grad()
            total = torch.zeros(())
            for i, (x, y) in enumerate(window):
                with fabric.no_backward_sync(model, enabled=i < len(window) - 1):
                    loss = cross_entropy(model(x), y) / len(window)
                    fabric.backward(loss)
                total += loss.detach()
            return total

        wrapped.step(closure)
        x, y = (torch.cat(t) for t in zip(*window, strict=True))
        sam_by_hand(twin, base, [lambda x=x, y=y: cross_entropy(twin(x), y)], 0.3)
        assert farthest(weights(inner), weights(twin)) < 1e-6


@pytest.mark.parametrize("mistake", ["clip_gradients", "unscale_"])
def test_unscaling_before_the_pass_is_an_error_through_the_wrapper_too(mistake: str) -> None:
    plugin = half()
    fabric = fabrics.Fabric(accelerator="cpu", devices=1, plugins=plugin)
    inner = network()
    opt = SAM(inner.parameters(), torch.optim.SGD, model=inner, **SETTINGS)
    model, wrapped = fabric.setup(inner, opt)
    x, y = batches()[0]
    fabric.backward(cross_entropy(model(x), y))
    if mistake == "clip_gradients":
        fabric.clip_gradients(model, wrapped, max_norm=1.0)
    else:
        plugin.scaler.unscale_(opt)
    with (
        pytest.raises(RuntimeError, match="unscaled already"),
        wrapped.perturbed(scaler=plugin.scaler),
    ):
        pytest.fail("the pass must not begin")
