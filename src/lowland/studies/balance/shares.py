"""How much of the gradient goes into each feature.

On examples in which two features F, each 0 or 1, say nothing of each other (every joint value
equally often), the main effect of F on the logit difference d = z_1 - z_0 is

    m_F = ½·(mean of d where F = 1 - mean of d where F = 0).

A step w ← w - η·u changes it by η·r_F to first order, with r_F = -⟨∇m_F, u⟩. The share of the
hard feature in the direction u is r_hard / (|r_hard| + |r_easy|): how much of what the step does
to the logits, by main effects, is to strengthen that feature; below 0 where it weakens it. u is the
gradient of the train loss that is descended: at w for plain training, at w + ε for SAM.

What it does not see: interactions of the features, features that the head does not use, momentum,
and terms of second order. It needs two labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lowland.studies.balance.examples import EASY, HARD, Part
from lowland.train.stack import Stack

GUARD = 1e-12
ROWS = 16_384

Gradient = dict[str, Tensor]


@dataclass(frozen=True)
class Shares:
    """Shares of the hard feature and effects of both, for K networks.

    Attributes:
        effects: feature -> (K,) m_F.
        here: (K,) share in the gradient at w.
        descended: (K,) share in the gradient at w + ε; the same where ρ = 0.
    """

    effects: Mapping[str, Tensor]
    here: Tensor
    descended: Tensor


def shares(stack: Stack, train: Part, probing: Part, rho: Tensor) -> Shares:
    """Shares of all networks of a stack.

    Args:
        stack: networks with two outputs.
        train: the loss whose gradient is taken apart is that of these examples.
        probing: every joint value of the features equally often.
        rho: (K,) radius of each; ε = ρ·g/‖g‖ on all parameters.

    Cost: two passes over `train` and two over `probing`, with gradients.
    """
    g = _gradient(stack, stack.parameters, train)
    norm = inner(g, g).sqrt()
    scale = rho / (norm + GUARD)
    there = {n: p + _wide(scale, p) * g[n] for n, p in stack.parameters.items()}
    u = _gradient(stack, there, train)
    effects, slopes = {}, {}
    for feature in (HARD, EASY):
        effects[feature], slopes[feature] = _effect(stack, probing, probing.notes[feature])
    return Shares(effects, *(_share(slopes, direction) for direction in (g, u)))


def _share(slopes: Mapping[str, Gradient], direction: Gradient) -> Tensor:
    # the sign of a descent step: the effect grows by -⟨∇m, u⟩
    rates = {feature: -inner(slope, direction) for feature, slope in slopes.items()}
    return rates[HARD] / (rates[HARD].abs() + rates[EASY].abs())


def inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """(K,) inner product over all parameters of each network."""
    return torch.stack([_rows(first[n] * second[n]).sum(1) for n in first]).sum(0)


def _effect(stack: Stack, part: Part, values: Tensor) -> tuple[Tensor, Gradient]:
    """m_F and its gradient by the parameters."""
    sign = torch.where(values == 1, 1.0, -1.0)
    weight = sign / (2 * torch.stack([(values == v).sum() for v in (0, 1)])[values])
    leaves, total = _leaves(stack.parameters), torch.zeros(stack.size, device=weight.device)
    sums: Gradient | None = None
    for rows in _pieces(stack, len(part)):
        logits = stack.call(leaves, part.x[rows], shared=True)
        effect = ((logits[..., 1] - logits[..., 0]) * weight[rows]).sum(1)
        sums = _added(sums, torch.autograd.grad(effect.sum(), list(leaves.values())), leaves)
        total = total + effect.detach()
    assert sums is not None  # a part has examples
    return total, sums


def _gradient(stack: Stack, parameters: Mapping[str, Tensor], part: Part) -> Gradient:
    """The gradient of the mean loss of every network."""
    leaves, sums = _leaves(parameters), None
    for rows in _pieces(stack, len(part)):
        logits = stack.call(leaves, part.x[rows], shared=True)
        labels = part.y[rows].repeat(stack.size)
        loss = cross_entropy(logits.flatten(0, 1), labels, reduction="sum") / len(part)
        sums = _added(sums, torch.autograd.grad(loss, list(leaves.values())), leaves)
    assert sums is not None  # a part has examples
    return sums


def _leaves(parameters: Mapping[str, Tensor]) -> Gradient:
    return {name: p.detach().requires_grad_() for name, p in parameters.items()}


def _added(
    sums: Gradient | None, more: tuple[Tensor, ...], names: Mapping[str, Tensor]
) -> Gradient:
    found = dict(zip(names, more, strict=True))
    return found if sums is None else {name: sums[name] + g for name, g in found.items()}


def _pieces(stack: Stack, n: int) -> list[slice]:
    """Rows that are looked at together."""
    each = max(ROWS // stack.size, 1)
    return [slice(start, start + each) for start in range(0, n, each)]


def _rows(tensor: Tensor) -> Tensor:
    """(K, everything else)."""
    return tensor.reshape(len(tensor), -1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
