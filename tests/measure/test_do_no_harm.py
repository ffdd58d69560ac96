"""Every instrument leaves the model, its gradients and the random generators as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from measure_cases import SmallNet, batches, data, per_example, small_net
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lowland.measure import (
    INSTRUMENTS,
    activation_noise_sharpness,
    active_units,
    capture,
    feature_rank,
    inspect_model,
    mean_loss,
    one_step_sharpness,
    stream,
    weight_norm,
)

Run = Callable[[nn.Module, Any, Any], object]


def _inspect(name: str, model: nn.Module, loss: Any, data: Any) -> object:
    return inspect_model(model, data, [name], loss_fn=loss)


CASES: dict[str, Run] = {
    "mean_loss": lambda model, loss, data: mean_loss(model, loss, data),
    "sharpness": lambda model, loss, data: one_step_sharpness(model, loss, data, rho=0.5),
    "sharpness in training mode": lambda model, loss, data: one_step_sharpness(
        model, loss, data, rho=0.5, training_mode=True
    ),
    "sharpness under activation noise": lambda model, loss, data: activation_noise_sharpness(
        model, loss, data, draws=2, blocks="block1,block2"
    ),
    "capture": lambda model, loss, data: capture(model, data),
    "rank of a stream": lambda model, loss, data: feature_rank(stream(model, data, "block2")),
    "active units of a stream": lambda model, loss, data: active_units(
        stream(model, data, "block1")
    ),
    "weight_norm": lambda model, loss, data: weight_norm(model),
    **{f"inspect {name}": partial(_inspect, name) for name in INSTRUMENTS},
}


WEIGHTS_ONLY = {"weight_norm"} | {
    f"inspect {name}" for name, i in INSTRUMENTS.items() if i.looks_at == "weights"
}
USES_LOSS = {name for name in CASES if name.startswith(("mean_loss", "sharpness"))} | {
    f"inspect {name}" for name, i in INSTRUMENTS.items() if i.looks_at == "loss"
}


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


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("make", [subject, Meddler])
def test_nothing_is_changed(name, make) -> None:
    model = make()
    before = state(model)
    CASES[name](model, noisy, batches())
    assert state(model) == before


@pytest.mark.parametrize("name", CASES)
def test_a_data_loader_draws_nothing(name) -> None:
    """Merely opening one draws a seed from torch's generator."""
    model = subject()
    loader = DataLoader(TensorDataset(*data()), batch_size=4)
    before = state(model)
    CASES[name](model, per_example, loader)
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
    if place == "model":
        model.head.register_forward_hook(broken.hook)
    before = state(model)
    loss = broken.loss if place == "loss" else noisy
    pairs = broken if place == "data" else batches()
    if name in WEIGHTS_ONLY or (place == "loss" and name not in USES_LOSS):
        CASES[name](model, loss, pairs)
    else:
        with pytest.raises(error):
            CASES[name](model, loss, pairs)
    assert state(model) == before


@pytest.mark.parametrize("name", [n for n in CASES if "training mode" not in n])
def test_a_loss_from_before_can_still_be_differentiated(name) -> None:
    model = small_net().eval()
    images, labels = data()
    loss = per_example(model(images), labels).mean()
    CASES[name](model, per_example, batches())
    loss.backward()


def test_every_public_instrument_that_takes_a_model_is_in_the_table() -> None:
    import inspect

    import lowland.measure as measure

    public = [getattr(measure, name) for name in measure.__all__]
    functions = [f for f in public if inspect.isfunction(f)]
    take_model = {f.__name__ for f in functions if "model" in inspect.signature(f).parameters}
    tried = {"mean_loss", "one_step_sharpness", "capture", "stream", "weight_norm"}
    tried |= {"activation_noise_sharpness", "inspect_model"}
    assert take_model - {"matching_blocks"} == tried
