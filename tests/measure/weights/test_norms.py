"""The weight norm: what is counted, and in which precision."""

from __future__ import annotations

import math

import pytest
import torch
from measure_cases import small_net
from torch import nn

from lowland.core.errors import InputError
from lowland.measure import weight_norm


def test_is_the_norm_of_all_parameters() -> None:
    model = small_net()
    vector = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    record = weight_norm(model)
    assert record.value == pytest.approx(float(vector.norm()), rel=1e-14)
    assert record.parameters == len(vector)
    assert record.dtype == "float64"


def test_frozen_parameters_count_and_buffers_do_not() -> None:
    model = small_net()
    before = weight_norm(model).value
    model.requires_grad_(False)
    model.block1[1].running_mean.fill_(1e6)
    assert weight_norm(model).value == before


def test_shared_parameters_count_once() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    assert weight_norm(nn.Sequential(first, second)).value == weight_norm(first).value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype) -> None:
    layer = nn.Linear(100, 100, bias=False).to(dtype)
    nn.init.constant_(layer.weight, 60000.0)
    stored = float(layer.weight.detach()[0, 0])
    assert weight_norm(layer).value == pytest.approx(stored * 100)


def test_a_diverged_model_has_the_norm_it_has() -> None:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.bias, math.nan)
    assert math.isnan(weight_norm(layer).value)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(InputError, match="ReLU has no parameters: give the trained network"):
        weight_norm(nn.ReLU())
