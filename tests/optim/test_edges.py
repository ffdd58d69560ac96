"""Edges of real training loops, each once found to go wrong."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from forms import THREE, step_by
from problems import closure_for, data, equal, losses, network, sam_by_hand, weights
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from lowland.optim import SAM, Elementwise, MinusRunningMean, Named, Perturbation, SharpnessAware

SGD = torch.optim.SGD


def radius(opt: SharpnessAware) -> float:
    """‖ε‖ of the last step."""
    assert opt.last is not None
    assert opt.last.perturbation_norm is not None
    return float(opt.last.perturbation_norm)


@pytest.mark.parametrize("form", THREE)
def test_autocast_around_both_passes_sees_the_perturbed_weights(form: str) -> None:
    """Autocast keeps its casts of the weights and would run the second pass on those of w."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3))
    twin = copy.deepcopy(model)
    x, y = data()
    opt = SAM(model.parameters(), SGD, lr=0.0, rho=2.0, model=model)
    base = SGD(twin.parameters(), lr=0.0)
    seen: list[Tensor] = []
    expected: list[Tensor] = []
    model.register_forward_hook(lambda m, a, out: seen.append(out.detach().float()))
    twin.register_forward_hook(lambda m, a, out: expected.append(out.detach().float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step_by(form, opt, closure_for(opt, model, x, y))
        model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        sam_by_hand(base, closure_for(base, twin, x, y), 2.0)
    assert (seen[0] - seen[1]).abs().max() > 0.1
    assert torch.equal(seen[0], seen[2]), "and afterwards those of w again"
    for found, by_hand in zip(seen, expected, strict=False):
        torch.testing.assert_close(found, by_hand, rtol=0.02, atol=0.02)  # of bfloat16


def test_parameters_that_change_type_or_shape_between_steps_come_back_exactly() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
    x, y = data()

    def closure() -> Tensor:
        model.zero_grad()
        hidden = model[0](x).to(model[1].weight.dtype)
        loss = nn.functional.cross_entropy(model[1](hidden), y)
        loss.backward()
        return loss

    opt = SAM(model.parameters(), SGD, lr=0.0, rho=0.5)
    opt.step(closure)
    model[1].double()
    with torch.no_grad():
        model[1].weight += torch.rand(3, 8).double() * 1e-9
    before = weights(model)
    opt.step(closure)
    assert equal(weights(model), before)
    model[1].weight.data = torch.randn(4, 8).double()
    model[1].bias.data = torch.randn(4).double()
    model.zero_grad()
    before = weights(model)
    opt.step(closure)
    assert equal(weights(model), before)


def test_buffers_are_allocated_once_even_if_parameters_come_and_go() -> None:
    a, b, c = (nn.Parameter(torch.ones(n)) for n in (2, 3, 4))

    def address(opt: SAM, *used: nn.Parameter) -> int:
        opt.zero_grad()
        for inside in (False, True):
            loss = torch.stack([(p**2).sum() for p in used]).sum()
            if inside:
                with opt.perturbed():
                    torch.stack([(p**2).sum() for p in used]).sum().backward()
            else:
                loss.backward()
        opt.step()
        return opt._engine.displacement._store.flat[0].data_ptr()

    opt = SAM([a, b, c], SGD, lr=0.0, rho=0.5)
    assert len({address(opt, *used) for used in ((a, b, c), (a, c), (b,), (a, b, c))}) == 1
    fixed = SAM([{"params": [a], "rho": 0.0}, {"params": [b]}], SGD, lr=0.0)
    assert len({address(fixed, a, b) for _ in range(3)}) == 1


class Rebinding(nn.Module):
    """Puts a new tensor in its buffer's place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


@pytest.mark.parametrize("known", [True, False])
def test_buffers_that_are_rebound_are_put_back(known: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 7), Rebinding(), nn.Linear(7, 3))
    x, y = data()
    options: dict[str, Any] = {"model": model} if known else {}
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.5, norm_classes=(Rebinding,), **options)
    seen: list[Tensor] = []
    model[1].register_forward_hook(lambda m, a, out: seen.append(m.mean.clone()))
    opt.step(closure_for(opt, model, x, y))
    assert torch.equal(model[1].mean, seen[0])
    assert not torch.equal(model[1].mean, seen[1])


def test_layers_that_come_later_and_modes_set_in_the_closure() -> None:
    model, (x, y) = network(), data()
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.5, model=model)
    opt.step(closure_for(opt, model, x, y))
    model[1] = nn.BatchNorm1d(7)
    opt.step(closure_for(opt, model, x, y))
    assert int(model[1].num_batches_tracked) == 1

    def closure() -> Tensor:
        opt.zero_grad()
        model.train()
        loss = losses(model)(x, y).mean()
        model.eval()
        loss.backward()
        return loss

    opt.step(closure)
    assert int(model[1].num_batches_tracked) == 2


def test_an_optimizer_dropped_in_mid_step_leaves_no_hook() -> None:
    model, (x, y) = network(), data()
    before = len(torch_module._global_forward_pre_hooks)
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.5)
    losses(model)(x, y).mean().backward()
    opt.first_step()
    assert len(torch_module._global_forward_pre_hooks) == before + 1
    del opt
    gc.collect()
    assert len(torch_module._global_forward_pre_hooks) == before


def test_a_selection_follows_the_parameters() -> None:
    model, (x, y) = network(), data()
    head = Perturbation(Named("3.*"))
    opt = SharpnessAware(model.parameters(), SGD, lr=0.1, rho=0.5, model=model, perturbation=head)
    opt.step(closure_for(opt, model, x, y))
    model[3] = nn.Linear(7, 3)
    opt.param_groups[0]["params"][-2:] = list(model[3].parameters())
    opt.step(closure_for(opt, model, x, y))
    assert radius(opt) == pytest.approx(0.5, rel=1e-5)
    for p in model[3].parameters():
        p.requires_grad_(False)
    opt.zero_grad()
    losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match="none of the selected parameters"), opt.perturbed():
        pass


def test_a_micro_batch_that_fails_costs_the_step_and_says_so() -> None:
    model, (x, y) = network(norm=False), data()
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.5)
    before = weights(model)

    def micro(last: bool, fails: bool = False) -> None:
        losses(model)(x, y).mean().backward()
        with opt.perturbed(last=last):
            if fails:
                raise ZeroDivisionError
            losses(model)(x, y).mean().backward()

    micro(last=False)
    with pytest.raises(ZeroDivisionError):
        micro(last=False, fails=True)
    assert equal(weights(model), before)
    micro(last=True)
    with pytest.warns(RuntimeWarning, match="skipped"):
        opt.step()
    assert equal(weights(model), before)
    assert opt.last is not None
    assert opt.last.skipped_total == 1
    opt.zero_grad()
    micro(last=False)
    micro(last=True)
    opt.step()
    assert not equal(weights(model), before)


def test_a_pass_that_was_never_followed_by_a_step_does_not_spoil_the_next() -> None:
    """As with a gradient scaler, which leaves step() out on overflow."""
    model, twin, (x, y) = network(norm=False), network(norm=False), data()
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.5)
    clean = SAM(twin.parameters(), SGD, lr=0.1, rho=0.5)
    losses(model)(x, y).mean().backward()
    with opt.perturbed():
        losses(model)(x, y).mean().backward()
    opt.zero_grad()
    losses(model)(x, y).mean().backward()
    with pytest.warns(RuntimeWarning, match="never followed by step"), opt.perturbed():
        losses(model)(x, y).mean().backward()
    opt.step()
    clean.step(closure_for(clean, twin, x, y))
    assert equal(weights(model), weights(twin))


def test_running_out_of_memory_for_the_buffers_leaves_it_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, (x, y) = network(), data()
    opt = SAM(model.parameters(), SGD, lr=0.0, rho=0.5, model=model)
    before = weights(model)

    def fails(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "split", fails)
        with pytest.raises(torch.OutOfMemoryError):
            opt.step(closure_for(opt, model, x, y))
    assert equal(weights(model), before)
    opt.step(closure_for(opt, model, x, y))
    assert radius(opt) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-5, 1.0])
def test_float16_parameters_with_small_gradients(size: float, adaptive: bool) -> None:
    p = nn.Parameter(torch.full((10,), 0.5, dtype=torch.float16))
    opt = SAM([p], SGD, lr=0.0, rho=0.5, adaptive=adaptive)
    (p.float() * size).sum().backward()
    before = p.detach().clone()
    with opt.perturbed():
        e = (p.detach() - before).float()
        (p.float() * size).sum().backward()
    opt.step()
    t = 0.5 if adaptive else 1.0
    assert float((e / t).norm()) == pytest.approx(0.5 if size else 0.0, rel=1e-2)
    assert torch.equal(p.detach(), before)


def test_foreign_gradients_of_a_parameter_that_the_loss_does_not_use() -> None:
    model, (x, y) = network(), data()
    unused = nn.Parameter(torch.ones(2))
    unused.grad = torch.ones(2)
    opt = SAM([unused, *model.parameters()], SGD, lr=0.1, rho=0.5, model=model)

    def closure() -> Tensor:
        opt.zero_grad(set_to_none=False)
        loss = losses(model)(x, y).mean()
        loss.backward()
        return loss

    opt.step(closure)
    assert torch.equal(unused.detach(), torch.ones(2))


@pytest.mark.parametrize("backwards", [1, 2])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_closures_that_accumulate_are_found_out(backwards: int, create_graph: bool) -> None:
    model, (x, y) = network(), data()
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.5, model=model)

    def closure() -> Tensor:
        for _ in range(backwards):
            loss = losses(model)(x, y).mean()
            loss.backward(create_graph=create_graph)
        return loss

    closure()
    with pytest.raises(RuntimeError, match="two lines change"):
        opt.step(closure)


def test_the_guard_against_noise_compares_like_with_like() -> None:
    """F-SAM's direction under a metric that scales by large weights: still noise, still nothing."""
    p = nn.Parameter(torch.full((20,), 1e3))
    perturbation = Perturbation(transform=MinusRunningMean(), metric=Elementwise(eta=0.0))
    opt = SharpnessAware([p], SGD, lr=0.0, rho=0.5, perturbation=perturbation)
    c = torch.randn(20, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        opt.zero_grad()
        (p @ c).backward()
        before = p.detach().clone()
        with opt.perturbed():
            assert torch.equal(p.detach(), before) == (step > 0)
            (p @ c).backward()
        opt.step()
