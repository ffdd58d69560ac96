"""The four ways in agree; ρ = 0 is the base optimizer, lr = 0 changes nothing (contract 1)."""

from __future__ import annotations

import pytest
import torch
from forms import (
    BASES,
    PLAIN,
    TWO_PASS,
    alone,
    make,
    on_batch,
    run,
)
from problems import data, equal, losses, network, weights
from torch import Tensor, nn

from lowland.optim import METHODS, SAM


@pytest.mark.parametrize("name", TWO_PASS)
@pytest.mark.parametrize("form", ["context", "two-step", "batch"])
def test_all_ways_in_give_the_same_bits(name: str, form: str) -> None:
    w, buffers = run(name, form, rho=0.3)
    expected, expected_buffers = run(name, "closure", rho=0.3)
    assert equal(w, expected)
    assert equal(buffers, expected_buffers)


# 1. ρ = 0 is the base optimizer, lr = 0 changes nothing


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_rho_zero_is_the_base_bit_for_bit(name: str, base: str) -> None:
    model, twin = network(3), network(3)
    opt = make(name, model, base, rho=0.0, **PLAIN.get(name, {}))
    plain = alone(name, twin, base)
    calls = []

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return losses(model)(x, y)

    for i in range(5):
        x, y = data(i)
        on_batch(opt, model, loss_fn, (x, y))
        plain.zero_grad()
        losses(twin)(x, y).mean().backward()
        plain.step()
    assert equal(weights(model), weights(twin))
    assert equal(list(model.buffers()), list(twin.buffers()))
    assert len(calls) == 5, "with ρ = 0 everywhere the second pass is skipped"


def test_replayed_randomness_makes_both_passes_use_the_same_dropout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    x, y = data()
    for replay in (True, False):
        masks = []

        def closure(masks: list[Tensor] = masks) -> Tensor:
            model.zero_grad()
            hidden = model[1](torch.ones(50))
            masks.append(hidden.clone())
            loss = losses(model)(x, y).mean()
            loss.backward()
            return loss

        opt = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, replay_rng=replay)
        torch.manual_seed(1)
        opt.step(closure)
        after = torch.rand(1)
        torch.manual_seed(1)
        closure()
        assert torch.equal(masks[0], masks[1]) == replay
        assert torch.equal(after, torch.rand(1)) == replay, "goes on as after one pass"


def test_replaying_needs_to_see_both_passes() -> None:
    model, (x, y) = network(), data()
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, replay_rng=True)
    losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match="replay_rng"), opt.perturbed():
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_learning_rate_zero_leaves_every_bit(name: str, dtype: torch.dtype) -> None:
    model, (x, y) = network(1, dtype), data(1, dtype=dtype)
    before = weights(model)
    opt = make(name, model, lr=0.0, rho=0.5, weight_decay=0.0, momentum=0.0)
    for _ in range(20):
        on_batch(opt, model, losses(model), (x, y))
        assert equal(weights(model), before)
