"""Every method by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lowland.core.errors import unknown
from lowland.optim.asam import ASAM
from lowland.optim.fsam import FSAM
from lowland.optim.looksam import LookSAM
from lowland.optim.msam import MSAM
from lowland.optim.sam import SAM
from lowland.optim.samon import SAMON
from lowland.optim.sharpness_aware import SharpnessAware


@dataclass(frozen=True)
class Method:
    """A named member of the family.

    Attributes:
        name: lower case with hyphens.
        optimizer: its class; calling the method calls it.
        kind: what it varies: "perturbation", "plan", ...
        source: the paper.
        passes: forward and backward passes over the batch per step.
        memory: extra tensors of the size of the parameters that stay or live through a step.
        needs: what it asks of the caller beside the parameters.
    """

    name: str
    optimizer: type[SharpnessAware]
    kind: str
    source: str
    passes: str
    memory: str
    needs: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> SharpnessAware:
        return self.optimizer(*args, **kwargs)


_ALL = (
    Method("sam", SAM, "perturbation", "2010.01412", "2", "1 copy"),
    Method("asam", ASAM, "perturbation", "2102.11600", "2", "1 copy", "model= to tell biases"),
    Method("f-sam", FSAM, "perturbation", "2403.12350", "2", "1 copy, running mean, gradient"),
    Method("sam-on", SAMON, "perturbation", "2306.04226", "2", "copy of norm layers", "model="),
    Method("m-sam", MSAM, "plan", "2302.09693", "2", "1 copy, accumulator", "loss_fn=, batch="),
    Method("looksam", LookSAM, "plan", "2203.02714", "1 + 1/k", "1 copy, g_v, gradient"),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""name → `Method`, in the order of the tables."""


def create(
    name: str, model: nn.Module, base: type[Optimizer] | Optimizer, **options: Any
) -> SharpnessAware:
    """A method by name over all trainable parameters of a model.

    Args:
        name: one of `METHODS`.
        model: the network.
        base: a ``torch.optim`` class or an instance over the model's parameters.
        **options: the method's arguments, `SharpnessAware`'s, and the base optimizer's.

    Raises:
        InputError: the name is unknown (the nearest is given), or an argument cannot be used.

    >>> import torch
    >>> create("sam", nn.Linear(2, 1), torch.optim.SGD, lr=0.1, rho=0.05).param_groups[0]["rho"]
    0.05
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    params = [p for p in model.parameters() if p.requires_grad]
    return METHODS[name](params, base, model=model, **options)
