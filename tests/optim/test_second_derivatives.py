"""Gradient-norm regularisation of networks whose second derivatives torch gets wrong or refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from problems import data, losses, network, norm, weights
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils import checkpoint

from lowland.optim import create

LAMBDA = 0.3


class Tokens(nn.Module):
    """Inputs as a sequence of numbers, and something that mixes them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(1, 8), inner, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x.unsqueeze(-1))).mean(1))  # type: ignore[no-any-return]


class Checkpointed(nn.Module):
    """A network whose first layers, or all of them, run again in the backward pass."""

    def __init__(self, body: nn.Sequential, count: int, reentrant: bool) -> None:
        super().__init__()
        self.body, self.count, self.reentrant = body, count, reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()  # without it torch drops gradients in plain training too
        first = self.body[: self.count]
        hidden = checkpoint.checkpoint(first, x, use_reentrant=self.reentrant)
        return self.body[self.count :](hidden)  # type: ignore[no-any-return]


def normalized(dim: int | None, *, old: bool = False) -> nn.Sequential:
    model = network(norm=False)
    assert isinstance(model, nn.Sequential)
    for layer in model:
        if isinstance(layer, nn.Linear):
            (nn.utils.weight_norm if old else parametrizations.weight_norm)(layer, dim=dim)
    return model


def attention() -> nn.Module:
    return Tokens(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: normalized(0),
    "weight norm by columns": lambda: normalized(1),
    "weight norm of the whole": lambda: normalized(None),
    "weight norm by hooks": lambda: normalized(0, old=True),
    "attention": attention,
    "checkpoint": lambda: Checkpointed(network(norm=False), 2, False),
    "reentrant checkpoint": lambda: Checkpointed(network(norm=False), 2, True),
    "all in a reentrant checkpoint": lambda: Checkpointed(network(norm=False), 4, True),
    "weight norm in a checkpoint": lambda: Checkpointed(normalized(0), 2, False),
    "weight norm in a reentrant checkpoint": lambda: Checkpointed(normalized(0), 4, True),
}


def by_differences(model: nn.Module, x: Tensor, y: Tensor, h: float = 1e-5) -> list[Tensor]:
    """g + λ·(∇L(w + h·g/‖g‖) - ∇L(w - h·g/‖g‖))/2h: first derivatives alone."""
    w = weights(model)

    def slope(scale: float, along: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            for p, start, d in zip(model.parameters(), w, along, strict=True):
                p.copy_(start + scale * d)
        model.zero_grad()
        losses(model)(x, y).mean().backward()
        return [p.grad.clone() for p in model.parameters()]

    g = slope(0.0, w)
    unit = [t / norm(g) for t in g]
    ends = slope(h, unit), slope(-h, unit)
    slope(0.0, w)
    model.zero_grad()
    return [t + LAMBDA * (a - b) / (2 * h) for t, a, b in zip(g, *ends, strict=True)]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_penalty_is_differentiated_rightly(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    x, y = data(dtype=torch.float64)
    expected, before = by_differences(model, x, y), weights(model)
    opt = create("gradient-norm", model, torch.optim.SGD, lr=1.0, rho=LAMBDA)
    kernels = _kernels()
    opt.step(loss_fn=losses(model), batch=(x, y))
    assert _kernels() == kernels
    for old, new, u in zip(before, weights(model), expected, strict=True):
        torch.testing.assert_close(old - new, u, rtol=1e-8, atol=1e-8)


def test_without_a_penalty_the_kernels_are_torch_s_own() -> None:
    model, found = normalized(0), []
    opt = create("gradient-norm", model, torch.optim.SGD, lr=0.1, rho=0.0)

    def fn(x: Tensor, y: Tensor) -> Tensor:
        found.append(_kernels())
        return losses(model)(x, y)

    opt.step(loss_fn=fn, batch=data())
    assert found == [_kernels()]


def test_a_loss_that_fails_puts_the_kernels_back() -> None:
    model, kernels = normalized(0), _kernels()
    opt = create("gradient-norm", model, torch.optim.SGD, lr=0.1, rho=0.1)
    with pytest.raises(ZeroDivisionError):
        opt.step(loss_fn=lambda x, y: 1 / 0, batch=data())
    assert _kernels() == kernels


def _kernels() -> tuple[object, ...]:
    older = sys.modules["torch.nn.utils.weight_norm"]
    flash = torch.backends.cuda.flash_sdp_enabled()
    own = torch._weight_norm, older._weight_norm, checkpoint.CheckpointFunction  # type: ignore[attr-defined]
    return (*own, flash, torch.backends.mha.get_fastpath_enabled())
