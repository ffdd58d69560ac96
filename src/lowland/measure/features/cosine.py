"""Cosine similarities, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowland.measure.features.matrices import double

TIE = 1e-12
"""Cosine similarities closer than this are ties."""

TABLE = 2**22
"""Similarities held at a time (32 MiB)."""

ROWS = 2**24
"""Features of either side held as directions at a time (128 MiB)."""


def directions(rows: Tensor) -> Tensor:
    """Rows divided by their norms, as float64; zero rows stay zero."""
    rows = double(rows)
    rows /= rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(norms.clamp_min(torch.finfo(torch.float64).tiny))


def pieces(count: int, beside: int, width: int) -> tuple[int, int]:
    """How many rows of `count`, and how many of `beside`, to compare at a time.

    At most `TABLE` similarities and, of each, `ROWS` features (but one row at least): about as many
    of both, so that neither is converted often, and whole where they are few.
    """
    room = max(1, ROWS // width)
    first = max(1, min(count, room, max(int(TABLE**0.5), TABLE // beside)))
    return first, max(1, min(beside, room, TABLE // first))


def starts(rows: Tensor, step: int) -> Iterator[tuple[int, Tensor]]:
    """Pieces of `step` rows as directions, each with the place of its first row."""
    for start in range(0, len(rows), step):
        yield start, directions(rows[start : start + step])
