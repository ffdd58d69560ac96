"""Models and data that the tests of the instruments share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SmallNet(nn.Module):
    """Two blocks with BatchNorm and dropout; an in-place ReLU follows the first block's output."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        self.block2 = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.relu(self.block1(x))))


def small_net(seed: int = 0) -> SmallNet:
    torch.manual_seed(seed)
    model = SmallNet()
    with torch.no_grad():
        model.block1[1].running_mean.uniform_(-1, 1)
        model.block1[1].running_var.uniform_(0.5, 2)
    return model


def data(n: int = 10, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 4, 4, generator=generator)
    return images, torch.randint(0, 3, (n,), generator=generator)


def batches(n: int = 10, size: int = 4, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    images, labels = data(n, seed)
    return list(zip(images.split(size), labels.split(size), strict=True))


def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


class Quadratic(nn.Module):
    """Outputs w - x for every example x: a squared loss of them is a quadratic in w."""

    def __init__(self, *start: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w - x


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """½ Σ_j a_j (w_j - x_j)², with the curvatures a as targets."""
    return 0.5 * (targets * outputs.square()).sum(1)
