"""A federated round: every client goes its own way from w, the server steps along the mean."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import wide_dtype
from lowland.optim.checks import check_number, check_whole
from lowland.optim.displacement import Move
from lowland.optim.gradient import Gradient, Group, Part, WeightedMean, remembered
from lowland.optim.plan import Evaluate, Evaluation, Program, Update
from lowland.optim.step import Step

KEY = "sam_delta"
WEIGHTS = ("equal", "examples")
CLIENTS = (
    "a round takes the local data of its clients: call step(loss_fn=..., batches=[client_1, "
    "client_2, ...]), or batch= for one client"
)


def check_round(hyper: Mapping[str, Any]) -> None:
    """Say what is wrong with the hyperparameters of a round.

    Raises:
        InputError: one of them is out of range, or it is not clear how many steps clients take.
    """
    check_number("local_lr", hyper["local_lr"], least=0.0)
    if hyper["local_lr"] == 0:
        raise InputError("local_lr is 0, so that no client moves: give a number above 0")
    check_number("local_weight_decay", hyper["local_weight_decay"], least=0.0)
    if (hyper["local_steps"] is None) == (hyper["local_epochs"] is None):
        raise InputError("give either local_steps or local_epochs, and None for the other")
    for name in ("local_steps", "local_epochs", "local_batch_size"):
        if hyper[name] is not None:
            check_whole(name, hyper[name], least=1)
    if hyper["clip"] is not None:
        check_number("clip", hyper["clip"], least=0.0, otherwise="None for no clipping")
        if hyper["clip"] == 0:
            raise InputError(
                f"clip is {hyper['clip']}, so that no client moves: give a number above 0, or None"
            )
    if hyper["beta"] is not None:
        check_number("beta", hyper["beta"], least=0.0)
        if hyper["beta"] > 1:
            raise InputError(f"beta is {hyper['beta']}: give a number in [0, 1]")


@dataclass(frozen=True)
class Round:
    """[w_i, w_i+ε] over and over for each client i; u = −mean (w_i − w) after the last of them.

    The micro-batches of the step are the clients. What is kept of a client is w − w_i, in float32
    at least; w_i is made of it anew for every local step.
    """

    local_lr: float = 0.1
    local_weight_decay: float = 0.0
    local_steps: int | None = None
    local_epochs: int | None = None
    local_batch_size: int | None = None
    clip: float | None = None
    beta: float | None = None
    client_weights: str = "equal"
    seed: int = 0
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    asks: ClassVar[str] = CLIENTS
    per_group: ClassVar[tuple[str, ...]] = ("local_lr", "local_weight_decay")
    defaults: ClassVar[tuple[str, ...]] = (
        *per_group,
        "local_steps",
        "local_epochs",
        "local_batch_size",
        "clip",
        "beta",
    )

    def __post_init__(self) -> None:
        check_round(vars(self))
        check_whole("seed", self.seed, least=0)
        if self.client_weights not in WEIGHTS:
            raise unknown("client_weights", self.client_weights, WEIGHTS)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        return self._round(step, perturb=True)

    def unperturbed(self, step: Step) -> Program:
        """FedAvg's round, with β FedCM's."""
        return self._round(step, perturb=False)

    def _round(self, step: Step, *, perturb: bool) -> Program:
        for group in step.groups:
            check_round(group)
        mean, taken = WeightedMean(), 0.0
        for client, size in enumerate(step.sizes):
            parts = list(self._parts(step, client, size))
            weight = size if self.client_weights == "examples" else 1
            mean.add((yield from self._client(step, parts, perturb)), weight)
            taken += weight * len(parts)
        u = mean.value(final=True)
        if step.hyper["beta"] is not None:
            self._remember(u, taken / mean.weight, step)
        pairs = zip(u.params, u.tensors, strict=True)
        yield Update(u.like([t.to(p.dtype) for p, t in pairs]))

    def _parts(self, step: Step, client: int, size: int) -> Iterator[Any]:
        """The data of each local step of a client: all of it, or part of it."""
        hyper, generator = step.hyper, step.generator(self.seed, client)
        most = min(hyper["local_batch_size"] or size, size)
        in_epoch = math.ceil(size / most)
        order = torch.arange(0)
        for k in range(hyper["local_steps"] or hyper["local_epochs"] * in_epoch):
            if in_epoch == 1:
                yield client
                continue
            if k % in_epoch == 0:
                order = torch.randperm(size, generator=generator)
            first = k % in_epoch * most
            yield client, order[first : first + most]

    def _client(
        self, step: Step, parts: list[Any], perturb: bool
    ) -> Generator[Evaluate | Update, Evaluation, Gradient]:
        """The local steps of one client; gives w − w_i."""
        way = WeightedMean(summed=True)
        for part in parts:
            step.settle(_along(way, step))
            if perturb:
                at = step.perturb((yield Evaluate(part=part, ascent=True)))
                found = yield Evaluate(at=at, part=part)
            else:
                found = yield Evaluate(part=part)
            way.add(self._further(found.gradient, step), 1.0)
            del found
        return way.value(final=True)

    @staticmethod
    def _further(g: Gradient, step: Step) -> Gradient:
        """What a local step adds to w − w_i, from g̃; the weights are w_i."""
        out = g.like([t.to(wide_dtype(t.dtype)) for t in g.tensors])
        norm, clip, beta = step.norm(out), step.hyper["clip"], step.hyper["beta"]
        step.look(norm)
        if clip is not None:
            least = torch.finfo(norm.dtype).tiny
            torch._foreach_mul_(out.tensors, (clip / norm.clamp_min(least)).clamp_max(1.0))
        for part in out:
            if beta is not None:
                _mix(part, beta, step)
            if decay := part.group["local_weight_decay"]:
                torch._foreach_add_(part.tensors, part.weights, alpha=decay * _sign(part.group))
            torch._foreach_mul_(part.tensors, part.group["local_lr"])
        return out

    @staticmethod
    def _remember(u: Gradient, steps: float, step: Step) -> None:
        """Δ, the mean direction of the local steps of this round."""
        new = []
        for part in u:
            scale = steps * part.group["local_lr"]
            new.append(Part(part.group, part.params, [t / scale for t in part.tensors]))
        moved = set(u.params)
        for p in step.params:
            if p not in moved and (old := remembered(step.state, p, KEY)) is not None:
                new.append(Part(step.hyper, [p], [torch.zeros_like(old)]))
        step.stage(KEY, Gradient(new))


def _sign(group: Group) -> float:
    """−1 where the objective is maximized: gradients are of it, and clients climb."""
    return -1.0 if group.get("maximize") else 1.0


def _along(way: WeightedMean, step: Step) -> Move:
    """From w to w_i; nothing before the first local step."""
    if not way.weight:
        return []
    parts = [(part, Gradient([part])) for part in way.value()]
    return [s for part, one in parts for s in step.displace(one, -_sign(part.group))]


def _mix(part: Part, beta: float, step: Step) -> None:
    """β·g̃ + (1−β)·Δ, in place; Δ = 0 where there is none."""
    torch._foreach_mul_(part.tensors, beta)
    held = [remembered(step.state, p, KEY) for p in part.params]
    known = [(t, d) for t, d in zip(part.tensors, held, strict=True) if d is not None]
    if known:
        torch._foreach_add_([t for t, _ in known], [d for _, d in known], alpha=1 - beta)
