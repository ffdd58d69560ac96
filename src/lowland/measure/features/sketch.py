"""Small matrices that stand for all examples, and what they are sure to miss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.features.matrices import double, largest, unit_for
from lowland.measure.features.products import LARGEST, in_units
from lowland.measure.features.reduction import CONFIDENT, PROBES
from lowland.measure.features.source import Features

POWERS = 4
"""Passes that bound what lies outside a random subspace: to 1.6·(number of directions)^(1/8)."""


@dataclass(kw_only=True)
class Moments:
    """Size, mean and energy of all examples, from one pass; A is the matrix of them centred.

    Attributes:
        center: as for `feature_rank`.
        n, dimension: of A.
        unit: everything is in units of it; 1, except where squares would leave float64.
        mean: of all examples, uncentred.
        energy: Σ‖φ‖² before centring.
        total: ‖A‖_F².
    """

    center: str
    n: int = 0
    dimension: int = 0
    unit: float = 1.0

    def read(self, features: Features) -> Self:
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
        self.energy, self.total = (self.mean.new_zeros(()) for _ in range(2))

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
        """Rows that have the same XᵀX as the centred examples."""
        self.total += torch.linalg.vector_norm(x) ** 2

    def centred(self, features: Features, dtype: torch.dtype) -> Iterator[Tensor]:
        """The rows of A, piece by piece: float64 in units, float32 in units of their size."""
        scale = self.unit
        if dtype != torch.float64:
            scale *= max(float(self.total) / self.n, 1e-200) ** 0.5
        mean = (self.mean * (self.unit / scale)).to(dtype)
        for rows in features.rows():
            if torch.float64 in (dtype, rows.dtype):
                x = in_units(double(rows), scale).to(dtype)
            else:
                x = rows.to(self.mean.device, dtype, copy=True).div_(scale)
            if self.center == "example":
                x -= x.mean(1, keepdim=True)
            elif self.center == "unit":
                x -= mean
            yield x


@dataclass(kw_only=True)
class FrequentDirections(Moments):
    """A matrix B of at most `size` rows with 0 ≼ AᵀA - BᵀB ≼ missed·I (Liberty 2013).

    Rows are gathered; whenever there are `size`, they are rotated to orthogonal ones, the squared
    length of the (size/2 + 1)-th is taken off all squared lengths, and half are gone. `missed` is
    the sum of what was taken off: at most ‖A - A_k‖_F²/(size/2 - k) for any k, A_k the best of
    rank k.

    Attributes:
        size: rows kept.
        missed: see above.
        shrunk: how often rows were made fewer.
    """

    size: int
    shrunk: int = 0

    def _start(self, rows: Tensor, unit: float) -> None:
        super()._start(rows, unit)
        self.missed = self.mean.new_zeros(())
        self._buffer = self.mean.new_empty(self.size, self.dimension)
        self._filled = 0

    def _append(self, x: Tensor) -> None:
        super()._append(x)
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

    def outside(self, basis: Tensor) -> float:
        """The most that any direction orthogonal to `basis` can hold: missed + ‖B(I - QQᵀ)‖²."""
        left = self.rows - (self.rows @ basis) @ basis.T
        return float(self.missed) + float(torch.linalg.eigvalsh(left @ left.T)[-1].clamp_min(0.0))


def random_directions(features: Features, moments: Moments, size: int, seed: int) -> Tensor:
    """Directions (d, size) that hold most of the energy: AᵀA·AᵀΩ for Ω of normal numbers.

    Two passes, in float32: nothing that is claimed rests on them (Halko, Martinsson, Tropp 2011).
    """
    generator = torch.Generator().manual_seed(seed)
    single = torch.float32
    first = moments.mean.new_zeros(moments.dimension, size, dtype=single)
    for x in moments.centred(features, single):
        omega = torch.randn(len(x), size, generator=generator)
        first.addmm_(x.T, omega.to(x.device))
    basis = orthonormal(first)
    second = torch.zeros_like(basis)
    for x in moments.centred(features, single):
        second.addmm_(x.T, x @ basis)
    return second.double()


def orthonormal(directions: Tensor) -> Tensor:
    """Orthonormal columns that span the same."""
    basis: Tensor = torch.linalg.qr(directions)[0]
    return basis


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


def project(features: Features, moments: Moments, basis: Tensor) -> Projection:
    """One pass over the features of `moments`."""
    inside = basis.new_zeros(basis.shape[1], basis.shape[1])
    image = torch.zeros_like(basis)
    for x in moments.centred(features, torch.float64):
        seen = x @ basis
        inside += seen.T @ seen
        image.addmm_(x.T, seen)
    outside = image - basis @ inside
    return Projection(inside, image, outside.T @ outside)


def largest_outside(features: Features, moments: Moments, basis: Tensor, seed: int) -> float:
    """A bound on the largest eigenvalue of C = (I - QQᵀ)AᵀA(I - QQᵀ), true but for 1e-9.

    λ₁^(2p) ≤ ‖Cᵖ‖_F², which exceeds 36 times the mean of ‖Cᵖz‖² over 16 normal vectors z with
    probability below 1e-9 (`reduction.CONFIDENT`). `POWERS` passes.
    """
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(moments.dimension, PROBES, generator=generator, dtype=torch.float64)
    v = v.to(basis)
    scale = float(moments.total)
    for _ in range(POWERS):
        v = v - basis @ (basis.T @ v)
        image = torch.zeros_like(v)
        for x in moments.centred(features, torch.float64):
            image.addmm_(x.T, x @ v)
        v = (image - basis @ (basis.T @ image)) / scale
    mean = float((v * v).sum()) / PROBES
    return scale * float((CONFIDENT**2 * mean) ** (0.5 / POWERS))
