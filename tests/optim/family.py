"""References in plain torch, and the random numbers that a step has drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import data, losses, network, norm, weights
from torch import Tensor, nn

from lowland.optim import SharpnessAware, Step

SGD = torch.optim.SGD
BASE: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}

Rule = Callable[[nn.Module, Tensor, Tensor, dict[str, Any]], list[Tensor | None]]
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])


class Drawn:
    """What `Step.draw` and `Step.generator` gave in the last step, for a reference to use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directions: list[list[Tensor]] = []
        self.seeds: list[int] = []
        draw, generator = Step.draw, Step.generator

        def drawing(step: Step, *args: Any) -> Any:
            out = draw(step, *args)
            self.directions.append([t.clone() for t in out.tensors])
            return out

        def generating(step: Step, *args: Any) -> torch.Generator:
            out = generator(step, *args)
            self.seeds.append(out.initial_seed())
            return out

        monkeypatch.setattr(Step, "draw", drawing)
        monkeypatch.setattr(Step, "generator", generating)

    def clear(self) -> None:
        self.directions, self.seeds = [], []

    def uniform(self, count: int, which: int = 0) -> list[float]:
        """`count` numbers of [0, 1) from the generator number `which` of the step."""
        generator = torch.Generator().manual_seed(self.seeds[which])
        return torch.rand(count, generator=generator).tolist()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


def each(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The losses of the examples; running statistics stay."""
    return losses(copy.deepcopy(model))(x, y).detach()


def grad(model: nn.Module, x: Tensor, y: Tensor, p: Tensor | None = None) -> list[Tensor]:
    """∇ of Σ p_i·ℓ_i, p = 1/n if left out; running statistics stay."""
    twin = copy.deepcopy(model)
    values = losses(twin)(x, y)
    loss = values.mean() if p is None else (values * p).sum()
    return list(torch.autograd.grad(loss, list(twin.parameters())))


def moved(model: nn.Module, epsilon: list[Tensor], scale: float = 1.0) -> nn.Module:
    """A copy at w + scale·ε."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p, e in zip(twin.parameters(), epsilon, strict=True):
            p.add_(scale * e)
    return twin


def unit(tensors: list[Tensor]) -> list[Tensor]:
    length = norm(tensors)
    return [(t / length).to(t.dtype) for t in tensors]


def descend(
    opt: SharpnessAware,
    model: nn.Module,
    rule: Rule,
    batches: list[tuple[Tensor, Tensor]],
    tolerance: float,
    drawn: Drawn | None = None,
    statistics: bool = True,
) -> None:
    """Step by step beside SGD (lr 0.1, momentum 0.9) that is given what the rule says."""
    twin, memory = copy.deepcopy(model), {}
    base = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for x, y in batches:
        if drawn is not None:
            drawn.clear()
        opt.step(loss_fn=losses(model), batch=(x, y))
        u = rule(twin, x, y, memory)
        losses(twin)(x, y)  # the first pass moves running statistics, no other does
        for p, t in zip(twin.parameters(), u, strict=True):
            p.grad = None if t is None else t.to(p.dtype)
        base.step()
        close(weights(model), weights(twin), tolerance)
        if statistics:
            close(list(model.buffers()), list(twin.buffers()), tolerance)


def close(left: list[Tensor], right: list[Tensor], tolerance: float) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def within(dtype: torch.dtype) -> float:
    return 1e-10 if dtype == torch.float64 else 3e-4


def snapshot(opt: SharpnessAware, model: nn.Module) -> list[Tensor]:
    """Weights, state and the hyperparameters that are numbers, but for the step counters."""
    out = weights(model)
    for p in model.parameters():
        slot = opt.state.get(p, {})
        out += [torch.as_tensor(slot[key]).clone() for key in sorted(slot)]
    for group in opt.param_groups:
        numbers = sorted(k for k, v in group.items() if isinstance(v, float | Tensor))
        out += [torch.as_tensor(group[key]).clone() for key in numbers if key != "sam_skipped"]
    return out


def batches(dtype: torch.dtype, steps: int = 4, n: int = 12) -> list[tuple[Tensor, Tensor]]:
    return [data(i, n=n, dtype=dtype) for i in range(steps)]


def end_of(kind: type[SharpnessAware], dtype: torch.dtype, **own: Any) -> list[Tensor]:
    """Weights and running statistics after a few steps over SGD."""
    model = network(7, dtype)
    opt = kind(model.parameters(), SGD, model=model, **{**BASE, **own})
    for x, y in batches(dtype):
        opt.step(loss_fn=losses(model), batch=(x, y))
    return [*weights(model), *(b.clone() for b in model.buffers())]


def epsilon_in(opt: SharpnessAware, model: nn.Module, x: Tensor, y: Tensor) -> list[list[Tensor]]:
    """What is added to w in each forward of a step."""
    before, seen = weights(model), []

    def fn(x: Tensor, y: Tensor) -> Tensor:
        seen.append([a - b for a, b in zip(weights(model), before, strict=True)])
        return losses(model)(x, y)

    opt.step(loss_fn=fn, batch=(x, y))
    return seen


class Counted(nn.Module):
    """Counts its forwards, with dropout and BatchNorm on the way to the output layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(dropout))
        self.head = nn.Linear(7, 3)
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return self.head(self.body(x).tanh())  # type: ignore[no-any-return]


def trained(kind: type[SharpnessAware], model: nn.Module, fn: Any, batches: Any, **own: Any) -> Any:
    opt = kind(model.parameters(), SGD, model=model, **{**BASE, **own})
    for batch in batches:
        opt.step(loss_fn=fn, batch=batch)
    return opt
