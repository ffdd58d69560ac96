"""Base optimizers of AdaSAM and LightSAM: Adam and AdaGrad as their papers have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.core.perturbation import global_norm, wide_dtype
from lowland.core.sharding import any_sharded, local
from lowland.optim.checks import check_number


def _check(lr: float, betas: tuple[float, float], initial: float) -> None:
    check_number("lr", lr, least=0.0)
    check_number("initial", initial, least=0.0)
    for beta in betas:
        if not 0 <= beta < 1:
            raise InputError(f"betas is {betas}: give two numbers in [0, 1)")


class UncorrectedAdam(Optimizer):
    """Adam or AMSGrad without bias correction and without a number added to the root.

        m ← β₁·m + (1−β₁)·g,   v ← β₂·v + (1−β₂)·g²,   v̂ ← max(v̂, v) (AMSGrad),   w ← w − η·m/√v̂

    m = 0 and v = v̂ = `initial`² at first, so the first step moves every weight by up to
    η·(1−β₁)/√(1−β₂), 3.16·η by default: warm the step size up.

    Args:
        params: parameters or groups.
        lr: η.
        betas: β₁, β₂.
        amsgrad: keep the largest v; otherwise v̂ = v.
        initial: √v₀.
        weight_decay: decoupled, w ← w·(1 − η·decay).
    """

    keeps_types = True  # state of half-precision parameters is float32, in checkpoints too

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        amsgrad: bool = True,
        initial: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _check(lr, betas, initial)
        check_number("weight_decay", weight_decay, least=0.0)
        defaults = {
            "lr": lr, "betas": betas, "amsgrad": amsgrad, "initial": initial,
            "weight_decay": weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step along ``.grad``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step(group, params)
        return loss

    def _step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        first, second = group["betas"]
        for p in params:
            if not self.state[p]:
                self.state[p]["m"] = _like(p, 0.0)
                self.state[p]["v"] = _like(p, group["initial"] ** 2)
                if group["amsgrad"]:
                    self.state[p]["largest"] = _like(p, group["initial"] ** 2)
        g = [local(p.grad).to(wide_dtype(p.dtype)) for p in params]
        m = [local(self.state[p]["m"]) for p in params]
        v = [local(self.state[p]["v"]) for p in params]
        if group["weight_decay"]:
            torch._foreach_mul_([local(p) for p in params], 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(m, g, 1 - first)
        torch._foreach_mul_(v, second)
        torch._foreach_addcmul_(v, g, g, value=1 - second)
        under = v
        if group["amsgrad"]:
            under = [local(self.state[p]["largest"]) for p in params]
            torch._foreach_maximum_(under, v)
        _descend([local(p) for p in params], m, under, group["lr"])


class UncorrectedAdaGrad(Optimizer):
    """AdaGrad without a number added to the root; elementwise, or by one norm.

        v ← v + g² (or v + ‖g‖² over everything),   w ← w − η·g/√v

    Args:
        params: parameters or groups.
        lr: η.
        norm: one v for all parameters.
        initial: √v₀.
    """

    keeps_types = True

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, *, norm: bool = False, initial: float = 1e-8
    ) -> None:
        _check(lr, (0.0, 0.0), initial)
        super().__init__(params, {"lr": lr, "norm": norm, "initial": initial, "v": initial**2})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step along ``.grad``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [(g, [p for p in g["params"] if p.grad is not None]) for g in self.param_groups]
        everything = [p for _, params in groups for p in params]
        if self.param_groups[0]["norm"]:
            if any_sharded(everything):
                raise InputError("one norm for all parameters is not summed over shards: use DDP")
            square = global_norm([p.grad for p in everything if p.grad is not None]) ** 2
            total = self.param_groups[0]["v"] + float(square)
            if total == 0:
                return loss
            for group, params in groups:
                group["v"] = total
                grads = [p.grad for p in params if p.grad is not None]
                torch._foreach_add_(params, grads, alpha=-group["lr"] / total**0.5)
            return loss
        for group, params in groups:
            for p in params:
                if not self.state[p]:
                    self.state[p]["v"] = _like(p, group["initial"] ** 2)
            g = [local(p.grad).to(wide_dtype(p.dtype)) for p in params]
            v = [local(self.state[p]["v"]) for p in params]
            if params:
                torch._foreach_addcmul_(v, g, g, value=1.0)
                _descend([local(p) for p in params], g, v, group["lr"])
        return loss


def _like(param: Tensor, value: float) -> Tensor:
    return torch.full_like(param, value, dtype=wide_dtype(param.dtype), requires_grad=False)


def _descend(weights: list[Tensor], over: list[Tensor], under: list[Tensor], lr: float) -> None:
    """w ← w − lr·over/√under; 0/0 is 0."""
    torch._foreach_add_(weights, quotients(over, torch._foreach_sqrt(under)), alpha=-lr)


def quotients(over: list[Tensor], under: Sequence[Tensor]) -> list[Tensor]:
    """over/under in the memory of `under`; 0 where `under` is 0."""
    for o, r in zip(over, under, strict=True):
        nothing = r == 0
        torch.div(o, r, out=r).masked_fill_(nothing, 0.0)
    return list(under)
