"""Whether the corners of the four arms are plain SGD and last-layer SAM, measured."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.optim import LastLayerSAM
from lowland.studies.mechanism.arms import LSAM, SGD
from lowland.studies.mechanism.training import ArmsPlan, arm_gradients
from lowland.train.stack import Stack


def difference(module: nn.Module, inputs: Tensor, labels: Tensor, arm: str, rho: float) -> float:
    """‖u_arm - u‖ / ‖u‖ over all parameters, in float64, on one batch.

    u is what one step of the optimizer descends: `torch.optim.SGD` for the arm ``sgd`` and
    `lowland.optim.LastLayerSAM` over it for ``lsam``.

    Args:
        module: a network with ``features`` and ``head``.
        inputs: (b, ...).
        labels: (b,).
        arm: ``"sgd"`` or ``"lsam"``.
        rho: radius.
    """
    own, x = copy.deepcopy(module).double(), inputs.double()
    stack = Stack([own])
    plan = ArmsPlan(seeds=[0], arms=[arm], rho=[rho], lr=1.0, epochs=1)
    found, _ = arm_gradients(stack, x[None], labels[None], plan)
    taken = _step(own, x, labels, {SGD: 0.0, LSAM: rho}[arm])
    apart = torch.stack([(found[n][0] - u).square().sum() for n, u in taken.items()]).sum()
    size = torch.stack([u.square().sum() for u in taken.values()]).sum()
    return float((apart / size).sqrt())


def _step(module: nn.Module, inputs: Tensor, labels: Tensor, rho: float) -> dict[str, Tensor]:
    """What one step with learning rate 1 takes off each parameter."""
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    parameters = list(module.parameters())
    opt: torch.optim.Optimizer
    if rho:
        opt = LastLayerSAM(parameters, torch.optim.SGD, lr=1.0, rho=rho, model=module)
    else:
        opt = torch.optim.SGD(parameters, lr=1.0)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = cross_entropy(module(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    opt.step(closure)
    return {name: before[name] - p.detach() for name, p in module.named_parameters()}
