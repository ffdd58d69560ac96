"""SAM over SGD on all networks of a stack at once, with the arithmetic of the optimizers.

One update of network k on its batch, with all norms over its own parameters alone:

    g = ∇L(w),  ε = ρ_k·g/(‖g‖ + 10⁻¹²),  g̃ = ∇L(w + ε),  b ← μ·b + g̃ + λ_k·w,  w ← w - η_k·b.

The perturbed weights are new tensors, so that nothing has to be restored. `lowland.optim.SAM` over
`torch.optim.SGD` does the same to one network; the two agree to rounding (sums are in another
order).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError, unknown
from lowland.core.seeds import generator
from lowland.core.selection import match_names
from lowland.data import batch_count
from lowland.train.schedule import learning_rate
from lowland.train.stack.networks import Stack
from lowland.train.stack.plan import PerNetwork, StackPlan

GUARD = 1e-12

Loss = Callable[[Tensor, Tensor], Tensor]
OnEvaluation = Callable[[int, Stack], None]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How the training of a stack went.

    Attributes:
        steps: updates of each network.
        stopped: (K,) the update at which a network's gradient, at w or at w + ε, was not finite: it
            keeps the weights that it had then, for good (the optimizers skip the step and go on);
            -1 for networks that were trained to the end.
        seconds: wall time, evaluations included.
    """

    steps: int
    stopped: Tensor
    seconds: float

    def lost(self, network: int, step: int) -> bool:
        """Whether a network was stopped before so many updates were finished."""
        return 0 <= int(self.stopped[network]) < step


def train(
    stack: Stack,
    inputs: Tensor,
    labels: Tensor,
    plan: StackPlan,
    *,
    masks: Mapping[str, Tensor] | None = None,
    evaluate_at: Collection[int] = (),
    on_evaluation: OnEvaluation | None = None,
    loss: Loss | None = None,
) -> Trained:
    """Train all networks of a stack, in place.

    Args:
        stack: the networks.
        inputs: (n, ...) the examples, ready to be seen by a network, the same for all.
        labels: (n,), or (K, n) where each network has its own.
        plan: what each is trained with.
        masks: name -> (K, ...) of zeros and ones: what is zero is set to zero, stays there, and is
            moved by no perturbation.
        evaluate_at: numbers of finished updates, from 0 on, at which `on_evaluation` is called.
        on_evaluation: called with that number and the stack.
        loss: (logits (k, b, c), labels (k, b)) -> losses (k, b); cross-entropy by default. The loss
            of a network is its mean over the batch.

    Cost: two passes for every network with ρ > 0, one for the others; besides parameters, as much
    again for momentum, gradients and perturbed weights each.

    Raises:
        InputError: numbers of networks, labels or masks do not fit, or there is no whole batch.
    """
    begun = time.perf_counter()
    labels = _checked(stack, inputs, labels, plan)
    steps_per_epoch = batch_count(len(inputs), batch_size=plan.batch_size, drop_last=True)
    steps = steps_per_epoch * plan.epochs
    update = _Update(stack, plan, _checked_masks(stack, masks or {}), loss or _cross_entropy)
    tell = on_evaluation or (lambda step, networks: None)
    rows = torch.empty(0)
    for step in range(steps):
        if step in evaluate_at:
            tell(step, stack)
        place = step % steps_per_epoch
        if not place:
            rows = _order(plan, step // steps_per_epoch, len(inputs)).to(inputs.device)
        own = rows[:, place * plan.batch_size : (place + 1) * plan.batch_size]
        factor = learning_rate(plan.schedule, 1.0, step=step, steps=steps)
        update(step, factor, inputs[own], labels.gather(1, own))
    if steps in evaluate_at:
        tell(steps, stack)
    return Trained(steps=steps, stopped=update.stopped, seconds=time.perf_counter() - begun)


class _Update:
    """One update of all networks."""

    def __init__(
        self, stack: Stack, plan: StackPlan, masks: Mapping[str, Tensor], loss: Loss
    ) -> None:
        self._stack, self._loss, self._masks = stack, loss, masks
        self._momentum = plan.momentum
        first = next(iter(stack.parameters.values()))
        self._device = first.device

        def numbers(value: PerNetwork) -> Tensor:
            return torch.as_tensor(value, dtype=first.dtype).expand(stack.size).to(self._device)

        rho = numbers(plan.rho)
        self._moved = _places(rho != 0)
        self._rho, self._lr = rho[self._moved], numbers(plan.lr)
        self._decay = numbers(plan.weight_decay)
        self._decays = bool(self._decay.any())
        self._perturbed = set(match_names(plan.perturbed, stack.parameters, kind="parameter"))
        self._buffers: dict[str, Tensor] = {}
        self.stopped = torch.full((stack.size,), -1, device=self._device)
        for name, mask in masks.items():
            stack.parameters[name].mul_(mask)

    def __call__(self, step: int, factor: float, inputs: Tensor, labels: Tensor) -> None:
        parameters = self._stack.parameters
        gradients = self._gradients(parameters, inputs, labels)
        if len(self._rho):
            self._ascend(gradients, inputs, labels)
        self._descend(step, gradients, self._lr * factor)

    def _gradients(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The gradient of every network's own mean loss, where nothing is masked."""
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        logits = self._stack.call(leaves, inputs, shared=False)
        total = self._loss(logits, labels).mean(1).sum()  # a network's terms hold its own weights
        found = torch.autograd.grad(total, list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    def _ascend(self, gradients: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> None:
        """Replace the gradients of networks with ρ > 0 by those at w + ε."""
        moved, parameters = self._moved, self._stack.parameters
        own = {name: self._masked(name, g[moved]) for name, g in gradients.items()}
        norm = _norm([own[name] for name in own if name in self._perturbed])
        scale = self._rho / (norm + GUARD)
        if len(self._perturbed) < len(own):
            # where ε does not look, g̃ would not tell
            scale = torch.where(_norm(list(own.values())).isfinite(), scale, torch.nan)
        there = {
            name: self._perturb(name, p[moved], own[name], scale) for name, p in parameters.items()
        }
        for name, g in self._gradients(there, inputs[moved], labels[moved]).items():
            if len(g) == self._stack.size:
                gradients[name] = g
            else:
                gradients[name][moved] = g

    def _perturb(self, name: str, p: Tensor, gradient: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(p, gradient, _wide(scale, p)) if name in self._perturbed else p

    def _masked(self, name: str, tensor: Tensor) -> Tensor:
        mask = self._masks.get(name)
        return tensor if mask is None else tensor * mask[self._moved]

    @torch.no_grad()
    def _descend(self, step: int, gradients: dict[str, Tensor], lr: Tensor) -> None:
        going = _norm(list(gradients.values())).isfinite() & (self.stopped < 0)
        self.stopped[~going & (self.stopped < 0)] = step
        whole = bool(going.all())
        for name, p in self._stack.parameters.items():
            g = gradients[name]
            if self._decays:
                # not in place: parameters that are added have one tensor for both gradients
                g = torch.addcmul(g, p, _wide(self._decay, p))
            if name in self._masks:
                g = g * self._masks[name]
            if not whole:
                g = torch.where(_wide(going, g), g, 0.0)
            buffer = self._buffers.get(name)
            if buffer is None:
                buffer = self._buffers[name] = torch.zeros_like(p)
            buffer.mul_(self._momentum).add_(g)
            p.addcmul_(buffer, _wide(lr if whole else torch.where(going, lr, 0.0), p), value=-1)


def _places(members: Tensor) -> Tensor | slice:
    """Where those networks are: as a slice, which copies nothing, if they stand together."""
    places = members.nonzero()[:, 0]
    if not len(places):
        return slice(0, 0)
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(K,) as (K, 1, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _norm(tensors: list[Tensor]) -> Tensor:
    """(K,) norm over all tensors of each network together."""
    # gradients of kernels come transposed: flattened they would be copied
    parts = [
        torch.linalg.vector_norm(t, dim=tuple(range(1, t.ndim))) if t.ndim > 1 else t.abs()
        for t in tensors
    ]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norm


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    flat = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return flat.view_as(labels)


def _order(plan: StackPlan, epoch: int, n: int) -> Tensor:
    """(K, n) the order of the examples, as recipes have it."""
    of = {
        seed: torch.randperm(n, generator=generator("cpu", seed, "order", epoch))
        for seed in set(plan.seeds)
    }
    return torch.stack([of[seed] for seed in plan.seeds])


def _checked(stack: Stack, inputs: Tensor, labels: Tensor, plan: StackPlan) -> Tensor:
    n, size = len(inputs), stack.size
    if len(plan.seeds) != size:
        raise InputError(f"the plan has {len(plan.seeds)} seeds for {size} networks: one for each")
    if labels.shape not in ((n,), (size, n)):
        raise InputError(
            f"labels are {tuple(labels.shape)} for {n} examples and {size} networks: give "
            f"({n},) or ({size}, {n})"
        )
    return labels.expand(size, n)


def _checked_masks(stack: Stack, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, mask in masks.items():
        if name not in stack.parameters:
            raise unknown("parameter", name, stack.parameters)
        if mask.shape != stack.parameters[name].shape:
            raise InputError(
                f"mask of {name} is {tuple(mask.shape)}, the parameters are "
                f"{tuple(stack.parameters[name].shape)}"
            )
    return {name: mask.to(stack.parameters[name]) for name, mask in masks.items()}
