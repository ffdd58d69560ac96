"""Last-layer SAM taken apart: the four arms (λ, v) ∈ {λ, λ̃} × {v, ṽ}.

With two labels y = ±1, logit f and head v, the gradient of the mean loss by the backbone is

    ∇L = -mean_i λ_i·y_i·J_iᵀ·v,   λ_i = σ(-y_i·f_i),

with J_i the Jacobian of the features. Last-layer SAM evaluates it at a perturbed head ṽ = v + ε,
the phantom, on the same features: λ̃ and ṽ take the places of λ and v. Each in turn gives

    (λ, v)   plain SGD
    (λ̃, v)   importance weighting alone: how much each example counts
    (λ, ṽ)   learning-rate scaling alone: how fast each feature moves
    (λ̃, ṽ)   last-layer SAM

With more classes the residual p - onehot(y) takes the place of -λ·y. The head itself descends
mean_i r'_i h_iᵀ with the residuals r' of the arm, which is its own gradient in the corners
(arXiv 2405.20439; the four arms are derived from its text).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

GUARD = 1e-12


@dataclass(frozen=True)
class Arm:
    """Where an arm takes its two parts from.

    Attributes:
        weights: whether residuals (importance weights) are those of the phantom.
        head: whether the head that carries them to the backbone is the phantom.
    """

    weights: bool
    head: bool


SGD, IMPORTANCE, RATE, LSAM = "sgd", "importance", "rate", "lsam"

ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        SGD: Arm(weights=False, head=False),
        IMPORTANCE: Arm(weights=True, head=False),
        RATE: Arm(weights=False, head=True),
        LSAM: Arm(weights=True, head=True),
    }
)
"""The four arms by name."""


@dataclass(frozen=True)
class Head:
    """A linear head, z = W·h + b.

    Attributes:
        weight: (..., c, d).
        bias: (..., c).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (..., b, c) of features (..., b, d)."""
        return features @ self.weight.mT + self.bias[..., None, :]


@dataclass(frozen=True)
class Directions:
    """The gradient of one arm.

    Attributes:
        features: (..., b, d), what goes back into the backbone: r'·W'/b.
        head: by the head's own parameters.
    """

    features: Tensor
    head: Head


def residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """r = softmax(z) - onehot(y), (..., b, c), of logits (..., b, c) and labels (..., b)."""
    p = torch.softmax(logits, -1)
    return p.scatter_add(-1, labels[..., None], -torch.ones_like(p[..., :1]))


def importance(logits: Tensor, labels: Tensor) -> Tensor:
    """λ = 1 - p(y), (..., b): how much each example counts. With two classes σ(-y·f).

    >>> importance(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([0.5000])
    """
    others = torch.softmax(logits, -1).scatter(-1, labels[..., None], 0.0)
    return others.sum(-1)


def head_gradient(residual: Tensor, features: Tensor) -> Head:
    """The gradient of the mean loss by the head: mean_i r_i·h_iᵀ, and mean_i r_i."""
    return Head(residual.mT @ features / features.shape[-2], residual.mean(-2))


def phantom(features: Tensor, head: Head, labels: Tensor, rho: Tensor | float) -> Head:
    """The perturbed head ṽ = v + ρ·g/(‖g‖ + 1e-12), g its own gradient, weight and bias together.

    Args:
        features: (..., b, d) of a batch.
        head: the head.
        labels: (..., b).
        rho: radius, one number or (...).
    """
    g = head_gradient(residuals(head(features), labels), features)
    norm = (g.weight.square().sum((-1, -2)) + g.bias.square().sum(-1)).sqrt()
    scale = torch.as_tensor(rho, dtype=norm.dtype, device=norm.device) / (norm + GUARD)
    return Head(
        head.weight + scale[..., None, None] * g.weight, head.bias + scale[..., None] * g.bias
    )


def directions(
    features: Tensor,
    head: Head,
    labels: Tensor,
    rho: Tensor | float,
    weights: Tensor | bool,
    carried: Tensor | bool,
) -> Directions:
    """What an arm descends on one batch, for many networks at once.

    Args:
        features: (..., b, d) of the batch.
        head: (..., c, d) and (..., c).
        labels: (..., b).
        rho: radius of the phantom, one number or (...).
        weights: `Arm.weights`, one for all or (...) bool.
        carried: `Arm.head`, likewise.

    Cost: three products with the head, none with the backbone: give `Directions.features` to
    ``torch.autograd.grad(features, backbone, grad_outputs=...)``.

    >>> h, y = torch.eye(2), torch.tensor([0, 1])
    >>> v = Head(torch.zeros(2, 2), torch.zeros(2))
    >>> directions(h, v, y, 0.1, False, False).features.abs().max()  # a head of zeros carries none
    tensor(0.)
    """
    there = phantom(features, head, labels, rho)
    r_here, r_there = (residuals(of(features), labels) for of in (head, there))
    residual = torch.where(_flag(weights, r_here), r_there, r_here)
    weight = torch.where(_flag(carried, head.weight), there.weight, head.weight)
    return Directions(
        features=residual @ weight / features.shape[-2], head=head_gradient(residual, features)
    )


def _flag(value: Tensor | bool, like: Tensor) -> Tensor:
    flag = torch.as_tensor(value, device=like.device)
    return flag[..., None, None]
