"""The norm of the weights."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from lowland.core.records import Measurement
from lowland.measure.parameters import chosen_parameters


@dataclass(frozen=True, kw_only=True)
class WeightNorm(Measurement):
    """‖w‖₂ (`n` is 0: no examples are involved).

    Attributes:
        parameters: how many numbers it is taken over.
    """

    parameters: int


def weight_norm(model: nn.Module, *, parameters: str | None = None) -> WeightNorm:
    """‖w‖ = √(Σ w²) over all parameters of `model`: biases and normalization parameters included.

    Shared parameters count once, frozen ones too. Accumulated in float64. NaN or infinite for a
    model whose weights are: that is what a diverged run has.

    Args:
        model: the network.
        parameters: glob over names of parameters and modules (`chosen_parameters`); None for all.

    Raises:
        InputError: the model has no parameters, or the glob matches none.

    >>> layer = nn.Linear(1, 1)
    >>> _ = nn.init.constant_(layer.weight, 3.0), nn.init.constant_(layer.bias, 4.0)
    >>> weight_norm(layer).value
    5.0
    """
    start = time.perf_counter()
    chosen = chosen_parameters(model, parameters, frozen=True)
    norms = [
        torch.linalg.vector_norm(p.detach(), dtype=torch.float64).cpu() for p in chosen.values()
    ]
    return WeightNorm(
        name="weight_norm",
        value=float(torch.linalg.vector_norm(torch.stack(norms))),
        definition=f"Euclidean norm of {_which(parameters)} together",
        n=0,
        dtype="float64",
        seconds=time.perf_counter() - start,
        parameters=sum(p.numel() for p in chosen.values()),
    )


def _which(parameters: str | None) -> str:
    return "all parameters" if parameters is None else f"the parameters of {parameters}"
