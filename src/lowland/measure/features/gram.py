"""Sums of A·Aᵀ, whole or without their upper half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

HALVED_FROM = 2048
"""Sums this large are kept as halves on the CPU: half the memory, and reduced where they lie."""

COLUMNS = 1024
"""Width of the blocks of columns that a half is kept in: 10% more than half at size 10,240.

A multiple of the width of the band that halves are reduced to."""


class Gram(Protocol):
    """A symmetric positive semidefinite matrix (size, size) in float64 that is summed up."""

    size: int

    def add(self, a: Tensor) -> None:
        """Add A·Aᵀ for A (size, any)."""
        ...

    def add_outer(self, v: Tensor, weight: float) -> None:
        """Add weight·v·vᵀ."""
        ...


@dataclass(frozen=True)
class Whole:
    """The matrix as one tensor."""

    matrix: Tensor

    @property
    def size(self) -> int:
        """Rows, and columns."""
        return len(self.matrix)

    def add(self, a: Tensor) -> None:
        """Add A·Aᵀ. On the CPU through NumPy, whose symmetric product takes half the work."""
        if a.device.type != "cpu":
            self.matrix.addmm_(a, a.T)
            return
        array = a.numpy()
        self.matrix.add_(torch.from_numpy(array @ array.T))

    def add_outer(self, v: Tensor, weight: float) -> None:
        """Add weight·v·vᵀ."""
        self.matrix.addr_(v, v, alpha=weight)


@dataclass(frozen=True)
class Half:
    """Blocks of `width` columns, each from its first row on the diagonal down.

    The squares on the diagonal are whole; what lies right of them is not kept.
    """

    blocks: list[Tensor]
    size: int
    width: int

    def add(self, a: Tensor) -> None:
        """Add A·Aᵀ, block by block and in place."""
        for start, block in self.enumerate(0):
            block.addmm_(a[start:], a[start : start + block.shape[1]].T)

    def add_outer(self, v: Tensor, weight: float) -> None:
        """Add weight·v·vᵀ."""
        for start, block in self.enumerate(0):
            block.addr_(v[start:], v[start : start + block.shape[1]], alpha=weight)

    def enumerate(self, first: int) -> list[tuple[int, Tensor]]:
        """The blocks of the lower right part that begins at `first`: first column, and the rows."""
        found = []
        for number in range(first // self.width, len(self.blocks)):
            start = number * self.width
            inside = max(first - start, 0)
            found.append((start + inside, self.blocks[number][inside:, inside:]))
        return found

    def times(self, v: Tensor, first: int = 0) -> Tensor:
        """The product of the lower right part that begins at `first` with v (size - first, any).

        What comes back is laid out by columns, which makes thin products twice as fast.
        """
        out = v.new_zeros(v.shape[1], v.shape[0]).T
        for start, block in self.enumerate(first):
            low, high = start - first, start - first + block.shape[1]
            out[low:].addmm_(block, v[low:high])
            if high < len(v):
                out[low:high].addmm_(block[block.shape[1] :].T, v[high:])
        return out


def empty_gram(size: int, like: Tensor, *, halved: bool | None = None) -> Whole | Half:
    """A sum that holds zeros, of the type and on the device of `like`.

    `halved` None means: on the CPU, from `HALVED_FROM` on.
    """
    if halved is None:
        halved = like.device.type == "cpu" and size >= HALVED_FROM
    if not halved:
        return Whole(like.new_zeros(size, size))
    starts = range(0, size, COLUMNS)
    blocks = [like.new_zeros(size - start, min(COLUMNS, size - start)) for start in starts]
    return Half(blocks, size, COLUMNS)
