"""`preserved` puts back everything, bit for bit, however the block ends."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from lowland.core.restore import preserved, preserved_randomness


class Net(nn.Module):
    """Tied weights, a frozen part, buffers of all kinds, and modes that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("hidden", torch.tensor([float("nan"), -0.0]), persistent=False)
        self.register_buffer("absent", None)
        self.tied.bias.requires_grad_(False)
        self.norm.eval()
        self.first.weight.grad = torch.randn(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.tied(self.first(x))))


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def snapshot(model: nn.Module) -> dict[str, object]:
    state: dict[str, object] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        grad = tensor.grad
        state[name] = (
            id(tensor),
            tensor.data_ptr(),
            tensor.requires_grad,
            bits(tensor),
            None if grad is None else (id(grad), grad.data_ptr(), bits(grad)),
        )
    state["modes"] = [(name, m.training) for name, m in model.named_modules()]
    state["hooks"] = [len(m._forward_hooks) for m in model.modules()]
    state["torch"] = bits(torch.get_rng_state())
    state["python"] = random.getstate()
    state["numpy"] = repr(np.random.get_state())
    return state


def write(model: Net) -> None:
    with torch.no_grad():
        model.first.weight.fill_(float("nan"))
        model.norm.running_mean.add_(1)


def repoint(model: Net) -> None:
    model.first.weight.data = torch.zeros(4, 4)


def replace(model: Net) -> None:
    model.first.bias = nn.Parameter(torch.zeros(4))
    model.norm.running_var = torch.zeros(4)
    model.hidden = None
    model.absent = torch.zeros(1)


def change_type(model: Net) -> None:
    model.half()


def switch_mode(model: Net) -> None:
    model.eval()
    model.norm.train()


def freeze(model: Net) -> None:
    model.requires_grad_(False)
    model.tied.bias.requires_grad_(True)


def clear_gradients(model: Net) -> None:
    model.zero_grad(set_to_none=True)
    model.first.bias.grad = torch.ones(4)


def write_gradients(model: Net) -> None:
    model.first.weight.grad.zero_()


def draw(model: Net) -> None:
    torch.rand(1)
    random.random()
    np.random.rand()


def train(model: Net) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()


HARM = [
    write,
    repoint,
    replace,
    change_type,
    switch_mode,
    freeze,
    clear_gradients,
    write_gradients,
    draw,
    train,
]


class Weird(BaseException):
    """Not an `Exception`, like an interrupt."""


@pytest.mark.parametrize("end", [None, RuntimeError, KeyboardInterrupt, Weird])
@pytest.mark.parametrize("harm", HARM)
def test_everything_is_put_back(harm, end) -> None:
    model = Net()
    before = snapshot(model)
    with contextlib.nullcontext() if end is None else pytest.raises(end), preserved(model):
        harm(model)
        assert snapshot(model) != before, "this case harms nothing, so it proves nothing"
        if end is not None:
            raise end
    assert snapshot(model) == before


def test_tied_parameters_stay_tied() -> None:
    model = Net()
    with preserved(model):
        replace(model)
        model.tied.weight = nn.Parameter(torch.zeros(4, 4))
    assert model.tied.weight is model.first.weight


def test_a_loss_from_before_can_still_be_differentiated() -> None:
    model = Net()
    loss = model(torch.randn(8, 4)).square().sum()
    with preserved(model):
        model.first.weight.data.add_(1.0)
        model.norm.running_mean.data.add_(1.0)
    loss.backward()


def test_views_of_the_weights_stay_valid() -> None:
    model = nn.Linear(2, 1)
    view = model.weight.detach().view(-1)
    before = view.clone()
    with preserved(model):
        model.weight.data = torch.zeros(1, 2)
    torch.testing.assert_close(view, before, rtol=0, atol=0)
    model.weight.data.add_(1)
    torch.testing.assert_close(view, before + 1, rtol=0, atol=0)


def test_a_sparse_gradient_is_put_back() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    model(torch.tensor([1, 3])).sum().backward()
    gradient = model.weight.grad
    before = gradient.to_dense().clone()
    with preserved(model):
        model.weight.grad.mul_(7)
        model.weight.grad = None
    assert model.weight.grad is gradient
    assert torch.equal(gradient.to_dense(), before)


def test_randomness_is_drawn_again() -> None:
    with preserved_randomness():
        first = (torch.rand(1).item(), random.random(), np.random.rand())
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_randomness_is_drawn_again() -> None:
    torch.cuda.init()
    with preserved_randomness():
        first = torch.rand(1, device="cuda").item()
    assert torch.rand(1, device="cuda").item() == first
