"""What is read off two-layer networks while they train: many of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lowland.studies.two_layer.activations import Activation, with_ones
from lowland.studies.two_layer.draws import Network
from lowland.studies.two_layer.training import Batch

VARIANCE = 0.9999

CORRELATION = 0.999
"""Units correlated by more, in magnitude, are one."""

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
        distinct_units: (runs,) active units left when duplicates go.
        weight_norm: (runs,).
        pull: (runs,) mean over examples and units of 2|r|·σ(h)·‖x̃‖²/‖∇f‖: how far SAM's own part
            of a step pushes pre-activations down, per step size and ρ (see `proposition`).
        unit_norm: (runs,) mean over units of ‖w_j‖, biases left out.
        inactive_norm: (runs,) the same over units that are not active; 0 where all are.
    """

    step: int
    train_loss: Tensor
    test_loss: Tensor
    feature_rank: Tensor
    active_units: Tensor
    distinct_units: Tensor
    weight_norm: Tensor
    pull: Tensor
    unit_norm: Tensor
    inactive_norm: Tensor


def read(
    step: int, network: Network, data: Batch, activation: Activation, convention: Convention
) -> Reading:
    """Losses, ranks, active units and norms of all runs."""
    hidden, slope = activation.both(with_ones(data.x) @ network.weight)
    r = (hidden @ network.outer[..., None])[..., 0] + network.offset[:, None] - data.y
    active = activation.active(hidden, rounding=rounding(convention))
    norms = torch.linalg.vector_norm(network.weight[:, :-1], dim=1)
    return Reading(
        step=step,
        train_loss=r.square().mean(1),
        test_loss=_loss(network, data.test_x, data.test_y, activation),
        feature_rank=ranks(hidden, convention),
        active_units=active.sum(-1),
        distinct_units=distinct(hidden, active),
        weight_norm=network.norm(),
        pull=_pull(network, data, hidden, slope, r),
        unit_norm=norms.mean(-1),
        inactive_norm=(norms * ~active).sum(-1) / (~active).sum(-1).clamp_min(1),
    )


def rounding(convention: Convention) -> float:
    """The share of the largest value from which a ReLU counts as active."""
    return ROUNDING if convention == "unit" else 0.0


def _loss(network: Network, x: Tensor, y: Tensor, activation: Activation) -> Tensor:
    return (network.outputs(x, activation) - y).square().mean(1)


def _pull(network: Network, data: Batch, hidden: Tensor, slope: Tensor, r: Tensor) -> Tensor:
    square = data.x.square().sum(-1) + 1  # ‖x̃‖² with the 1 of the bias
    along = (network.outer[:, None] * slope).square().sum(-1)
    length = (hidden.square().sum(-1) + square * along + 1).sqrt()
    return (2 * r.abs() * square / length * hidden.mean(-1)).mean(-1)


def distinct(hidden: Tensor, active: Tensor) -> Tensor:
    """(runs,) units of features (runs, examples, units) that repeat none before them.

    As `distinct_units` has them with correlation 0.999 among the active units (runs, units), a
    unit with one value on all examples counting as distinct. 0 for features that are not finite.

    Cost: the correlations (runs, units, units) in float64, and a pass over the units.
    """
    finite = torch.isfinite(hidden).all(-1).all(-1)
    values = torch.where(finite[:, None, None], hidden, 0.0).double()
    centred = values - values.mean(1, keepdim=True)
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    rounded = values.abs().amax(1, keepdim=True) * values.shape[1] * torch.finfo(hidden.dtype).eps
    unit = torch.where(norms > rounded, centred / norms, 0.0)
    alike = (unit.mT @ unit).abs() > CORRELATION
    kept = active & finite[:, None]
    for j in range(1, kept.shape[1]):
        repeats = (kept[:, :j] & alike[:, j, :j]).any(1)
        kept[:, j] &= ~repeats
    return kept.sum(1)


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
