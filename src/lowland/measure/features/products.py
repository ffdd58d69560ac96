"""The two product matrices of centred features, summed in float64 from pieces: XᵀX and XXᵀ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.features.gram import Half, Whole, empty_gram
from lowland.measure.features.matrices import double, largest, unit_for
from lowland.measure.features.source import PIECE, Features, InMemory, Rows

NARROW = 1024
"""Features this narrow are multiplied as d-by-d in a stream's first pass, before n is known."""

LARGEST = 1e140
"""Magnitudes up to here, in units of `unit`, have squares that can be summed in float64."""

THIN = 256
"""Fewest columns of features in memory that are multiplied at a time."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """XᵀX or XXᵀ of centred features, in units of `unit`².

    Attributes:
        gram: XᵀX (d, d) or XXᵀ (n, n).
        energy: Σ‖φ‖² over examples, before centring, in units of `unit`².
        mean_square: ‖mean φ‖² before centring, in units of `unit`².
        unit: 1, except for features whose squares would leave float64.
        dtype: type of the features.
    """

    gram: Whole | Half
    n: int
    dimension: int
    energy: float
    mean_square: float
    unit: float
    dtype: torch.dtype


class RowSums:
    """One pass over row pieces: sizes, mean, energy, each example's mean and, if wanted, XᵀX.

    XᵀX of features centred per unit is joined from pieces that are each centred first (Chan,
    Golub and LeVeque 1979), so nothing is lost to a large common mean. Sums stay on the device
    until they are asked for.
    """

    def __init__(
        self,
        features: Rows,
        center: str,
        *,
        with_product: bool | None,
        halved: bool | None = None,
    ) -> None:
        """Read `features` once; `with_product` None means: if they are `NARROW`.

        `halved`: see `empty_gram`.
        """
        self.center = center
        self.n = self.dimension = 0
        self.unit = 1.0
        self.row_means: list[Tensor] = []
        self.gram: Whole | Half | None = None
        self._with_product, self._halved = with_product, halved
        for rows in features.rows():
            size = largest(rows)
            if self.n == 0:
                self._start(rows, unit_for(size))
            if size > LARGEST * self.unit:
                raise InputError(
                    "features: squares of later examples leave float64; divide all features by "
                    "their largest"
                )
            self._add(in_units(double(rows), self.unit))

    def _start(self, rows: Tensor, unit: float) -> None:
        self.dimension = d = rows.shape[1]
        self.unit = unit
        self.dtype = rows.dtype
        self.mean = double(rows[0]).zero_()
        self._energy = self.mean.new_zeros(())
        if self._with_product if self._with_product is not None else d <= NARROW:
            self.gram = empty_gram(d, self.mean, halved=self._halved)

    def _add(self, x: Tensor) -> None:
        """Add a piece (b, d), which is overwritten."""
        self._energy += torch.linalg.vector_norm(x) ** 2
        mean = x.mean(0)
        shift = mean - self.mean
        before, self.n = self.n, self.n + len(x)
        self.mean += shift * (len(x) / self.n)
        if self.center == "example":
            row_means = x.mean(1)
            x -= row_means[:, None]
        if self.gram is None:
            if self.center == "example":
                self.row_means.append(row_means)
            return
        if self.center == "unit":
            x -= mean
            self.gram.add_outer(shift, before * len(x) / self.n)
        self.gram.add(x.T)

    @property
    def energy(self) -> float:
        """Σ‖φ‖² over examples, before centring."""
        return float(self._energy)

    @property
    def mean_square(self) -> float:
        """‖mean φ‖² before centring."""
        return float(self.mean @ self.mean)

    def result(self, gram: Whole | Half | None = None) -> Products:
        """What was summed, with the product from elsewhere where none was summed here."""
        found = self.gram if gram is None else gram
        assert found is not None
        return Products(
            gram=found,
            n=self.n,
            dimension=self.dimension,
            energy=self.energy,
            mean_square=self.mean_square,
            unit=self.unit,
            dtype=self.dtype,
        )


def column_products(features: Features, sums: RowSums, *, halved: bool | None = None) -> Products:
    """XXᵀ from blocks of at least n columns, each centred before it is multiplied.

    `sums` is a first pass over the same features; its centring is used.
    """
    n, d = sums.n, sums.dimension
    width = max(n, PIECE // n)
    gram = empty_gram(n, sums.mean, halved=halved)
    for start in range(0, d, width):
        x = in_units(features.columns(start, min(start + width, d)), sums.unit)
        if sums.center == "unit":
            x -= x.mean(0)
        elif sums.center == "example":
            x -= torch.cat(sums.row_means)[:, None]
        gram.add(x)
    return sums.result(gram)


def wide_products(features: InMemory, center: str, *, halved: bool | None = None) -> Products:
    """XXᵀ of features that lie in memory, from thin blocks of columns and without a first pass."""
    n, d = features.matrix.shape
    unit = unit_for(largest(features.matrix))
    width = max(THIN, PIECE // n)

    def blocks() -> list[tuple[int, int]]:
        return [(start, min(start + width, d)) for start in range(0, d, width)]

    gram: Whole | Half | None = None
    row_means: Tensor | None = None
    if center == "example":
        for block in blocks():
            part = in_units(features.columns(*block), unit).sum(1, keepdim=True) / d
            row_means = part if row_means is None else row_means + part
    for block in blocks():
        x = in_units(features.columns(*block), unit)
        if gram is None:
            gram = empty_gram(n, x, halved=halved)
            energy, mean_square = x.new_zeros(()), x.new_zeros(())
        energy += torch.linalg.vector_norm(x) ** 2
        means = x.mean(0)
        mean_square += means @ means
        if center == "unit":
            x -= means
        elif row_means is not None:
            x -= row_means
        gram.add(x)
    assert gram is not None
    return Products(
        gram=gram,
        n=n,
        dimension=d,
        energy=float(energy),
        mean_square=float(mean_square),
        unit=unit,
        dtype=features.matrix.dtype,
    )


def in_units(x: Tensor, unit: float) -> Tensor:
    """x / unit in place, without a pass over x where that is 1."""
    return x if unit == 1.0 else x.div_(unit)
