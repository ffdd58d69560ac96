"""A small matrix that stands for all examples: Frequent Directions, and what it is sure to miss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.features.matrices import double, largest, unit_for
from lowland.measure.features.products import LARGEST, in_units
from lowland.measure.features.source import Features


@dataclass(kw_only=True)
class FrequentDirections:
    """A matrix B of at most `size` rows with 0 ≼ AᵀA - BᵀB ≼ missed·I (Liberty 2013).

    A is the matrix of all centred examples. Rows are gathered; whenever there are `size`, they are
    rotated to orthogonal ones, the squared length of the (size/2 + 1)-th is taken off all squared
    lengths, and half are gone. `missed` is the sum of what was taken off: at most
    ‖A - A_k‖_F²/(size/2 - k) for any k, A_k the best of rank k.

    Attributes:
        size: rows kept.
        center: as for `feature_rank`.
        n, dimension: of A.
        unit: everything is in units of it; 1, except where squares would leave float64.
        mean: of all examples, uncentred.
        energy: Σ‖φ‖² before centring.
        total: ‖A‖_F².
        missed: see above.
        shrunk: how often rows were made fewer.
    """

    size: int
    center: str
    n: int = 0
    dimension: int = 0
    unit: float = 1.0
    shrunk: int = 0

    def read(self, features: Features) -> FrequentDirections:
        """One pass over the features."""
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
        return self

    def _start(self, rows: Tensor, unit: float) -> None:
        self.dimension, self.unit, self.dtype = rows.shape[1], unit, rows.dtype
        self.mean = double(rows[0]).zero_()
        self.energy, self.total, self.missed = (self.mean.new_zeros(()) for _ in range(3))
        self._buffer = self.mean.new_empty(self.size, self.dimension)
        self._filled = 0

    def _add(self, x: Tensor) -> None:
        """Add a piece, which is overwritten. Pieces are joined as in `RowSums`."""
        self.energy += torch.linalg.vector_norm(x) ** 2
        mean = x.mean(0)
        shift = mean - self.mean
        before, self.n = self.n, self.n + len(x)
        self.mean += shift * (len(x) / self.n)
        if self.center == "example":
            x -= x.mean(1, keepdim=True)
        elif self.center == "unit":
            x -= mean
            self._append((shift * (before * len(x) / self.n) ** 0.5)[None])
        self._append(x)

    def _append(self, x: Tensor) -> None:
        self.total += torch.linalg.vector_norm(x) ** 2
        while len(x):
            if self._filled == self.size:
                self._shrink()
            taken = x[: self.size - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            x = x[len(taken) :]

    def _shrink(self) -> None:
        b, kept = self._buffer, self.size // 2
        values, vectors = torch.linalg.eigh(b @ b.T)
        values, vectors = values.flip(0).clamp_min_(0.0), vectors.flip(1)
        off = values[kept]
        scale = ((values[:kept] - off) / values[:kept].clamp_min(1e-300)).sqrt_()
        b[:kept] = scale[:, None] * (vectors[:, :kept].T @ b)
        self.missed += off
        self._filled = kept
        self.shrunk += 1

    @property
    def rows(self) -> Tensor:
        """B."""
        return self._buffer[: self._filled]


@dataclass(frozen=True)
class Projection:
    """What one pass knows exactly about A on a subspace with orthonormal basis Q (d, q).

    Attributes:
        inside: H = QᵀAᵀAQ.
        image: AᵀAQ.
        coupling: ‖·‖² of what H leaves out, RᵀR with R = (I - QQᵀ)AᵀAQ.
    """

    inside: Tensor
    image: Tensor
    coupling: Tensor


def project(features: Features, sketch: FrequentDirections, basis: Tensor) -> Projection:
    """One pass over the features of `sketch`."""
    inside = basis.new_zeros(basis.shape[1], basis.shape[1])
    image = torch.zeros_like(basis)
    for rows in features.rows():
        x = in_units(double(rows), sketch.unit)
        if sketch.center == "example":
            x -= x.mean(1, keepdim=True)
        elif sketch.center == "unit":
            x -= sketch.mean
        seen = x @ basis
        inside += seen.T @ seen
        image += x.T @ seen
    outside = image - basis @ inside
    return Projection(inside, image, outside.T @ outside)
