"""Estimates of the Hilbert–Schmidt independence criterion of linear kernels, for `cka`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.measure.features.matrices import (
    double,
    largest,
    resolution,
    times_transpose,
    unit_for,
)
from lowland.measure.features.source import PIECE, InMemory, Streamed

ROUNDING = 1e-12
"""h(X, X) below this part of the numbers that it is a difference of is taken for zero."""


@dataclass(frozen=True, eq=False)
class Side:
    """Centred features, as they are or as their n×n products, whichever is smaller.

    Attributes:
        matrix: X (n, d) if d ≤ n, else XXᵀ (n, n); columns of X have mean zero; in units of the
            largest feature's power of two where squares would leave float64.
        is_gram: which of them.
        squares: ‖x_i‖² of the rows of X.
        dimension: d.
    """

    matrix: Tensor
    is_gram: bool
    squares: Tensor
    dimension: int

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.matrix)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.matrix.device

    @staticmethod
    def of(features: InMemory | Streamed, device: torch.device | None = None) -> Side:
        """From features that may be wide: those are read in blocks of columns."""
        means = _Means(features)
        if means.dimension <= means.n:
            matrix, is_gram = _centred(features, means), False
            squares = torch.linalg.vector_norm(matrix, dim=1).square_()
        else:
            matrix, is_gram = _gram(features, means), True
            squares = matrix.diagonal().clone()
        if float(squares.sum()) <= means.n * (means.resolution * means.magnitude) ** 2:
            matrix, squares = torch.zeros_like(matrix), torch.zeros_like(squares)
        return Side(matrix.to(device), is_gram, squares.to(device), means.dimension)


class _Means:
    """Mean and size of the features, from one pass."""

    def __init__(self, features: InMemory | Streamed) -> None:
        self.n = 0
        energy = 0.0
        for rows in features.rows():
            if self.n == 0:
                self.unit = unit_for(largest(rows))
                self.resolution = resolution(rows.dtype)
                self.mean = double(rows[0]).zero_()
            x = double(rows).div_(self.unit)
            self.n += len(x)
            energy += float(torch.linalg.vector_norm(x)) ** 2
            self.mean += (x.mean(0) - self.mean) * (len(x) / self.n)
        self.dimension = len(self.mean)
        self.magnitude = math.sqrt(energy / self.n)


def _centred(features: InMemory | Streamed, means: _Means) -> Tensor:
    matrix = means.mean.new_empty(means.n, means.dimension)
    filled = 0
    for rows in features.rows():
        part = matrix[filled : filled + len(rows)]
        part.copy_(rows).div_(means.unit).sub_(means.mean)
        filled += len(rows)
    return matrix


def _gram(features: InMemory | Streamed, means: _Means) -> Tensor:
    width = max(means.n, PIECE // means.n)
    matrix = means.mean.new_zeros(means.n, means.n)
    for start in range(0, means.dimension, width):
        stop = min(start + width, means.dimension)
        x = features.columns(start, stop).div_(means.unit)
        matrix += times_transpose(x - means.mean[start:stop])
    return matrix


def product(left: Side, right: Side, unbiased: bool) -> tuple[float, float]:
    """h(X, Y), up to a factor that only n decides, and the size of what it is a difference of.

    Biased: tr(KL) = ‖XᵀY‖² of centred features. Unbiased (Song et al. 2012): with the diagonals of
    K and L set to zero,

        tr(KL) + 1ᵀK1·1ᵀL1/((n - 1)(n - 2)) - 2/(n - 2)·1ᵀKL1, over n(n - 3).

    Rows of centred features sum to zero, so that K1 without the diagonal is -‖x_i‖²: all three
    terms come from ‖XᵀY‖² and the squares p, q of the rows.
    """
    total = _squared_product(left, right)
    if not unbiased:
        return total, total
    n = left.n
    shared = float(left.squares @ right.squares)
    sums = float(left.squares.sum()) * float(right.squares.sum())
    value = total - shared + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * shared
    return value / (n * (n - 3)), (total + shared + sums) / (n * (n - 3))


def _squared_product(left: Side, right: Side) -> float:
    """‖XᵀY‖² = tr(KL), from whichever form each side has."""
    if left.is_gram and right.is_gram:
        return float((left.matrix * right.matrix).sum())
    if left.is_gram:
        return float(((left.matrix @ right.matrix) * right.matrix).sum())
    if right.is_gram:
        return float(((right.matrix @ left.matrix) * left.matrix).sum())
    return float((left.matrix.T @ right.matrix).square().sum())


def alignment_of(shared: float, left: tuple[float, float], right: tuple[float, float]) -> float:
    """h(X, Y)/√(h(X, X)·h(Y, Y)); NaN where a denominator is nothing but rounding."""
    if any(value <= ROUNDING * size for value, size in (left, right)):
        return math.nan
    return shared / (math.sqrt(left[0]) * math.sqrt(right[0]))
