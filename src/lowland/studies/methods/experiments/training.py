"""What the experiments share: data as plain tensors, small networks, updates, and errors."""

from __future__ import annotations

import functools
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.seeds import generator
from lowland.data import load
from lowland.optim import SharpnessAware

Pair = tuple[Tensor, Tensor]
Losses = Callable[..., Tensor]
"""One loss per example of a batch."""


@dataclass(frozen=True, eq=False)
class Digits:
    """The digits in three splits, each as images (n, 8, 8) in [0, 1] and labels (n,)."""

    train: Pair
    validation: Pair
    test: Pair


@functools.cache
def digits(dtype: torch.dtype = torch.float32) -> Digits:
    """The 1,797 digits in the split of all studies, grey values from 0 to 1."""
    splits = load("digits").splits
    pairs = {name: (s.images[:, 0].to(dtype) / 16, s.labels) for name, s in splits.items()}
    return Digits(**pairs)


def centered(data: Digits) -> Digits:
    """The same minus the mean training image."""
    mean = data.train[0].mean(0)
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    return Digits(**{name: (images - mean, labels) for name, (images, labels) in splits.items()})


def network(
    sizes: Sequence[int],
    *,
    seed: int,
    activation: type[nn.Module],
    dtype: torch.dtype = torch.float32,
    gain: float = 1.0,
) -> nn.Sequential:
    """A fully connected network; its layers are called ``layer1``, ``layer2``, ...

    Weights are N(0, gain²/fan-in), of the last layer N(0, 1/fan-in), biases 0; all are drawn from
    `seed` alone.

    Args:
        sizes: inputs, units of each hidden layer, outputs.
        seed: of the weights.
        activation: after every layer but the last.
        dtype: of the parameters.
        gain: of the hidden layers.
    """
    model = nn.Sequential(OrderedDict(flatten=nn.Flatten()))
    draws = generator("cpu", seed, "initialisation")
    last = len(sizes) - 1
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        layer = nn.Linear(inputs, outputs, dtype=dtype)
        scale = (1.0 if i == last else gain) / math.sqrt(inputs)
        with torch.no_grad():
            layer.weight.normal_(0, scale, generator=draws)
            layer.bias.zero_()
        model.add_module(f"layer{i}", layer)
        if i < last:
            model.add_module(f"activation{i}", activation())
    return model


def batches(
    data: tuple[Tensor, ...], size: int, *, seed: int, steps: int
) -> Iterator[tuple[Tensor, ...]]:
    """So many batches of one size, a fresh order every epoch, its ragged end left out."""
    n = len(data[0])
    each = n // size
    for step in range(steps):
        epoch, number = divmod(step, each)
        if number == 0:
            order = torch.randperm(n, generator=generator("cpu", seed, "order", epoch))
        rows = order[number * size : (number + 1) * size]
        yield tuple(part[rows] for part in data)


def update(opt: torch.optim.Optimizer, losses: Losses, batch: Sequence[Tensor]) -> float:
    """One step of any optimizer on a batch; the mean loss at w."""
    if isinstance(opt, SharpnessAware):
        at_w: Tensor = opt.step(loss_fn=losses, batch=tuple(batch))
        return float(at_w.detach())

    def closure() -> Any:
        opt.zero_grad()
        loss = losses(*batch).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    loss: Any = opt.step(closure)
    return float(loss.detach())


@torch.no_grad()
def error(model: nn.Module, pair: Pair) -> float:
    """Share of examples that are classified wrongly."""
    return float((model(pair[0]).argmax(1) != pair[1]).double().mean())
