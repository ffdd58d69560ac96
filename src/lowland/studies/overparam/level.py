"""Networks of a stack at one train loss, whenever each of them comes down to it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lowland.studies.overparam.curvature import ROWS, largest_eigenvalues
from lowland.train.stack import Stack

Weights = dict[str, Tensor]


class Crossing:
    """The weights of every network before and after its train loss is at a level or below.

    Args:
        stack: the networks, before they are trained.
        level: the train loss.
    """

    def __init__(self, stack: Stack, level: float) -> None:
        device = next(iter(stack.parameters.values())).device
        self.level = level
        self.above: Weights = {name: p.clone() for name, p in stack.parameters.items()}
        self.below: Weights = {name: p.clone() for name, p in stack.parameters.items()}
        self._times = torch.full((2, stack.size), -1, device=device)
        self._losses = torch.full((2, stack.size), torch.nan, device=device)
        self._open = torch.ones(stack.size, dtype=torch.bool, device=device)

    @torch.no_grad()
    def look(self, step: int, stack: Stack, inputs: Tensor, labels: Tensor) -> None:
        """Look at the networks that are above the level so far.

        Args:
            step: finished updates.
            stack: the networks now.
            inputs: (n, ...) all training examples.
            labels: (K, n).
        """
        own = self._open.nonzero()[:, 0]
        if not len(own):
            return
        now = {name: p[own] for name, p in stack.parameters.items()}
        rows = max(1, ROWS // len(own))
        logits = [stack.call(now, part, shared=True) for part in torch.split(inputs, rows)]
        loss = losses(torch.cat(logits, dim=1), labels[own])
        down = loss <= self.level
        for side, there, chosen in ((0, self.above, ~down), (1, self.below, down)):
            members = own[chosen]
            for name, p in now.items():
                there[name][members] = p[chosen]
            self._times[side, members] = step
            self._losses[side, members] = loss[chosen]
        self._open[own[down]] = False

    def sharpness(
        self, stack: Stack, inputs: Tensor, labels: Tensor, products: int
    ) -> dict[int, tuple[float, float]]:
        """When, in updates, and with which λ_max a network comes down to the level.

        Both are interpolated between the last look above it and the first at or below, linearly in
        ln of the loss, λ_max as ln λ_max. A network that starts there is taken as it starts;
        networks that never come down to it are left out.

        Args:
            stack: the networks, whatever their weights.
            inputs: (n, ...) the examples.
            labels: (K, n).
            products: of `largest_eigenvalues`.
        """
        own = (~self._open).nonzero()[:, 0]
        if not len(own):
            return {}
        above, below = (
            largest_eigenvalues(
                stack,
                inputs,
                labels[own],
                products=products,
                parameters={name: p[own] for name, p in there.items()},
            )
            for there in (self.above, self.below)
        )
        return {
            k: self._between(k, float(first), float(second))
            for k, first, second in zip(own.tolist(), above, below, strict=True)
        }

    def _between(self, k: int, first: float, second: float) -> tuple[float, float]:
        (before, after), (high, low) = self._times[:, k].tolist(), self._losses[:, k].tolist()
        if before < 0:
            return float(after), second
        share = math.log(high / self.level) / math.log(high / low)
        time = before + share * (after - before)
        if not (first > 0 and second > 0):
            return time, math.nan
        return time, math.exp(math.log(first) + share * math.log(second / first))


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(K,) mean cross-entropy of logits (K, n, classes) and labels (K, n)."""
    flat = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return flat.view_as(labels).mean(1)
