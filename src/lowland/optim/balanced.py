"""Balanced SAM: rare labels weigh more, in both passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Pass
from lowland.optim.sharpness_aware import SharpnessAware


def label_weights(labels: Tensor, mean_one: bool = False) -> Tensor:
    """ω of each bin of integer labels: 1/√(how many labels fall into it), 0 for empty bins.

    Args:
        labels: labels of the training set, rounded to whole numbers that are not negative.
        mean_one: scale so that the mean over the examples is 1.

    >>> label_weights(torch.tensor([0, 0, 0, 0, 2]))
    tensor([0.5000, 0.0000, 1.0000])
    """
    if bool((labels.round() < 0).any()):
        raise InputError("labels are negative: shift them so that bins start at 0")
    bins = labels.round().long()
    counts = torch.bincount(bins)
    weights = torch.where(counts > 0, counts.clamp_min(1).float().rsqrt(), torch.zeros(()))
    return weights / weights[bins].mean() if mean_one else weights


@dataclass(frozen=True)
class LabelWeights:
    """The loss term ω_y·ℓ: losses of examples times the weights of their labels' bins.

    Attributes:
        weights: ω by bin.
        target: where the labels are in the batch: an index or a key.
    """

    weights: Tensor
    target: int | str = 1

    def __call__(self, losses: Tensor, at: Pass, /) -> Tensor:
        labels = at.batch[self.target]
        if losses.ndim != 1 or losses.numel() != labels.numel():
            raise InputError(
                "Balanced SAM weighs every example, and loss_fn returns their mean: let it return "
                "the losses, shape (n,) (reduction='none')"
            )
        bins = labels.reshape(-1).round().long().clamp(0, self.weights.numel() - 1)
        return losses * self.weights.to(losses.device, losses.dtype)[bins]


class BalancedSAM(SharpnessAware):
    """Liu et al. (ICCV 2025): SAM for imbalanced regression. Not Bayesian SAM.

        L = mean_i ω_{y_i}·ℓ_i,   ω = 1/√(number of training labels in the same integer bin)

    in both passes; in the paper ℓ is |f(x) − y|.

    Args:
        weights: ω by bin; see `label_weights`. Scaling all of them leaves ε as it is and scales u.
        target: where the labels are in the batch: an index or a key.
        rho: ρ; 0.2 in the paper.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``opt.step(loss_fn=per_example_loss, batch=(x, y))``. Cost: 2 passes; one copy of the
    parameters. Confidence: high, the authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        weights: Tensor | None = None,
        target: int | str = 1,
        rho: float = 0.2,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        if weights is None:
            raise InputError("weights= is missing: give label_weights(labels of the training set)")
        terms = (LabelWeights(weights, target), *options.pop("loss_terms", ()))
        rule = Perturbation(across=perturbation)
        super().__init__(params, base, rho=rho, perturbation=rule, loss_terms=terms, **options)
