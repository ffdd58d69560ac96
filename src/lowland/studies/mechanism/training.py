"""Training the four arms: many networks at once, each by an arm and a radius of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.seeds import generator
from lowland.data import batch_count
from lowland.studies.mechanism.arms import ARMS, Directions, Head, directions
from lowland.train.stack import Stack

HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True, kw_only=True)
class ArmsPlan:
    """What the networks of a stack are trained with: w ← w - η·u, u the direction of the arm.

    Attributes:
        seeds: of the order of the examples, one for each network.
        arms: name of the arm of each (`ARMS`).
        rho: radius of the phantom of each.
        lr: learning rate.
        epochs: passes over the examples.
        batch_size: examples in a batch; what is left at the end of a pass is left out.
    """

    seeds: Sequence[int]
    arms: Sequence[str]
    rho: Sequence[float]
    lr: float
    epochs: int
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not len(self.seeds) == len(self.arms) == len(self.rho):
            raise InputError(
                f"{len(self.seeds)} seeds, {len(self.arms)} arms and {len(self.rho)} radii: give "
                "one of each for every network"
            )
        for name in self.arms:
            if name not in ARMS:
                raise unknown("arm", name, ARMS)


def head_of(parameters: dict[str, Tensor]) -> Head:
    """The heads of a stack of networks whose output layer is called ``head``."""
    return Head(*(parameters[name] for name in HEAD))


def arm_gradients(
    stack: Stack, inputs: Tensor, labels: Tensor, plan: ArmsPlan
) -> tuple[dict[str, Tensor], Directions]:
    """The directions of all arms on one batch each, by parameter.

    Args:
        stack: networks with a method ``features`` and a linear output layer ``head``.
        inputs: (K, b, ...).
        labels: (K, b).
        plan: arm and radius of each.

    Cost: one forward and one backward of the backbone, whatever the arm.
    """
    device = labels.device
    weights, carried = (
        torch.tensor([getattr(ARMS[name], part) for name in plan.arms], device=device)
        for part in ("weights", "head")
    )
    rho = torch.tensor(plan.rho, dtype=torch.float64, device=device)
    leaves = {name: p.detach().requires_grad_() for name, p in stack.parameters.items()}
    features = stack.call(leaves, inputs, shared=False, method="features")
    with torch.no_grad():
        found = directions(features, head_of(leaves), labels, rho, weights, carried)
    backbone = [name for name in leaves if name not in HEAD]
    gradients = torch.autograd.grad(
        features, [leaves[name] for name in backbone], grad_outputs=found.features
    )
    own = dict(zip(HEAD, (found.head.weight, found.head.bias), strict=True))
    return dict(zip(backbone, gradients, strict=True)) | own, found


@torch.no_grad()
def _descend(stack: Stack, gradients: dict[str, Tensor], lr: float) -> None:
    for name, p in stack.parameters.items():
        p.sub_(gradients[name], alpha=lr)


def train_arms(
    stack: Stack,
    inputs: Tensor,
    labels: Tensor,
    plan: ArmsPlan,
    *,
    evaluate_at: Collection[int] = (),
    on_evaluation: Callable[[int, Stack], None] = lambda step, stack: None,
) -> int:
    """Train all networks of a stack by their arms, in place; the number of updates.

    The order of the examples is that of `lowland.train.stack.train`, so that an arm is paired with
    plain training and with SAM of the same seed.

    Args:
        stack: networks with a method ``features`` and a linear output layer ``head``.
        inputs: (n, ...), the same for all.
        labels: (n,).
        plan: what each is trained with.
        evaluate_at: numbers of finished updates at which `on_evaluation` is called.
        on_evaluation: called with that number and the stack.

    Raises:
        InputError: the plan is for another number of networks, or there is no whole batch.
    """
    if len(plan.seeds) != stack.size:
        raise InputError(f"the plan is for {len(plan.seeds)} networks, there are {stack.size}")
    n, size = len(inputs), plan.batch_size
    per_epoch = batch_count(n, batch_size=size, drop_last=True)
    for epoch in range(plan.epochs):
        order = {
            seed: torch.randperm(n, generator=generator("cpu", seed, "order", epoch))
            for seed in set(plan.seeds)
        }
        rows = torch.stack([order[seed] for seed in plan.seeds]).to(inputs.device)
        for place in range(per_epoch):
            step = epoch * per_epoch + place
            if step in evaluate_at:
                on_evaluation(step, stack)
            own = rows[:, place * size : (place + 1) * size]
            _descend(stack, arm_gradients(stack, inputs[own], labels[own], plan)[0], plan.lr)
    steps = plan.epochs * per_epoch
    if steps in evaluate_at:
        on_evaluation(steps, stack)
    return steps
