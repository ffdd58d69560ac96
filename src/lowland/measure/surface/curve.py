"""A curve of low loss between two checkpoints: mode connectivity."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.restore import preserved
from lowland.core.seeds import generator
from lowland.measure.evaluation import (
    Batches,
    Loss,
    labelled,
    refuse_batch_statistics,
    refuse_shuffled,
)
from lowland.measure.surface.batch_statistics import batch_norms, learning
from lowland.measure.surface.checkpoints import Checkpoint
from lowland.measure.surface.groups import Chunk
from lowland.measure.surface.objective import Objective
from lowland.measure.surface.path import Ends, WeightPath, record_of

MOMENTUM = 0.9


def bezier_path(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    end: Checkpoint,
    *,
    start: Checkpoint | None = None,
    steps: int = 500,
    lr: float = 0.01,
    points: int = 11,
    parameters: str | None = None,
    batch_norm: str = "reestimated",
    seed: int = 0,
) -> WeightPath:
    """L along φ(t) = (1-t)²·w_0 + 2t(1-t)·θ + t²·w_1, with θ trained so that L is low on the curve.

    Garipov et al. 2018 (arXiv 1802.10026): θ starts at (w_0 + w_1)/2 and descends E_t[L(φ(t))], t
    uniform in (0, 1) and anew for each batch, by SGD with momentum 0.9; the learning rate is `lr`
    for half of the steps, then falls linearly to a hundredth at nine tenths and stays. In training
    BatchNorm uses the statistics of each batch, everything else is in eval mode. Then the curve is
    looked at as `linear_path` looks at the line.

    A barrier that stays may be one of the budget: more steps can only be tried. If the training
    meets a loss or gradient that is not finite it stops, and `steps` says how far it came.

    Args:
        model, loss_fn, end, start, points, parameters, batch_norm: as for `linear_path`.
        batches: pairs (inputs, targets), read again and again in their order.
        steps: of training, a batch each.
        lr: learning rate.
        seed: of t.

    Cost: `steps` forward and backward passes over a batch, then `linear_path`'s; seven copies of
    the weights beside the model's own and the end's.

    Raises:
        InputError: as `linear_path`; steps or lr that make no sense; nothing requires gradients.
    """
    began = time.perf_counter()
    _check(steps, lr)
    refuse_shuffled(batches)
    ends = Ends(model, start, end, parameters, batch_norm, points)
    with preserved(model), torch.inference_mode(False), torch.no_grad():
        model.eval()
        refuse_batch_statistics(model)
        bend = _Bend(ends, {n: torch.lerp(t, ends.last[n], 0.5) for n, t in ends.first.items()})
        with learning(batch_norms(model)):
            done = _train(bend, model, loss_fn, batches, steps, lr, seed)
        seen = ends.survey(loss_fn, batches, bend.at)
    return record_of(
        ends,
        seen,
        kind="bezier",
        seconds=time.perf_counter() - began,
        steps=done,
        seed=seed,
        bend=bend.theta,
    )


def _check(steps: int, lr: float) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps: {steps!r}; give a whole number from 1 on")
    if not (math.isfinite(lr) and lr > 0):
        raise InputError(f"lr: {lr!r}; give a finite number above 0")


@dataclass(frozen=True, eq=False)
class _Bend:
    """θ, and the curve through it."""

    ends: Ends
    theta: dict[str, Tensor]

    def at(self, name: str, t: float) -> Tensor:
        """φ(t) of one parameter."""
        a, b, c = bezier_shares(t)
        if b == 0:  # also where θ is infinite
            return self.ends.line(name, t)
        at = a * self.ends.first[name]
        return at.add_(self.theta[name], alpha=b).add_(self.ends.last[name], alpha=c)


def bezier_shares(t: float) -> tuple[float, float, float]:
    """(1-t)², 2t(1-t), t²: the shares of start, bend and end.

    >>> bezier_shares(0.5)
    (0.25, 0.5, 0.25)
    """
    return (1 - t) ** 2, 2 * t * (1 - t), t**2


def _train(
    bend: _Bend,
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    steps: int,
    lr: float,
    seed: int,
) -> int:
    """Move θ; how many steps were taken."""
    named = bend.ends.moving
    for parameter in named.values():
        parameter.requires_grad_()
    speed = {name: torch.zeros_like(t) for name, t in bend.theta.items()}
    chunks = _again_and_again(model, batches)
    for step in range(steps):
        t = float(torch.rand((), generator=generator("cpu", "curve", seed, step)))
        bend.ends.stand(t, bend.at)
        objective = Objective(model, loss_fn, [next(chunks)])
        point, gradients = objective.gradient(list(named.values()))
        found = {n: g for n, g in zip(named, gradients, strict=True) if g is not None}
        if not (math.isfinite(point.loss) and _finite(found)):
            return step
        rate = lr * rate_share(step / steps)
        for name, gradient in found.items():
            speed[name].mul_(MOMENTUM).add_(gradient, alpha=bezier_shares(t)[1])
            bend.theta[name].sub_(speed[name], alpha=rate)
    return steps


def rate_share(progress: float) -> float:
    """The learning rate's share: 1 for the first half, then linearly to 0.01 at nine tenths.

    >>> rate_share(0.5), round(rate_share(0.7), 3), rate_share(0.95)
    (1.0, 0.505, 0.01)
    """
    if progress <= 0.5:
        return 1.0
    if progress >= 0.9:
        return 0.01
    return 1.0 - 0.99 * (progress - 0.5) / 0.4


def _finite(gradients: Mapping[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(g).all()) for g in gradients.values())


def _again_and_again(model: nn.Module, batches: Batches) -> Iterator[Chunk]:
    while True:
        yield from labelled(model, batches)
