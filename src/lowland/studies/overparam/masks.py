"""Masks that make the networks of a stack sparse from initialisation on: kernels only.

A kernel is a parameter of two or more dimensions; biases stay dense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.train.stack import Stack

Masks = dict[str, Tensor]


def kernels(stack: Stack) -> list[str]:
    """Names of the parameters that are masked: those of two or more dimensions."""
    return [name for name, p in stack.parameters.items() if p.ndim > 2]


def random_masks(stack: Stack, sparsity: float, seeds: Sequence[int]) -> Masks:
    """Random layer-local masks: of every kernel the same share is kept, drawn anew for each.

    Of a kernel with d entries exactly round((1 - s)·d) are kept, each set of so many equally
    likely.

    Args:
        stack: the networks.
        sparsity: s, the share that is zero, in [0, 1).
        seeds: of the draws, one for each network.

    Returns:
        name -> (K, ...) of zeros and ones, for kernels alone.

    Raises:
        InputError: a sparsity out of range, or one that leaves a layer empty.
    """
    _check(sparsity)
    masks = {}
    for name in kernels(stack):
        kernel = stack.parameters[name]
        size = kernel[0].numel()
        kept = round((1 - sparsity) * size)
        _refuse_empty({name: kept}, sparsity)
        mask = torch.zeros(stack.size, size)
        for k, seed in enumerate(seeds):
            draws = generator("cpu", seed, "mask", name)
            mask[k, torch.randperm(size, generator=draws)[:kept]] = 1
        masks[name] = mask.view_as(kernel).to(kernel)
    return masks


def snip_masks(
    stack: Stack, sparsity: float, inputs: Tensor, labels: Tensor, *, shared: bool = True
) -> Masks:
    """SNIP's masks (Lee et al., ICLR 2019): one threshold over all kernels of a network.

    The score of a weight is |g·w|, g the gradient of the mean cross-entropy of a batch at w. Of
    all d kernel entries of a network the round((1 - s)·d) with the largest scores are kept; of
    equal ones the first.

    Args:
        stack: the networks, at initialisation.
        sparsity: s, the share that is zero, in [0, 1).
        inputs: (n, ...) the batch, the same for all if `shared`, else (K, n, ...).
        labels: (n,) or (K, n).
        shared: whether all networks see the same batch.

    Returns:
        name -> (K, ...) of zeros and ones, for kernels alone.

    Cost: one pass over the batch.

    Raises:
        InputError: a sparsity out of range, or one that leaves a layer of some network empty.
    """
    _check(sparsity)
    names = kernels(stack)
    scores = _sensitivity(stack, inputs, labels, shared=shared)
    flat = torch.cat([scores[name].flatten(1) for name in names], dim=1)
    kept = round((1 - sparsity) * flat.shape[1])
    _refuse_empty({"every kernel": kept}, sparsity)
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :kept]
    mask = torch.zeros_like(flat).scatter_(1, order, 1.0)
    sizes = [scores[name][0].numel() for name in names]
    masks = {
        name: part.reshape(scores[name].shape)
        for name, part in zip(names, torch.split(mask, sizes, dim=1), strict=True)
    }
    least = {name: int(m.flatten(1).sum(1).min()) for name, m in masks.items()}
    _refuse_empty(least, sparsity)
    return masks


def _sensitivity(stack: Stack, inputs: Tensor, labels: Tensor, *, shared: bool) -> Masks:
    leaves = {name: p.detach().requires_grad_() for name, p in stack.parameters.items()}
    logits = stack.call(leaves, inputs, shared=shared)
    labels = labels.expand(logits.shape[:2])
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    total = losses.view_as(labels).mean(1).sum()
    found = torch.autograd.grad(total, list(leaves.values()))
    return {
        name: (g * p.detach()).abs()
        for (name, p), g in zip(leaves.items(), found, strict=True)
        if p.ndim > 2
    }


def _check(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be in [0, 1), not {sparsity:g}")


def _refuse_empty(kept: Mapping[str, int], sparsity: float) -> None:
    for name, count in kept.items():
        if count < 1:
            raise InputError(
                f"a mask of {sparsity:.0%} leaves nothing of {name}: use a smaller sparsity or a "
                "wider network"
            )
