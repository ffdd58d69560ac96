"""Gradient-norm regularisation, by double backward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.core.sharding import any_sharded
from lowland.optim.plan import OnePass, Pass
from lowland.optim.sharpness_aware import SharpnessAware

SHARDED = (
    "gradient-norm regularisation differentiates by whole parameters, and these are sharded: use "
    "DDP, or SAM, which has the same gradient to first order"
)


@dataclass(frozen=True)
class NormPenalty:
    """The loss term λ·‖∇L‖ (or λ·‖∇L‖²), over all parameters together; λ is ρ of the groups.

    Attributes:
        squared: the square of the norm, without a factor ½.
    """

    squared: bool = False
    whole_batch: ClassVar[bool] = True
    second_derivatives: ClassVar[bool] = True

    def __call__(self, losses: Tensor, at: Pass, /) -> Tensor:
        if at.radius == 0:
            return losses
        if any_sharded(at.params):
            raise InputError(SHARDED)
        grads = torch.autograd.grad(
            losses.mean(), list(at.params), create_graph=True, allow_unused=True
        )
        square = torch.stack([g.abs().square().sum() for g in grads if g is not None]).sum()
        if self.squared:
            return losses + at.radius * square
        # where the gradient is 0 the norm has none
        zero = square == 0
        norm = torch.where(zero, torch.ones_like(square), square).sqrt()
        return losses + at.radius * torch.where(zero, torch.zeros_like(norm), norm)


class GradientNorm(SharpnessAware):
    """The base optimizer on L + λ·‖∇L‖, as in *SAM leads to low-rank features* (arXiv 2305.16292).

        u = ∇(L + λ·‖∇L‖) = g + λ·H·g/‖g‖

    SAM with ρ = λ has the same u to first order, and exactly on quadratics (the squared norm is
    USAM with ρ = 2λ).

    Args:
        rho: λ, under the name that schedules, groups and intervals know; the first group's.
        squared: λ·‖∇L‖² instead.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``opt.step(loss_fn=..., batch=...)``. Cost: a backward through the backward, about 3
    passes (more with BatchNorm, whose second derivative torch takes in elementwise operations), and
    the memory of both graphs. Needs operations that can be differentiated twice: cuDNN's recurrent
    layers cannot. Fused attention and weight normalization run in elementary operations instead,
    and reentrant checkpoints keep their activations. Under DDP every device regularises by its own
    gradient's norm.
    Confidence: high, the authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.1,
        squared: bool = False,
        **options: Any,
    ) -> None:
        terms = (NormPenalty(squared), *options.pop("loss_terms", ()))
        super().__init__(params, base, rho=rho, plan=OnePass(), loss_terms=terms, **options)
