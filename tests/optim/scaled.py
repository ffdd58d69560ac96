"""Every way of calling the optimizer with a gradient scaler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forms import on_batch
from problems import losses
from torch import Tensor, nn
from torch.amp import GradScaler

Loss = Callable[[Tensor, Tensor], Tensor]


def scaler(**options: Any) -> GradScaler:
    return GradScaler("cpu", **{"init_scale": 2.0**12, **options})


def by_closure(opt: Any, loss: Loss, grad_scaler: Any, x: Tensor, y: Tensor) -> None:
    def closure() -> Tensor:
        opt.zero_grad()
        value = loss(x, y)
        grad_scaler.scale(value).backward()
        return value

    opt.step(closure, scaler=grad_scaler)
    grad_scaler.update()


def by_context(
    opt: Any, loss: Loss, grad_scaler: Any, x: Tensor, y: Tensor, clip: float | None = None
) -> None:
    opt.zero_grad()
    grad_scaler.scale(loss(x, y)).backward()
    if opt.needs_perturbation:
        with opt.perturbed(scaler=grad_scaler):
            grad_scaler.scale(loss(x, y)).backward()
    if clip is not None:
        grad_scaler.unscale_(opt)
        nn.utils.clip_grad_norm_([p for g in opt.param_groups for p in g["params"]], clip)
    grad_scaler.step(opt)
    grad_scaler.update()


def by_two_steps(opt: Any, loss: Loss, grad_scaler: Any, x: Tensor, y: Tensor) -> None:
    opt.zero_grad()
    grad_scaler.scale(loss(x, y)).backward()
    if opt.needs_perturbation:
        opt.first_step(zero_grad=True, scaler=grad_scaler)
        grad_scaler.scale(loss(x, y)).backward()
        opt.second_step(zero_grad=True, scaler=grad_scaler)
    else:
        grad_scaler.step(opt)
        opt.zero_grad()
    grad_scaler.update()


def by_batch(opt: Any, loss: Loss, grad_scaler: Any, x: Tensor, y: Tensor) -> None:
    on_batch(opt, None, loss, (x, y), scaler=grad_scaler)
    grad_scaler.update()


FORMS: dict[str, Callable[..., None]] = {
    "closure": by_closure,
    "context": by_context,
    "two-step": by_two_steps,
    "batch": by_batch,
}


def mean_loss(model: nn.Module) -> Loss:
    return lambda x, y: losses(model)(x, y).mean()
