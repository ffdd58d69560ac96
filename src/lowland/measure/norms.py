"""The norm of the weights."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement


@dataclass(frozen=True, kw_only=True)
class WeightNorm(Measurement):
    """‖w‖₂ (`n` is 0: no examples are involved).

    Attributes:
        parameters: how many numbers it is taken over.
    """

    parameters: int


def weight_norm(model: nn.Module) -> WeightNorm:
    """‖w‖ = √(Σ w²) over all parameters of `model`: biases and normalization parameters included.

    Shared parameters count once, frozen ones too. Accumulated in float64. NaN or infinite for a
    model whose weights are: that is what a diverged run has.

    Raises:
        InputError: the model has no parameters.

    >>> layer = nn.Linear(1, 1)
    >>> _ = nn.init.constant_(layer.weight, 3.0), nn.init.constant_(layer.bias, 4.0)
    >>> weight_norm(layer).value
    5.0
    """
    start = time.perf_counter()
    parameters = [p.detach() for p in model.parameters()]
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameters: give the trained network")
    norms = [torch.linalg.vector_norm(p, dtype=torch.float64).cpu() for p in parameters]
    return WeightNorm(
        name="weight_norm",
        value=float(torch.linalg.vector_norm(torch.stack(norms))),
        definition="Euclidean norm of all parameters together",
        n=0,
        dtype="float64",
        seconds=time.perf_counter() - start,
        parameters=sum(p.numel() for p in parameters),
    )
