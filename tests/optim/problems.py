"""Small problems that the optimizer tests share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Quadratic(nn.Module):
    """f(w) = ½·wᵀHw over two tensors that together make w; gradient Hw, Hessian H."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(6, 6, generator=generator, dtype=torch.float64)
        self.H = (a @ a.T / 6 + 0.1 * torch.eye(6, dtype=torch.float64)).to(dtype)
        start = torch.randn(6, generator=generator, dtype=torch.float64).to(dtype)
        self.a, self.b = nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())

    @property
    def w(self) -> Tensor:
        return torch.cat([self.a, self.b])

    def forward(self) -> Tensor:
        return 0.5 * self.w @ self.H @ self.w


def network(seed: int = 0, dtype: torch.dtype = torch.float32, norm: bool = True) -> nn.Module:
    """A small classifier with weights, biases and (if `norm`) BatchNorm."""
    torch.manual_seed(seed)
    middle = nn.BatchNorm1d(7) if norm else nn.Identity()
    model = nn.Sequential(nn.Linear(5, 7), middle, nn.Tanh(), nn.Linear(7, 3))
    return model.to(dtype)


def data(seed: int = 0, n: int = 12, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (n,), generator=generator)


def losses(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, y) → one loss per example."""
    return lambda x, y: cross_entropy(model(x), y, reduction="none")


def closure_for(opt: Any, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """torch's closure: zero_grad, forward, backward, return the loss."""

    def closure() -> Tensor:
        opt.zero_grad()
        loss = losses(model)(x, y).mean()
        loss.backward()
        return loss

    return closure


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """∇ of the mean loss, leaving ``.grad`` and running statistics alone."""
    twin = copy.deepcopy(model)
    loss = losses(twin)(x, y).mean()
    return list(torch.autograd.grad(loss, list(twin.parameters())))


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    """Bit for bit."""
    return len(left) == len(right) and all(map(torch.equal, left, right))


def norm(tensors: list[Tensor]) -> Tensor:
    return torch.sqrt(sum((t.double() ** 2).sum() for t in tensors))  # type: ignore[arg-type]


def sam_by_hand(
    base: torch.optim.Optimizer,
    closure: Callable[[], object],
    radius: float | Callable[[Tensor], float] = 0.3,
    *,
    second: Callable[[], object] | None = None,
    at_end: Callable[[], object] | None = None,
) -> None:
    """Zero, gradient, w+ε, gradient, w, base step: one tensor at a time, in plain torch.

    Args:
        base: takes the step at w.
        closure: zero_grad, forward, backward.
        radius: ρ, or ρ of a parameter.
        second: what runs at w+ε, if not `closure`.
        at_end: called at w, before the base step.
    """
    closure()
    moved = [p for group in base.param_groups for p in group["params"] if p.grad is not None]
    length = torch.sqrt(sum((p.grad**2).sum() for p in moved))  # type: ignore[arg-type]
    kept = [p.detach().clone() for p in moved]
    with torch.no_grad():
        for p in moved:
            p += (radius(p) if callable(radius) else radius) * p.grad / (length + 1e-12)
    (second or closure)()
    with torch.no_grad():
        for p, old in zip(moved, kept, strict=True):
            p.copy_(old)
    if at_end:
        at_end()
    base.step()
