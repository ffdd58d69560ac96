"""The Hessian of the loss in the network's outputs: the middle of the Gauss-Newton matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowland.core.errors import InputError
from lowland.measure.evaluation import Loss, losses

OutputMap = Callable[[Tensor], Tensor]
"""u -> H u, for u in the shape of the outputs."""


def tensor_outputs(outputs: Any) -> Tensor:
    """The outputs, if they are one tensor.

    Raises:
        InputError: they are anything else.
    """
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"matrix='ggn': the model returns {type(outputs).__name__}; wrap it so that it returns "
            "one tensor, or use matrix='hessian'"
        )
    return outputs


def output_hessian(
    loss_fn: Loss, outputs: Tensor, targets: Tensor, *, known: bool = True
) -> OutputMap:
    """u -> ∇²_z ℓ(z, y)·u at z = `outputs`, with ℓ the mean loss of the batch.

    For cross-entropy on class labels it is (p⊙u - p·(p·u))/m with p = softmax(z) over m positions,
    label smoothing included, which does not change it. For any other loss it is taken through the
    loss alone by differentiating twice.

    Args:
        loss_fn: as everywhere: losses (b,) or their mean.
        outputs: z, detached.
        targets: y.
        known: use the closed form where the loss has one.
    """
    if known and is_cross_entropy(loss_fn, targets):
        return _cross_entropy(outputs, targets.numel())
    z = outputs.detach().requires_grad_()
    loss = losses(loss_fn, z, targets).mean()
    if not loss.requires_grad:
        return torch.zeros_like
    (slope,) = torch.autograd.grad(loss, z, create_graph=True)
    if not slope.requires_grad:
        return torch.zeros_like

    def product(u: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(slope, z, u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if found is None else found

    return product


def is_cross_entropy(loss_fn: Loss, targets: Tensor) -> bool:
    """Whether this is torch's own cross-entropy, unweighted, on class labels that all count."""
    if loss_fn is functional.cross_entropy:
        ignored = -100
    elif type(loss_fn) is nn.CrossEntropyLoss and loss_fn.weight is None:
        ignored = loss_fn.ignore_index
    else:
        return False
    labels = not (targets.is_floating_point() or targets.is_complex())
    return labels and not bool((targets == ignored).any())


def _cross_entropy(outputs: Tensor, positions: int) -> OutputMap:
    axis = 1 if outputs.ndim > 1 else 0
    p = outputs.detach().softmax(axis)
    scaled = p / positions

    def product(u: Tensor) -> Tensor:
        return scaled * (u - (p * u).sum(axis, keepdim=True))

    return product
