"""Activation checkpoints in the user's model do not change what is measured of it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from lowland.core.differentiable import activations_kept
from lowland.measure import (
    hessian_moments,
    hessian_trace,
    max_eigenvalue,
    one_step_sharpness,
    worst_sharpness,
)


class Checkpointed(nn.Module):
    """Two layers, the first behind a checkpoint; `kind` is that of `use_reentrant`, or None."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.kind: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.Sequential(self.first, nn.Tanh())
        if self.kind is None:
            return self.last(inner(x))
        return self.last(checkpoint.checkpoint(inner, x, use_reentrant=self.kind))


MEASURES = {
    "trace": lambda m, d: hessian_trace(m, nn.CrossEntropyLoss(), d),
    "eigenvalue": lambda m, d: max_eigenvalue(m, nn.CrossEntropyLoss(), d),
    "gauss-newton": lambda m, d: max_eigenvalue(m, nn.CrossEntropyLoss(), d, matrix="ggn"),
    "moments": lambda m, d: hessian_moments(m, nn.CrossEntropyLoss(), d, orders=(2,)),
    "one step": lambda m, d: one_step_sharpness(m, nn.CrossEntropyLoss(), d, rho=0.1),
    "worst": lambda m, d: worst_sharpness(m, nn.CrossEntropyLoss(), d, rho=0.1),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("kind", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("name", MEASURES)
def test_checkpoints_change_nothing(name, kind) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=draws).requires_grad_()
    data = [(x, torch.arange(6) % 3)]
    model = Checkpointed().eval()
    expected = MEASURES[name](model, data).value
    model.kind = kind
    assert MEASURES[name](model, data).value == pytest.approx(expected, rel=1e-5)


def test_checkpoints_are_back_afterwards() -> None:
    before = checkpoint.CheckpointFunction
    with contextlib.suppress(KeyError), activations_kept():
        assert checkpoint.CheckpointFunction is not before
        raise KeyError
    assert checkpoint.CheckpointFunction is before
