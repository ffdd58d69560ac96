"""Adam without memory: every step is its first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class StatelessAdam(Optimizer):
    """p ← p - lr · g / (|g| + eps): the first step of Adam, again and again.

    The released image-text experiments of arXiv 2305.16292 drop Adam's state after every step, so
    that each sees zero moments, m̂ = g and v̂ = g². That is lr · sign(g) wherever |g| is well above
    eps. It is here to repeat them; nothing else speaks for it.

    Args:
        params: as for any optimizer of torch.
        lr: learning rate.
        eps: Adam's ε.
        weight_decay: coefficient λ of λp added to the gradient, as in `torch.optim.Adam`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what the closure does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                gradient = p.grad
                if group["weight_decay"]:
                    gradient = gradient.add(p, alpha=group["weight_decay"])
                p.sub_(group["lr"] * gradient / gradient.abs().add(group["eps"]))
        return loss
