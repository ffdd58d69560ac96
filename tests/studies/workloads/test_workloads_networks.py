"""Networks of the workloads: the LSTM against torch's, the residual network, ViTs in stacks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowland.models.vit import ViT
from lowland.studies.workloads.lstm import LSTM, LanguageModel, RowReader
from lowland.studies.workloads.residual import SmallResidual
from lowland.train.stack import Stack, StackPlan, train


def torchs(own: LSTM) -> nn.LSTM:
    """The same function as `torch.nn.LSTM`; its second bias is zero."""
    width, inputs = own.of_state.shape[1], own.of_input.shape[1]
    other = nn.LSTM(inputs, width, batch_first=True).double()
    with torch.no_grad():
        other.weight_ih_l0.copy_(own.of_input)
        other.weight_hh_l0.copy_(own.of_state)
        other.bias_ih_l0.copy_(own.bias)
        other.bias_hh_l0.zero_()
    return other


@pytest.mark.parametrize("steps", [1, 7])
def test_outputs_and_gradients_are_those_of_torchs_lstm(steps: int) -> None:
    torch.manual_seed(0)
    own = LSTM(3, 5).double()
    other = torchs(own)
    x = torch.randn(4, steps, 3, dtype=torch.float64)
    weights = torch.randn(4, steps, 5, dtype=torch.float64)
    states, wanted = own(x), other(x)[0]
    torch.testing.assert_close(states, wanted, rtol=1e-12, atol=1e-14)
    (states * weights).sum().backward()
    (wanted * weights).sum().backward()
    pairs = ((own.of_input, other.weight_ih_l0), (own.bias, other.bias_ih_l0))
    for mine, theirs in pairs:
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-11, atol=1e-13)
    if steps > 1:  # from h = 0 on one step has no use for the weights of the state
        torch.testing.assert_close(
            own.of_state.grad, other.weight_hh_l0.grad, rtol=1e-11, atol=1e-13
        )


def test_a_cell_by_hand() -> None:
    """One unit, all weights of the input 1: i = f = o = σ(x), g = tanh(x), twice."""
    own = LSTM(1, 1).double()
    with torch.no_grad():
        own.of_input.fill_(1)
        own.of_state.zero_()
        own.bias.zero_()
    x = torch.tensor([[[0.5], [-1.0]]], dtype=torch.float64)
    s, t = torch.sigmoid, torch.tanh
    a, b = x[0, 0, 0], x[0, 1, 0]
    c1 = s(a) * t(a)
    c2 = s(b) * c1 + s(b) * t(b)
    wanted = torch.stack([s(a) * t(c1), s(b) * t(c2)])
    torch.testing.assert_close(own(x)[0, :, 0], wanted)


def test_rows_are_read_from_top_to_bottom_with_all_channels() -> None:
    torch.manual_seed(0)
    reader = RowReader(2, 4, 3, width=5)
    images = torch.randn(6, 2, 7, 4)
    rows = torch.stack([torch.cat([images[:, 0, i], images[:, 1, i]], 1) for i in range(7)], 1)
    wanted = reader.head(reader.lstm(rows)[:, -1])
    torch.testing.assert_close(reader(images), wanted)


def test_a_next_word_does_not_see_itself() -> None:
    torch.manual_seed(0)
    model = LanguageModel(9, width=4)
    tokens = torch.randint(9, (3, 6))
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 9
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 6, 9)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_a_residual_network_starts_as_its_shortcuts() -> None:
    torch.manual_seed(0)
    net = SmallResidual(1, 3, width=4)
    x = torch.randn(2, 1, 8, 8)
    stem = net.stem(x)
    assert stem.shape == (2, 4, 4, 4)
    torch.testing.assert_close(net.block1(stem), stem)
    second = net.block2(stem)
    assert second.shape == (2, 8, 2, 2)
    torch.testing.assert_close(second, net.block2.shortcut(stem).relu())
    torch.testing.assert_close(net(x), net.head(second.mean((2, 3))))
    assert not list(net.buffers())


@pytest.mark.parametrize("kind", ["lstm", "resnet", "vit"])
def test_stacked_outputs_are_those_of_each(kind: str) -> None:
    """No warning either: what falls back to one network after the other would be slow."""
    torch.manual_seed(0)
    made = [network(kind) for _ in range(3)]
    stack = Stack(made)
    x = torch.randn(5, 1, 8, 8)
    with sdpa_kernel(SDPBackend.MATH):
        together = stack(x)
        for k, module in enumerate(made):
            torch.testing.assert_close(together[k], module(x), rtol=1e-4, atol=1e-5)
        plan = StackPlan(seeds=[0, 1, 2], rho=[0.0, 0.1, 0.1], lr=0.01, epochs=1, batch_size=5)
        train(stack, x, torch.arange(5) % 3, plan)
    assert not torch.equal(stack(x) if kind != "vit" else together, together) or kind == "vit"


def network(kind: str) -> nn.Module:
    if kind == "lstm":
        return RowReader(1, 8, 3, width=4)
    if kind == "resnet":
        return SmallResidual(1, 3, width=2)
    return ViT(1, 3, size=8, patch=4, width=4, depth=2, heads=1, hidden=8)


def test_language_models_in_stacks() -> None:
    torch.manual_seed(0)
    made = [LanguageModel(7, width=3) for _ in range(2)]
    tokens = torch.randint(7, (5, 4))
    found: Tensor = Stack(made)(tokens)
    assert found.shape == (2, 5, 4, 7)
    for k, module in enumerate(made):
        torch.testing.assert_close(found[k], module(tokens))
