"""What surrounds an optimizer in practice: schedulers, averaged weights, frozen layers.

Against SAM written by hand around the base optimizer, with the same surroundings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from forms import THREE, step_by
from problems import closure_for, data, equal, losses, network, sam_by_hand, weights
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lowland.optim import SAM

DOUBLE = torch.float64
SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "multi-step": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=7),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, 2),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda i: 1 / (1 + i)),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 4),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 6),
    "in turn": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
}


def close(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-11, atol=1e-12) for a, b in zip(left, right, strict=True)
    )


def pair() -> tuple[nn.Module, nn.Module]:
    return network(3, DOUBLE, norm=False), network(3, DOUBLE, norm=False)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_learning_rate_schedulers(name: str) -> None:
    model, twin = pair()
    opt = SAM(model.parameters(), SGD, lr=0.1, momentum=0.9, rho=0.3)
    base = SGD(twin.parameters(), lr=0.1, momentum=0.9)
    ours, theirs = SCHEDULERS[name](opt), SCHEDULERS[name](base)
    for i in range(6):
        opt.step(closure_for(opt, model, *data(i, dtype=DOUBLE)))
        sam_by_hand(base, closure_for(base, twin, *data(i, dtype=DOUBLE)))
        ours.step()
        theirs.step()
        assert ours.get_last_lr() == theirs.get_last_lr()
        assert opt.param_groups[0]["momentum"] == base.param_groups[0]["momentum"]
    assert close(weights(model), weights(twin))
    again = SCHEDULERS[name](SAM(pair()[0].parameters(), SGD, lr=0.1, momentum=0.9))
    again.load_state_dict(ours.state_dict())
    assert again.get_last_lr() == ours.get_last_lr()


def test_reduce_on_plateau() -> None:
    model, _ = pair()
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.3)
    scheduler = lr_scheduler.ReduceLROnPlateau(opt, patience=0, factor=0.5)
    for _ in range(3):
        opt.step(closure_for(opt, model, *data(0, dtype=DOUBLE)))
        scheduler.step(1.0)
    assert opt.param_groups[0]["lr"] == 0.1 * 0.5**2


@pytest.mark.parametrize("form", THREE)
def test_averaged_weights_average_w(form: str) -> None:
    model, twin = pair()
    opt = SAM(model.parameters(), AdamW, lr=0.01, rho=0.3)
    base = AdamW(twin.parameters(), lr=0.01)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average: list[Tensor] = []
    for i in range(5):
        x, y = data(i, dtype=DOUBLE)
        step_by(form, opt, closure_for(opt, model, x, y))
        ema.update_parameters(model)
        sam_by_hand(base, closure_for(base, twin, x, y))
        now = weights(twin)
        average = [0.9 * a + 0.1 * w for a, w in zip(average or now, now, strict=True)]
    assert close(weights(ema.module), average)


@pytest.mark.parametrize("form", THREE)
def test_a_radius_for_each_group_and_none_for_some(form: str) -> None:
    """The norm is over all groups; a group with ρ = 0 stays where it is in the second pass."""
    model, twin = pair()
    head, body = list(model[3].parameters()), list(model[0].parameters())  # type: ignore[index]
    opt = SAM([{"params": body, "rho": 0.0}, {"params": head, "rho": 0.4}], SGD, lr=0.1)
    base = SGD([*twin[0].parameters(), *twin[3].parameters()], lr=0.1)  # type: ignore[index]
    still = {id(p) for p in twin[0].parameters()}  # type: ignore[index]
    for i in range(4):
        x, y = data(i, dtype=DOUBLE)
        at_w = [p.detach().clone() for p in body]
        passes = closure_for(opt, model, x, y)

        def closure(at_w: list[Tensor] = at_w, passes: Any = passes) -> Tensor:
            assert equal(at_w, [p.detach() for p in body])
            loss: Tensor = passes()
            return loss

        step_by(form, opt, closure)
        sam_by_hand(base, closure_for(base, twin, x, y), lambda p: 0.0 if id(p) in still else 0.4)
    assert close(weights(model), weights(twin))


@pytest.mark.parametrize("form", THREE)
@pytest.mark.parametrize("added", [False, True])
def test_frozen_then_unfrozen(added: bool, form: str) -> None:
    """The first layer is frozen for two steps; it is in the optimizer from the start, or added."""
    model, twin = pair()
    for net in (model, twin):
        net[0].requires_grad_(False)  # type: ignore[index]
    rest = list(model[3].parameters()) if added else list(model.parameters())  # type: ignore[index]
    twins = list(twin[3].parameters()) if added else list(twin.parameters())  # type: ignore[index]
    opt = SAM(rest, SGD, lr=0.1, momentum=0.9, rho=0.3, model=model)
    base = SGD(twins, lr=0.1, momentum=0.9)
    frozen = [p.detach().clone() for p in model[0].parameters()]  # type: ignore[index]
    for i in range(5):
        if i == 2:
            assert equal(frozen, [p.detach() for p in model[0].parameters()])  # type: ignore[index]
            for net, each in ((model, opt), (twin, base)):
                net[0].requires_grad_(True)  # type: ignore[index]
                if added:
                    each.add_param_group({"params": list(net[0].parameters())})  # type: ignore[index]
        step_by(form, opt, closure_for(opt, model, *data(i, dtype=DOUBLE)))
        sam_by_hand(base, closure_for(base, twin, *data(i, dtype=DOUBLE)))
    assert close(weights(model), weights(twin))
    assert not equal(frozen, [p.detach() for p in model[0].parameters()])  # type: ignore[index]


class LowRank(nn.Module):
    """A linear layer that is frozen, and a trainable product of two thin matrices beside it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(
            torch.randn(2, inner.in_features, generator=generator, dtype=DOUBLE) / 3
        )
        self.b = nn.Parameter(torch.zeros(inner.out_features, 2, dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x @ self.a.T @ self.b.T  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", THREE)
def test_adapters_alone_move(form: str) -> None:
    model, twin = pair()
    nets = []
    for net in (model, twin):
        net.requires_grad_(False)
        net[0] = LowRank(net[0])  # type: ignore[index,operator]
        nets.append([p for p in net.parameters() if p.requires_grad])
    opt = SAM(model.parameters(), SGD, lr=0.1, rho=0.3)  # frozen ones may be in it
    base = SGD(nets[1], lr=0.1)
    still = [p for p in model.parameters() if not p.requires_grad]
    before = [p.detach().clone() for p in still]
    for i in range(4):
        x, y = data(i, dtype=DOUBLE)
        passes = closure_for(opt, model, x, y)

        def closure(passes: Any = passes) -> Tensor:
            assert equal(before, [p.detach() for p in still])
            loss: Tensor = passes()
            return loss

        step_by(form, opt, closure)
        sam_by_hand(base, closure_for(base, twin, x, y))
    assert close(weights(model), weights(twin))


@pytest.mark.parametrize("form", THREE)
@pytest.mark.parametrize(("kind", "norm"), [(SGD, False), (SGD, True), (AdamW, False)])
def test_every_form_is_sam_by_hand(form: str, kind: Any, norm: bool) -> None:
    """With BatchNorm too: by hand, the second pass leaves its statistics as it found them. (Not
    under AdamW, which makes steps of the rounding noise that a bias before BatchNorm gets.)"""
    model, twin = network(3, DOUBLE, norm=norm), network(3, DOUBLE, norm=norm)
    opt = SAM(model.parameters(), kind, lr=0.05, weight_decay=0.01, rho=0.3, model=model)
    base = kind(twin.parameters(), lr=0.05, weight_decay=0.01)
    for i in range(5):
        step_by(form, opt, closure_for(opt, model, *data(i, dtype=DOUBLE)))
        first = closure_for(base, twin, *data(i, dtype=DOUBLE))

        def second(first: Callable[[], Tensor] = first) -> None:
            statistics = [b.clone() for b in twin.buffers()]
            first()
            for b, old in zip(twin.buffers(), statistics, strict=True):
                b.copy_(old)

        sam_by_hand(base, first, second=second)
    assert close(weights(model), weights(twin))
    assert close(list(model.buffers()), list(twin.buffers()))


@pytest.mark.parametrize("form", THREE)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("how", ["norm", "value"])
def test_clipping_clips_the_gradient_that_is_descended(form: str, scaled: bool, how: str) -> None:
    """Where each form has its place for it; under a scaler, on gradients that are not scaled."""
    limits = {"norm": 0.05, "value": 0.02}
    clip_by = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}
    model, twin = network(3, norm=False), network(3, DOUBLE, norm=False)  # scalers want float32
    opt = SAM(model.parameters(), SGD, lr=0.5, momentum=0.9, rho=0.3)
    base = SGD(twin.parameters(), lr=0.5, momentum=0.9)
    grad_scaler = torch.amp.GradScaler("cpu", init_scale=3000.0) if scaled else None
    clipped: list[bool] = []

    def clip(net: nn.Module) -> None:
        before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        clip_by[how](net.parameters(), limits[how])
        after = [p.grad for p in net.parameters() if p.grad is not None]
        clipped.append(not equal(before, after))

    for i in range(5):
        x, y = data(i)

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            opt.zero_grad()
            loss = losses(model)(x, y).mean()
            (loss if grad_scaler is None else grad_scaler.scale(loss)).backward()
            return loss

        step_by(form, opt, closure, scaler=grad_scaler, at_end=lambda: clip(model))
        if grad_scaler is not None:
            grad_scaler.update()
        first = closure_for(base, twin, x.double(), y)
        sam_by_hand(base, first, at_end=lambda: clip(twin))
    assert all(clipped)
    assert len(clipped) == 10
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
