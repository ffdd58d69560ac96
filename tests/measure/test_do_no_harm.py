"""Every instrument leaves the model, its gradients and the random generators as they were."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from harm_cases import CASES, NOT_INSTRUMENTS
from measure_cases import SmallNet, batches, data, per_example, small_net
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lowland.measure as measure
from lowland.core.errors import InputError


def subject() -> SmallNet:
    """A model in mid-training: gradients, a frozen part, modes that differ, a user's hook."""
    model = small_net().train()
    images, labels = data()
    per_example(model(images), labels).mean().backward()
    model.head.bias.requires_grad_(False)
    model.head.bias.grad = None
    model.block1[1].eval()
    model.head.eval()
    model.block2.register_forward_hook(lambda module, inputs, output: None)
    return model


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def state(model: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        grad = tensor.grad
        found[name] = (id(tensor), tensor.data_ptr(), tensor.requires_grad, bits(tensor))
        found[f"gradient of {name}"] = grad if grad is None else (id(grad), bits(grad))
    for name, module in model.named_modules():
        hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
        found[f"module {name}"] = (id(module), module.training, hooks)
    found["torch"] = bits(torch.get_rng_state())
    found["python"] = random.getstate()
    found["numpy"] = repr(np.random.get_state())
    found["modes"] = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    return found


def noisy(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that draws from every generator."""
    draws = random.random() + np.random.rand() + torch.rand(())
    return per_example(outputs, targets) + 0.001 * draws


class Meddler(nn.Module):
    """A model that changes itself in every forward pass, eval mode or not."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Linear(16, 5)
        self.block2 = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.block1.bias.data.add_(1e-3)
        self.block2.training = True
        return self.block2(self.block1(x.flatten(1) + torch.rand(())))


def said(name: str) -> Any:
    """What needs two passes to be the same says so where they are not."""
    return contextlib.suppress(InputError) if CASES[name].repeats else contextlib.nullcontext()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("make", [subject, Meddler])
def test_nothing_is_changed(name, make) -> None:
    model = make()
    before = state(model)
    with said(name):
        CASES[name].run(model, noisy, batches())
    assert state(model) == before


@pytest.mark.parametrize("name", CASES)
def test_a_data_loader_draws_nothing(name) -> None:
    """Merely opening one draws a seed from torch's generator."""
    model = subject()
    loader = DataLoader(TensorDataset(*data()), batch_size=4)
    before = state(model)
    CASES[name].run(model, per_example, loader)
    assert state(model) == before


class Broken:
    """Data, a loss or a layer that fails in the middle of the second batch."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.calls = 0

    def count(self) -> None:
        self.calls += 1
        if self.calls > 2:
            raise self.error

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.count()
        return noisy(outputs, targets)

    def __iter__(self) -> Iterator[Any]:
        for batch in batches():
            self.count()
            yield batch

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.count()


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["loss", "data", "model"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_changed_when_something_fails(name, place, error) -> None:
    model, broken = subject(), Broken(error)
    case = CASES[name]
    if place == "model":
        model.head.register_forward_hook(broken.hook)
    before = state(model)
    loss = broken.loss if place == "loss" else per_example
    pairs = broken if place == "data" else batches()
    reached = case.loss if place == "loss" else case.data
    with pytest.raises(error) if reached else contextlib.nullcontext():
        case.run(model, loss, pairs)
    assert state(model) == before


@pytest.mark.parametrize("name", [n for n in CASES if "training mode" not in n])
def test_a_loss_from_before_can_still_be_differentiated(name) -> None:
    model = small_net().eval()
    images, labels = data()
    loss = per_example(model(images), labels).mean()
    CASES[name].run(model, per_example, batches())
    loss.backward()


def test_every_public_instrument_that_takes_a_model_is_tried() -> None:
    public = [getattr(measure, name) for name in measure.__all__]
    functions = [f for f in public if inspect.isfunction(f)]
    take_model = {f.__name__ for f in functions if "model" in inspect.signature(f).parameters}
    source = inspect.getsource(__import__("harm_cases"))
    missing = {name for name in take_model - NOT_INSTRUMENTS if f"m.{name}(" not in source}
    assert not missing
