"""Instruments that move the weights, called where autocast is on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowland.measure import average_sharpness, loss_line, one_step_sharpness, worst_sharpness

MEASURES = {
    "worst": lambda *a: worst_sharpness(*a, rho=1.0).value,
    "one step": lambda *a: one_step_sharpness(*a, rho=1.0).value,
    "average": lambda *a: average_sharpness(*a, rho=0.5, draws=3).value,
    "line": lambda *a: loss_line(*a, points=3, reads="every point").losses[0],
}


@pytest.mark.parametrize("measure", MEASURES)
def test_weights_that_moved_are_cast_anew(measure) -> None:
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(16, 4, generator=draws), torch.arange(16) % 3
    expected = MEASURES[measure](model, nn.CrossEntropyLoss(), [(x, y)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = model(x)
        found = MEASURES[measure](model, nn.CrossEntropyLoss(), [(x, y)])
        assert torch.equal(model(x), before)
        assert torch.is_autocast_cache_enabled()
    assert found == pytest.approx(expected, rel=0.05, abs=0.02)
