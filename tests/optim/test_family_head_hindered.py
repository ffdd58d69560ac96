"""Where the output layer cannot run by itself: said in a line, or done in two passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family import BASE, SGD, Counted
from problems import data, equal, losses, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.optim import (
    LastLayerSAM,
    LogitsSAM,
)

# Where one forward cannot be


class Scaled(Counted):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class WithLoss(Counted):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        z = super().forward(x)
        return (z, cross_entropy(z, y)) if y is not None else z


class Twice(Counted):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * self.head(torch.zeros(1, 7))


@pytest.mark.parametrize(
    ("kind", "fn", "said"),
    [
        (Scaled, lambda m, x, y: cross_entropy(m(x), y), "return the logits as they are"),
        (WithLoss, lambda m, x, y: m(x, y)[1], "compute that in loss_fn"),
        (Twice, lambda m, x, y: cross_entropy(m(x), y), "has to run once in each call"),
    ],
)
def test_what_hinders_is_said_or_done_in_two_passes(kind: Any, fn: Any, said: str) -> None:
    ends = []
    for one in (None, False):
        model = kind()
        opt = LastLayerSAM(model.parameters(), SGD, model=model, rho=0.3, one_forward=one, **BASE)
        for i in range(3):
            opt.step(loss_fn=lambda x, y, m=model: fn(m, x, y), batch=data(i))
        ends.append((weights(model), list(model.buffers()), model.forwards))
    assert equal(ends[0][0], ends[1][0])
    assert equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2] == 6
    model = kind()
    before = weights(model)
    opt = LogitsSAM(model.parameters(), SGD, model=model, lr=0.1)
    with pytest.raises(InputError, match=said):
        opt.step(loss_fn=lambda x, y: fn(model, x, y), batch=data(0))
    assert equal(weights(model), before)


def test_other_hindrances_are_said() -> None:
    model, (x, y) = Counted(), data(0)
    opt = LogitsSAM(model.parameters(), SGD, model=model, lr=0.1)
    with pytest.raises(InputError, match="micro-batches"):
        opt.step(loss_fn=losses(model), batches=[(x, y)])
    with pytest.raises(InputError, match="pass the one that loss_fn runs"):
        opt.step(
            loss_fn=lambda x, y: cross_entropy(model.head(model.body(x).tanh()), y), batch=(x, y)
        )
    with pytest.raises(RuntimeError, match="loss_fn="):
        opt.step(lambda: None)
    compiled: Any = torch.compile(model, backend="eager")
    opt = LogitsSAM(compiled.parameters(), SGD, model=compiled, lr=0.1)
    with pytest.raises(InputError, match="compiled"):
        opt.step(loss_fn=losses(compiled), batch=(x, y))
    opt = LogitsSAM(model.parameters(), SGD, model=model, lr=0.1)
    times = iter([1, 2])

    def fickle(x: Tensor, y: Tensor) -> Tensor:
        return sum(cross_entropy(model(x), y) for _ in range(next(times)))  # type: ignore[return-value]

    with pytest.raises(RuntimeError, match="at w and more often"):
        opt.step(loss_fn=fickle, batch=(x, y))
    with pytest.raises(InputError, match="no linear layer"):
        LogitsSAM(nn.Conv2d(1, 1, 1).parameters(), SGD, model=nn.Conv2d(1, 1, 1), lr=0.1)
    with pytest.raises(InputError, match="model="):
        LogitsSAM(model.parameters(), SGD, lr=0.1)
