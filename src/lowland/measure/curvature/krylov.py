"""A Krylov space of a symmetric matrix known by its products, grown block by block."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Multiply = Callable[[Tensor], Tensor]
"""Rows (k, d) -> A times each of them (k, d)."""

CHUNK = 2**16
"""Columns of the basis that are rotated at a time, so that no second basis is needed."""


class NotFiniteError(ArithmeticError):
    """A product held NaN or infinity."""


@dataclass(frozen=True)
class Symmetric:
    """A symmetric matrix by its products.

    Attributes:
        multiply: rows -> A times each.
        size: d.
        dtype: of vectors.
        device: of vectors.
    """

    multiply: Multiply
    size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def eps(self) -> float:
        """The spacing of numbers around 1."""
        return float(torch.finfo(self.dtype).eps)


@dataclass(frozen=True, eq=False)
class Ritz:
    """Eigenvalues of the projection VᵀAV, ascending.

    Attributes:
        values: (m,), float64, on the CPU.
        vectors: (m, m), in the basis V, one per column.
        residuals: (m,): ‖A·y - θ·y‖ of each y = V·s, as the recurrence has it.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


class KrylovSpace:
    """An orthonormal basis V (rows), the projection T = V·A·Vᵀ, and the block that comes next.

    A·Vᵀ = Vᵀ·T + Fᵀ·R·(last rows): the block F that is orthogonal to V is all that A leads out of
    the space by, also after a restart, so that residuals of Ritz pairs need no further products.
    Every new vector is orthogonalised against all before, twice, and against `locked`.

    Args:
        matrix: A. With `locked`, the matrix P·A·P is meant, where P projects onto what is
            orthogonal to them.
        capacity: most vectors in the basis; memory (capacity + block)·d.
        block: vectors multiplied at a time.
        draws: for the first block, and where the space is found to be invariant.
        locked: orthonormal rows (l, d).
    """

    def __init__(
        self,
        matrix: Symmetric,
        capacity: int,
        block: int,
        draws: torch.Generator,
        locked: Tensor | None = None,
    ) -> None:
        self.matrix, self.draws = matrix, draws
        self.locked = locked if locked is not None and len(locked) else None
        self.reachable = matrix.size - (0 if self.locked is None else len(self.locked))
        self.capacity = min(capacity, self.reachable)
        self.block = min(block, self.capacity)
        self.filled = 0
        self.products = 0
        shape = (self.capacity + self.block, matrix.size)
        self._basis = torch.empty(shape, dtype=matrix.dtype, device=matrix.device)
        self._T = torch.zeros(self.capacity, self.capacity, dtype=torch.float64)
        self._pending = self.block
        self._odd, self._compared = 0.0, 0
        self._coupling = torch.zeros(self.block, self.block, dtype=torch.float64)
        first = torch.stack([self._drawn() for _ in range(self.block)])
        self._unlock(first)
        self._norm = 0.0
        self._orthonormal(first, 0)

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans all that can be reached: then T has every eigenvalue."""
        return self.filled == self.reachable

    @property
    def full(self) -> bool:
        """Whether there is no room for the pending block."""
        return not self.exhausted and self.filled + self._pending > self.capacity

    @property
    def noise(self) -> float:
        """About how long the part of a product is that is rounding, or not the same every time.

        A is symmetric: what a new product has along the vectors before is known from theirs.
        """
        if self._compared == 0:
            return 0.0
        return math.sqrt(self._odd / self._compared * self.matrix.size)

    def _note_noise(self, overlap: Tensor) -> None:
        known = torch.zeros_like(overlap)
        if len(overlap):
            known[len(overlap) - self._coupling.shape[1] :] = self._coupling.T
        self._odd += float((overlap - known).square().sum())
        self._compared += overlap.numel()

    def expand(self) -> None:
        """Multiply the pending block, take it into the basis, and find the next."""
        start, end = self.filled, self.filled + self._pending
        rows = self.matrix.multiply(self._basis[start:end])
        self.products += end - start
        if not bool(torch.isfinite(rows).all()):
            raise NotFiniteError
        basis = self._basis[:end]
        self._unlock(rows)
        overlap = torch.zeros(end, end - start, dtype=torch.float64)
        for _ in range(2):
            along = basis @ rows.T
            rows -= along.T @ basis
            overlap += along.cpu().double()
        self._unlock(rows)
        self._note_noise(overlap[:start])
        self._T[:end, start:end] = overlap
        self._T[start:end, :end] = overlap.T
        inner = self._T[start:end, start:end]
        self._T[start:end, start:end] = (inner + inner.T) / 2
        self.filled = end
        self._norm = max(self._norm, float(torch.linalg.vector_norm(overlap, dim=0).max()))
        self._orthonormal(rows, end)

    def ritz(self) -> Ritz:
        """The Ritz pairs of the space as it is."""
        m = self.filled
        values, vectors = torch.linalg.eigh(self._T[:m, :m])
        last = vectors[m - self._coupling.shape[1] :]
        residuals = torch.linalg.vector_norm(self._coupling @ last, dim=0)
        return Ritz(values, vectors, residuals)

    def step_length(self) -> float:
        """β: the length of the part of the last product that led out of the space (block of 1)."""
        return float(self._coupling.abs().sum())

    def rows(self, coordinates: Tensor) -> Tensor:
        """Vectors (k, d) from their coordinates (m, k) in the basis."""
        small = coordinates.T.to(self.matrix.device, self.matrix.dtype)
        return small @ self._basis[: self.filled]

    def restart(self, coordinates: Tensor) -> None:
        """Keep only the span of some Ritz vectors, given by their coordinates (m, p).

        What leads out of the new space is still the pending block, so the space stays Krylov.
        """
        kept = coordinates.shape[1]
        small = coordinates.T.to(self.matrix.device, self.matrix.dtype)
        for columns in range(0, self.matrix.size, CHUNK):
            part = self._basis[:, columns : columns + CHUNK]
            part[:kept] = small @ part[: self.filled]
        pending = self._basis[self.filled : self.filled + self._pending].clone()
        self._basis[kept : kept + self._pending] = pending
        projected = coordinates.T @ self._T[: self.filled, : self.filled] @ coordinates
        self._T.zero_()
        self._T[:kept, :kept] = (projected + projected.T) / 2
        last = coordinates[self.filled - self._coupling.shape[1] :]
        self._coupling = self._coupling @ last
        self.filled = kept

    def _drawn(self) -> Tensor:
        size, dtype = self.matrix.size, self.matrix.dtype
        return torch.randn(size, generator=self.draws, dtype=dtype).to(self.matrix.device)

    def _unlock(self, rows: Tensor) -> None:
        if self.locked is not None:
            rows -= (rows @ self.locked.T) @ self.locked

    def _orthonormal(self, rows: Tensor, start: int) -> None:
        """Put an orthonormal basis of `rows` behind the basis, and remember rows = Rᵀ·F.

        A row with nothing new in it is replaced by a random one that A does not lead to.
        """
        count = min(len(rows), self.reachable - start)
        self._coupling = torch.zeros(count, len(rows), dtype=torch.float64)
        self._pending = count
        floor = 10 * self.matrix.eps * max(self._norm, float(torch.finfo(self.matrix.dtype).tiny))
        taken = 0
        for column, row in enumerate(rows):
            done = self._basis[start : start + taken]
            for _ in range(2):
                along = done @ row
                row = row - along @ done
                self._coupling[:taken, column] += along.cpu().double()
            length = float(torch.linalg.vector_norm(row))
            if taken < count and (length > floor or start == 0):
                self._coupling[taken, column] = length
                self._basis[start + taken] = self._cleaned(row / length, length, start + taken)
                taken += 1
        for place in range(taken, count):
            self._basis[start + place] = self._fresh(start + place)

    def _cleaned(self, row: Tensor, length: float, filled: int) -> Tensor:
        """What was left of a product after cancellation holds rounding errors along the basis."""
        if length > self.matrix.eps**0.5 * self._norm:
            return row
        return self._apart(row, filled)

    def _apart(self, row: Tensor, filled: int) -> Tensor:
        """A unit vector along what is left of `row` beside the first rows of the basis."""
        basis = self._basis[:filled]
        for _ in range(3):
            row = torch.nn.functional.normalize(row, dim=0, eps=0.0)
            row -= (basis @ row) @ basis
            self._unlock(row)
        return torch.nn.functional.normalize(row, dim=0, eps=0.0)

    def _fresh(self, filled: int) -> Tensor:
        """A random direction orthogonal to the first rows of the basis and to what is locked."""
        return self._apart(self._drawn(), filled)
