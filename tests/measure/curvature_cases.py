"""Dense matrices from the definitions, and matrices whose spectrum is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from measure_cases import per_example
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from lowland.measure.curvature.krylov import Symmetric

Data = list[tuple[Tensor, Tensor]]


class TinyNet(nn.Module):
    """65 weights: convolution, BatchNorm, an in-place ReLU on its output, dropout, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2))
        self.relu = nn.ReLU(inplace=True)
        self.block2 = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.relu(self.block1(x))))


def tiny_net(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    model = TinyNet()
    with torch.no_grad():
        model.block1[1].running_mean.uniform_(-1, 1)
        model.block1[1].running_var.uniform_(0.5, 2)
    return model


def double_net() -> TinyNet:
    return tiny_net().double()


def tiny_batches(n: int = 10, size: int = 4) -> Data:
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, 3, 3, generator=draws)
    labels = torch.randint(0, 3, (n,), generator=draws)
    return list(zip(images.split(size), labels.split(size), strict=True))


def double_batches(n: int = 10, size: int = 4) -> Data:
    return [(x.double(), y) for x, y in tiny_batches(n, size)]


def flat(model: nn.Module, names: Sequence[str] | None = None) -> tuple[list[str], Tensor]:
    chosen = {n: p for n, p in model.named_parameters() if names is None or n in names}
    return list(chosen), torch.cat([p.detach().flatten() for p in chosen.values()])


def parts_of(model: nn.Module, names: Sequence[str], vector: Tensor) -> dict[str, Tensor]:
    found, place = {}, 0
    for name in names:
        p = model.get_parameter(name)
        found[name] = vector[place : place + p.numel()].view(p.shape)
        place += p.numel()
    return found


def dense_hessian(
    model: nn.Module, data: Data, loss: Any = per_example, names: Sequence[str] | None = None
) -> Tensor:
    """∇² of (1/n) Σ_i ℓ_i, in one piece, by torch.func."""
    model.eval()
    names, start = flat(model, names)

    def mean(vector: Tensor) -> Tensor:
        parts = parts_of(model, names, vector)
        total = sum(loss(functional_call(model, parts, (x,)), y).sum() for x, y in data)
        return total / sum(len(y) for _, y in data)

    return torch.func.hessian(mean)(start).detach()


def dense_ggn(model: nn.Module, data: Data, loss: Any = per_example) -> Tensor:
    """(1/n) Σ_i J_iᵀ(∇²ℓ_i)J_i, example by example."""
    model.eval()
    names, start = flat(model)
    total = torch.zeros(len(start), len(start), dtype=start.dtype)
    for x, y in data:
        for i in range(len(y)):

            def outputs(vector: Tensor, i: int = i, x: Tensor = x) -> Tensor:
                return functional_call(model, parts_of(model, names, vector), (x[i : i + 1],))[0]

            def of_outputs(z: Tensor, i: int = i, y: Tensor = y) -> Tensor:
                return loss(z[None], y[i : i + 1]).sum()

            J = jacrev(outputs)(start)
            middle = torch.func.hessian(of_outputs)(outputs(start))
            total += J.T @ middle @ J
    return total / sum(len(y) for _, y in data)


def example_hessians(model: nn.Module, data: Data, loss: Any = per_example) -> list[Tensor]:
    return [
        dense_hessian(model, [(x[i : i + 1], y[i : i + 1])], loss)
        for x, y in data
        for i in range(len(y))
    ]


def rotated(values: Sequence[float], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """A dense symmetric matrix with these eigenvalues."""
    spectrum = torch.tensor(values, dtype=torch.float64)
    draws = torch.Generator().manual_seed(seed)
    square = torch.randn(len(values), len(values), dtype=torch.float64, generator=draws)
    basis = torch.linalg.qr(square).Q
    return ((basis * spectrum) @ basis.T).to(dtype)


def symmetric(matrix: Tensor) -> Symmetric:
    return Symmetric(lambda rows: rows @ matrix, len(matrix), matrix.dtype, matrix.device)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest error, in the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())
