"""Shares of the gradient: closed forms on linear networks, and autograd one network at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.studies.balance import shares as module
from lowland.studies.balance.examples import EASY, HARD, Part
from lowland.studies.balance.networks import Network, initialised
from lowland.studies.balance.shares import inner, shares
from lowland.train.stack import Stack

CORNERS = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
"""Hard and easy feature of four examples, each as a number."""


def linear(hard: float, easy: float) -> Network:
    """A head alone: logit difference 2·(hard·x_0 + easy·x_1)."""
    net = Network(nn.Identity(), 2, 2)
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[-hard, -easy], [hard, easy]]))
        net.head.bias.zero_()
    return net


def part(x: Tensor, hard: Tensor, easy: Tensor) -> Part:
    return Part(x, hard, {HARD: hard, EASY: easy})


def corners() -> Part:
    return part(CORNERS, (CORNERS[:, 0] > 0).long(), (CORNERS[:, 1] > 0).long())


def redundant(scale: float) -> Part:
    """Two examples that both features tell, the hard one `scale` times as large as the easy one."""
    x = torch.tensor([[-scale, -1.0], [scale, 1.0]])
    y = torch.tensor([0, 1])
    return part(x, y, y)


def test_effects_and_shares_of_a_linear_network() -> None:
    stack = Stack([linear(0.5, 2.0), linear(1.0, 0.0)])
    found = shares(stack, redundant(0.25), corners(), torch.zeros(2))
    torch.testing.assert_close(found.effects[HARD], torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(found.effects[EASY], torch.tensor([4.0, 0.0]))
    # the gradient by the weight of a feature is as large as the feature: 0.25 to 1
    torch.testing.assert_close(found.here, torch.full((2,), 0.2))
    assert torch.equal(found.here, found.descended)


def test_share_is_below_zero_where_a_step_weakens_the_feature() -> None:
    x = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
    y = torch.tensor([0, 1])
    found = shares(Stack([linear(0.0, 0.0)]), part(x, y, y), corners(), torch.zeros(1))
    torch.testing.assert_close(found.here, torch.tensor([-1 / 3]))


@pytest.mark.parametrize("rows", [16_384, 12])
def test_many_networks_are_each_by_itself(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain autograd, in one piece and in pieces that do not divide the examples."""
    monkeypatch.setattr(module, "ROWS", rows)
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(20, 6, generator=draws)
    hard = torch.randint(0, 2, (20,), generator=draws)
    easy = torch.randint(0, 2, (20,), generator=draws)
    train = part(torch.randn(14, 6, generator=draws), hard[:14], hard[:14])
    nets = [
        initialised(lambda: Network(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), 5, 2), seed)
        for seed in range(3)
    ]
    radii = torch.tensor([0.0, 0.5, 1.0])
    found = shares(Stack(nets), train, part(x, hard, easy), radii)
    for k, net in enumerate(nets):
        own = list(net.parameters())
        slopes = {}
        for name, values in ((HARD, hard), (EASY, easy)):
            z = net(x)
            d = z[:, 1] - z[:, 0]
            effect = (d[values == 1].mean() - d[values == 0].mean()) / 2
            assert found.effects[name][k].item() == pytest.approx(effect.item(), abs=1e-6)
            slopes[name] = torch.autograd.grad(effect, own)

        def share(u: tuple[Tensor, ...], slopes: dict[str, tuple[Tensor, ...]] = slopes) -> float:
            rates = {
                n: -sum(float((a * b).sum()) for a, b in zip(s, u, strict=True))
                for n, s in slopes.items()
            }
            return rates[HARD] / (abs(rates[HARD]) + abs(rates[EASY]))

        g = torch.autograd.grad(cross_entropy(net(train.x), train.y), own)
        assert found.here[k].item() == pytest.approx(share(g), abs=1e-5)
        norm = torch.cat([t.flatten() for t in g]).norm()
        with torch.no_grad():
            for p, t in zip(own, g, strict=True):
                p.add_(radii[k] * t / norm)
        u = torch.autograd.grad(cross_entropy(net(train.x), train.y), own)
        assert found.descended[k].item() == pytest.approx(share(u), abs=1e-5)


def test_inner_products_are_of_each_network() -> None:
    a = {"w": torch.ones(2, 3), "b": torch.tensor([1.0, 2.0])}
    assert inner(a, a).tolist() == [4.0, 7.0]
