"""Quadratic losses and small networks that the tests of the loss surface share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bowl(nn.Module):
    """Outputs w - x (b, d): with `bowl_loss` a quadratic of any curvature, least at the mean x."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.w - x


def bowl_loss(H: Tensor):
    """½ (w - x)ᵀH(w - x) for each example."""
    return lambda outputs, targets: 0.5 * ((outputs @ H) * outputs).sum(1)


def curvature(values: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    d = len(values)
    q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    return q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T


def at_origin(d: int, n: int = 1) -> list[tuple[Tensor, Tensor]]:
    """n examples at 0: the loss is ½wᵀHw."""
    return [(torch.zeros(n, d, dtype=torch.float64), torch.zeros(n, d, dtype=torch.float64))]


def bowl_at_rest(d: int) -> Bowl:
    return Bowl(torch.zeros(d, dtype=torch.float64))


class TwoLayers(nn.Module):
    """A ReLU network without biases: scaling one layer up and the other down changes nothing."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Linear(5, 7, bias=False, dtype=torch.float64)
        self.second = nn.Linear(7, 3, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.first.weight *= scale
            self.second.weight /= scale

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def two_layer_batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(sum(sizes), 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (sum(sizes),), generator=generator)
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
