"""What is read off two-layer networks while they train: many of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lowland.studies.two_layer.activations import Activation
from lowland.studies.two_layer.draws import Network
from lowland.studies.two_layer.training import Batch

VARIANCE = 0.9999

ROUNDING = 1e-6
"""Values of ReLUs below this share of the largest one count as zero; published: below none."""

Convention = Literal["unit", "published"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


@dataclass(frozen=True)
class Reading:
    """Every run at one step.

    Attributes:
        step: steps taken.
        train_loss: (runs,) mean (f - y)² over the 20 training examples.
        test_loss: (runs,) over the 1000 test examples.
        feature_rank: (runs,) components for 99.99 % of σ(Wx + b) on the training examples.
        active_units: (runs,).
        weight_norm: (runs,).
    """

    step: int
    train_loss: Tensor
    test_loss: Tensor
    feature_rank: Tensor
    active_units: Tensor
    weight_norm: Tensor


def read(
    step: int, network: Network, data: Batch, activation: Activation, convention: Convention
) -> Reading:
    """Losses, ranks, active units and norms of all runs."""
    hidden = network.hidden(data.x, activation)
    return Reading(
        step=step,
        train_loss=_loss(network, data.x, data.y, activation),
        test_loss=_loss(network, data.test_x, data.test_y, activation),
        feature_rank=ranks(hidden, convention),
        active_units=activation.active(hidden, rounding=rounding(convention)).sum(-1),
        weight_norm=network.norm(),
    )


def rounding(convention: Convention) -> float:
    """The share of the largest value from which a ReLU counts as active."""
    return ROUNDING if convention == "unit" else 0.0


def _loss(network: Network, x: Tensor, y: Tensor, activation: Activation) -> Tensor:
    return (network.outputs(x, activation) - y).square().mean(1)


def ranks(hidden: Tensor, convention: Convention) -> Tensor:
    """(runs,) ranks of features (runs, examples, units) at 99.99 %, as `feature_rank` has them.

    "unit": principal components, the smallest number that holds the share. "published": no
    centring, and one more than the number of partial sums up to the share. Features that are zero
    have rank 0 under both (the published way says one more than there are examples); features
    that are not finite have rank -1.

    Cost: a Gram matrix (examples, examples) and its eigenvalues for every run, float64.
    """
    finite = torch.isfinite(hidden).all(-1).all(-1)
    matrix = torch.where(finite[:, None, None], hidden, 0.0).double()
    largest = matrix.abs().amax((1, 2))
    if convention == "unit":
        matrix = matrix - matrix.mean(1, keepdim=True)
    energies = torch.linalg.eigvalsh(matrix @ matrix.mT).flip(-1).clamp_min(0)
    total = energies.sum(-1, keepdim=True)
    partial = energies.cumsum(-1)
    n, units = hidden.shape[1:]
    if convention == "published":
        found = (partial <= VARIANCE * total).sum(-1) + 1
    else:
        # shares that are equal up to rounding count as equal
        found = (partial < VARIANCE * total * (1 - 1e-12)).sum(-1) + 1
    # the rounding of float32 features that are all the same
    nothing = total[:, 0] <= n * units * (largest * torch.finfo(hidden.dtype).eps) ** 2
    found = torch.where(nothing, 0, found)
    return torch.where(finite, found, -1)
