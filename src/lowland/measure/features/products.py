"""The two product matrices of centred features, summed in float64 from pieces: XᵀX and XXᵀ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.features.matrices import double, largest, resolution, unit_for
from lowland.measure.features.source import PIECE, Features

NARROW = 1024
"""Features this narrow are multiplied as d-by-d in a stream's first pass, before n is known."""

LARGEST = 1e140
"""Magnitudes up to here, in units of `unit`, have squares that can be summed in float64."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """XᵀX or XXᵀ of centred features, in units of `unit`².

    Attributes:
        matrix: XᵀX (d, d) or XXᵀ (n, n).
        energy: Σ‖φ‖² over examples, before centring, in units of `unit`².
        mean_square: ‖mean φ‖² before centring, in units of `unit`².
        unit: 1, except for features whose squares would leave float64.
        resolution: relative size of rounding noise in features of this type.
    """

    matrix: Tensor
    n: int
    dimension: int
    energy: float
    mean_square: float
    unit: float
    resolution: float


class RowSums:
    """One pass over row pieces: sizes, mean, energy, each example's mean and, if wanted, XᵀX.

    XᵀX of features centred per unit is joined from pieces that are each centred first (Chan,
    Golub and LeVeque 1979), so nothing is lost to a large common mean.
    """

    def __init__(self, features: Features, center: str, *, with_product: bool | None) -> None:
        """Read `features` once; `with_product` None means: if they are `NARROW`."""
        self.center = center
        self.n = self.dimension = 0
        self.energy = 0.0
        self.unit = self.resolution = 1.0
        self.row_means: list[Tensor] = []
        self.product: Tensor | None = None
        for rows in features.rows():
            size = largest(rows)
            if self.n == 0:
                self._start(rows, unit_for(size), with_product)
            if size > LARGEST * self.unit:
                raise InputError(
                    "features: squares of later examples leave float64; divide all features by "
                    "their largest"
                )
            self._add(double(rows).div_(self.unit))

    def _start(self, rows: Tensor, unit: float, with_product: bool | None) -> None:
        self.dimension = d = rows.shape[1]
        self.unit = unit
        self.resolution = resolution(rows.dtype)
        self.mean = double(rows[0]).zero_()
        if with_product if with_product is not None else d <= NARROW:
            self.product = self.mean.new_zeros(d, d)

    def _add(self, x: Tensor) -> None:
        """Add a piece (b, d), which is overwritten."""
        self.energy += float(torch.linalg.vector_norm(x)) ** 2
        mean = x.mean(0)
        shift = mean - self.mean
        before, self.n = self.n, self.n + len(x)
        self.mean += shift * (len(x) / self.n)
        if self.center == "example":
            row_means = x.mean(1)
            x -= row_means[:, None]
        if self.product is None:
            if self.center == "example":
                self.row_means.append(row_means)
            return
        if self.center == "unit":
            x -= mean
            self.product.addr_(shift, shift, alpha=before * len(x) / self.n)
        self.product += times_transpose(x.T)

    def result(self) -> Products:
        """What was summed; needs the product."""
        assert self.product is not None
        return Products(
            matrix=self.product,
            n=self.n,
            dimension=self.dimension,
            energy=self.energy,
            mean_square=float(self.mean @ self.mean),
            unit=self.unit,
            resolution=self.resolution,
        )


def column_products(features: Features, sums: RowSums) -> Products:
    """XXᵀ from blocks of at least n columns, each centred before it is multiplied.

    `sums` is a first pass over the same features; its centring is used.
    """
    n, d = sums.n, sums.dimension
    width = max(n, PIECE // n)
    matrix = sums.mean.new_zeros(n, n)
    for start in range(0, d, width):
        x = features.columns(start, min(start + width, d)).div_(sums.unit)
        if sums.center == "unit":
            x -= x.mean(0)
        elif sums.center == "example":
            x -= torch.cat(sums.row_means)[:, None]
        matrix += times_transpose(x)
    return Products(
        matrix=matrix,
        n=n,
        dimension=d,
        energy=sums.energy,
        mean_square=float(sums.mean @ sums.mean),
        unit=sums.unit,
        resolution=sums.resolution,
    )


def times_transpose(a: Tensor) -> Tensor:
    """A·Aᵀ. On the CPU through NumPy, whose symmetric product takes half the multiplications."""
    if a.device.type != "cpu":
        return a @ a.T
    array = a.numpy()
    return torch.from_numpy(array @ array.T)
