"""Losses whose mean over a batch is divided by weights of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lowland.core.errors import InputError
from lowland.measure import (
    average_sharpness,
    hessian_trace,
    linear_path,
    loss_line,
    mean_loss,
    one_step_sharpness,
    worst_sharpness,
)

WEIGHT = torch.tensor([1.0, 5.0, 20.0])
MEASURES = {
    "mean loss": mean_loss,
    "trace": hessian_trace,
    "average": lambda *a: average_sharpness(*a, rho=0.1, draws=2),
    "one step": lambda *a: one_step_sharpness(*a, rho=0.1, m=None),
    "worst": lambda *a: worst_sharpness(*a, rho=0.1, m=5, steps=2),
    "line": lambda *a: loss_line(*a, points=3),
    "line, every point": lambda *a: loss_line(*a, points=3, reads="every point"),
    "path": lambda *a: linear_path(*a, nn.Linear(4, 3), points=3),
}


def data(ignored: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 4, generator=draws), torch.randint(0, 3, (9,), generator=draws)
    y[:ignored] = -100
    return x, y


LOSSES = {
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), 0),
    "ignored": (nn.CrossEntropyLoss(), 2),
    "ignored, as a function": (functional.cross_entropy, 2),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_batches_with_divisors_of_their_own_are_refused(measure, loss) -> None:
    loss_fn, ignored = LOSSES[loss]
    x, y = data(ignored)
    with pytest.raises(InputError, match="divided by the class weights"):
        MEASURES[measure](nn.Linear(4, 3), loss_fn, [(x[:4], y[:4]), (x[4:], y[4:])])


@pytest.mark.parametrize("measure", ["mean loss", "trace", "average", "line"])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_batch_may_have_any_mean_and_losses_of_examples_any_weights(measure, loss) -> None:
    loss_fn, ignored = LOSSES[loss]
    x, y = data(ignored)
    model = nn.Linear(4, 3)
    MEASURES[measure](model, loss_fn, [(x, y)])
    weight = WEIGHT if loss == "class weights" else None
    single = nn.CrossEntropyLoss(weight=weight, reduction="none")
    whole = MEASURES[measure](model, single, [(x, y)]).value
    parts = MEASURES[measure](model, single, [(x[:4], y[:4]), (x[4:], y[4:])]).value
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-7)


def test_targets_to_be_ignored_are_no_errors() -> None:
    x, y = data(2)
    assert mean_loss(nn.Linear(4, 3), nn.CrossEntropyLoss(), [(x, y)]).error is None
